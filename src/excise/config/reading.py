"""Options out of presets, files and the command line, and back to TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from excise.config.presets import PRESETS
from excise.config.run import RunConfig
from excise.errors import ConfigError, UnknownNameError

_COUNTS = (
    ("attribution", "instructions"),
    ("selection", "tune_instances"),
    ("selection", "tune_instructions"),
    ("", "limit"),
    ("", "test_instructions"),
)


def resolve(overrides: Mapping[str, Any], *, file: Path | None = None) -> RunConfig:
    """The options of a run: preset, then configuration file, then `overrides`.

    Args:
        overrides: option -> value, nested by section; None means "not given".
        file: a TOML file with the same names.

    Raises:
        ConfigError: a file that is no TOML, an option that is not known or has a wrong value.
        UnknownNameError: a preset that is not known.
    """
    from_file = _read_toml(file) if file else {}
    given = _without_none(overrides)
    name = given.get("preset", from_file.get("preset", "v2"))
    if name not in PRESETS:
        raise UnknownNameError("preset", str(name), PRESETS)
    merged = _merge(_merge(PRESETS[name].model_dump(), from_file), given)
    try:
        return RunConfig.model_validate({**merged, "preset": name})
    except ValidationError as error:
        raise ConfigError(_one_line(error, file)) from error


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML; counts that are None are `all`, other options left out."""
    values = config.model_dump(mode="json")
    for section, name in _COUNTS:
        inner = values[section] if section else values
        inner[name] = inner[name] or "all"
    return tomli_w.dumps(_without_none(values))


def read_record(values: Mapping[str, Any], file: Path) -> RunConfig:
    """The configuration that a record holds; options that it does not name have their defaults.

    Args:
        values: what `model_dump(mode="json")` gave when the record was written.
        file: the record, for the error.

    Raises:
        ConfigError: an option that is not known or has a wrong value.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, file)) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {file} is no valid TOML: {error}") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = (
            _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return merged


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _one_line(error: ValidationError, file: Path | None) -> str:
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"]) or "configuration"
    where = f" (from {file} or the command line)" if file else ""
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    # A check of a whole section would show all of it.
    got = "" if isinstance(given, dict) else f"; got {str(given)[:80]!r}"
    return f"option {option}{where}: {message}{got}."
