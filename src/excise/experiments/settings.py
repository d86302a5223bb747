"""Options of an experiment: preset, scale, definition, model."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field, ValidationError

from excise.config import RunConfig, resolve
from excise.config.section import Section
from excise.errors import ConfigError
from excise.experiments.definition import Definition, Options, Scale


class ModelPreset(Section):
    """What is known about a model before it is asked."""

    names: tuple[str, ...]
    """Names on the command line; the first is the one that published numbers go by."""
    note: str
    """What it is in the studies, for the page."""
    options: Options = Field(default_factory=dict)
    small: Options = Field(default_factory=dict)
    """Options at the small scale."""
    paper: Options = Field(default_factory=dict)
    """Options at the paper's scale."""
    replace: Mapping[str, str] = Field(default_factory=dict)
    """Task of a definition -> the task that this model is asked instead."""
    only: str = ""
    """Why it can be asked no other task; empty where it can."""


@cache
def _file() -> Mapping[str, Any]:
    text = (files("excise.experiments") / "models.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def model_presets() -> tuple[ModelPreset, ...]:
    """All models with settings of their own, in the order of the file."""
    return tuple(ModelPreset.model_validate(entry) for entry in _file()["model"])


def preset_of(model: str | None) -> ModelPreset:
    """The settings of a model; of one that is not listed, none.

    Args:
        model: as on the command line; None is the embedded default.
    """
    name = model or "default"
    for entry in model_presets():
        if name.lower() in (known.lower() for known in entry.names):
            return entry
    return ModelPreset(names=(name,), note="no model of the studies")


def configure(
    definition: Definition,
    model: str | None,
    scale: Scale,
    given: Options,
) -> RunConfig:
    """The options of an experiment; later ones win: preset, scale, definition, model, `given`.

    Args:
        definition: the experiment.
        model: as on the command line; None is the embedded default.
        scale: how much is measured.
        given: what the user asks for.

    Raises:
        ConfigError: an option that is not known, or has a wrong value.
    """
    preset = preset_of(model)
    options: Mapping[str, Any] = {"preset": definition.preset}
    own = preset.small if scale == "small" else preset.paper
    for more in (_file()["scale"].get(scale, {}), definition.options, preset.options, own, given):
        options = merged(options, more)
    name = None if model in (None, "default") else model
    return resolve({**options, "model": name})


def with_options(config: RunConfig, options: Options) -> RunConfig:
    """A configuration with some of its options changed.

    Raises:
        ConfigError: an option that is not known, or has a wrong value.
    """
    if not options:
        return config
    try:
        return RunConfig.model_validate(merged(config.model_dump(), options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"option {where} of an experiment: {first['msg']}.") from error


def merged(base: Options, over: Options) -> dict[str, Any]:
    """Options with others put over them, section by section."""
    found = dict(base)
    for key, value in over.items():
        inner = found.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        found[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return found
