"""From the options of the command line to a `RunConfig`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from excise.cli.options import DEFAULT, TESTBED
from excise.errors import ConfigError

if TYPE_CHECKING:
    from excise.config import RunConfig

_PLACES: Mapping[str, tuple[str, ...]] = {
    "model": ("model",),
    "task": ("tasks",),
    "preset": ("preset",),
    "method": ("method",),
    "limit": ("limit",),
    "instructions": ("instructions",),
    "n": ("selection", "n"),
    "seed": ("seed",),
    "trials": ("trials",),
    "controls": ("controls",),
    "dtype": ("dtype",),
    "device": ("device",),
    "device_map": ("device_map",),
    "data_dir": ("data_dir",),
    "apply_chat_template": ("apply_chat_template",),
    "split_by": ("split_by",),
    "test_instructions": ("test_instructions",),
    "tune_instances": ("selection", "tune_instances"),
    "find_instances": ("attribution", "instances"),
    "find_instructions": ("attribution", "instructions"),
    "normalisation": ("scoring", "normalisation"),
    "mode": ("scoring", "mode"),
    "max_memory": ("scoring", "max_memory_mib"),
    "max_loss": ("guard", "max_loss"),
    "continuations": ("continuation", "continuations"),
    "classifier": ("continuation", "classifier"),
    "revision": ("revision",),
    "neurons": ("neurons",),
    "no_neurons": ("no_neurons",),
}
"""Parameter of a verb -> option of the configuration."""


def resolve(context: typer.Context) -> RunConfig:
    """The options of an invocation: preset, configuration file, then the command line.

    Args:
        context: the verb's context; its parameters are named as in the table above, those that were
            not given are None.

    Raises:
        ConfigError: see `excise.config.resolve`.
    """
    from excise import config

    resolved = config.resolve(given(context), file=context.params.get("config"))
    if (resolved.model or "").startswith(TESTBED) and "tasks" not in resolved.model_fields_set:
        # Models with a vocabulary of their own, which reads no other task.
        resolved = resolved.model_copy(update={"tasks": ("testbed",)})
    _refuse_same_names(resolved.tasks)
    # `default` must also override a model that the file names.
    return resolved.model_copy(update={"model": None}) if resolved.model == DEFAULT else resolved


def given(context: typer.Context) -> dict[str, Any]:
    """What the command line says, as options of the configuration, nested by section.

    Args:
        context: as in `resolve`.

    Raises:
        ConfigError: an option that cannot be read.
    """
    parameters = dict(context.params)
    overrides: dict[str, Any] = {}
    for name, place in _PLACES.items():
        value = parameters.get(name)
        if name == "task":
            value = names_of(value, "--task")
        elif name == "n" and value is not None:
            value = _number_of_neurons(value)
        elif name == "max_loss":
            value = assigned_numbers(value, "--max-loss")
        if value is not None:
            _put(overrides, place, value)
    for assignment in parameters.get("assignments") or ():
        _put(overrides, *_assigned(assignment))
    return overrides


def _refuse_same_names(tasks: Iterable[str]) -> None:
    """Results are kept by task name, and a user's file is named by its stem."""
    seen: set[str] = set()
    for name in (Path(task).stem for task in tasks):
        if name in seen:
            raise ConfigError(f"two tasks are called {name!r}; rename a file, or give it once.")
        seen.add(name)


def names_of(given: Iterable[str] | None, option: str) -> list[str] | None:
    """The names of a repeatable option that also takes commas; None where it was not given.

    Raises:
        ConfigError: a name is empty.
    """
    names: list[str] = []
    for value in given or ():
        # The path of a file may hold a comma.
        names += [value] if Path(value).exists() else [n.strip() for n in value.split(",")]
    if "" in names:
        raise ConfigError(f"{option} got an empty name.")
    return names or None


def assigned_numbers(given: Iterable[str] | None, option: str) -> dict[str, float] | None:
    """`NAME=NUMBER`, several of them separated by commas, as a mapping; None where none is given.

    Raises:
        ConfigError: something else.
    """
    limits: dict[str, float] = {}
    for assignment in (part for value in given or () for part in value.split(",")):
        name, _, limit = (part.strip() for part in assignment.rpartition("="))
        try:
            limits[name] = float(limit)
        except ValueError:
            name = ""
        if not name:
            raise ConfigError(
                f"{option} needs NAME=LIMIT, for example disambiguated=0.02, not {assignment!r}."
            )
    return limits or None


def _number_of_neurons(given: str) -> int | str:
    if given == "auto":
        return given
    try:
        return int(given)
    except ValueError:
        raise ConfigError(f"--n must be a number or auto, not {given!r}.") from None


def _assigned(assignment: str) -> tuple[tuple[str, ...], Any]:
    """`section.key=value` as place and value; a value that is no TOML is taken as a text."""
    key, equals, value = (part.strip() for part in assignment.partition("="))
    place = tuple(key.split("."))
    if not equals or not all(part.isidentifier() for part in place):
        raise ConfigError(f"--set needs section.key=value, not {assignment!r}.")
    try:
        return place, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return place, value


def _put(overrides: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    inner = overrides
    for name in place[:-1]:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"option {'.'.join(place)} is given beside its whole section.")
    inner[place[-1]] = value
