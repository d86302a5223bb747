"""The experiments by name: one file of `definitions/` each, or a file of the user's own."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.errors import ConfigError, UnknownNameError
from excise.experiments.definition import Definition, Scale
from excise.experiments.kinds import KINDS
from excise.experiments.settings import merged

ALL = "all"
_ENDING = ".toml"


@cache
def names() -> tuple[str, ...]:
    """All experiments of the package, in alphabetical order."""
    folder = files("excise.experiments") / "definitions"
    found = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(_ENDING) for name in found if name.endswith(_ENDING)))


def groups() -> dict[str, tuple[str, ...]]:
    """Name of several experiments -> them: `all`, and what names have in common up to a hyphen."""
    found: dict[str, list[str]] = {}
    for name in names():
        parts = name.split("-")
        for stop in range(1, len(parts)):
            found.setdefault("-".join(parts[:stop]), []).append(name)
    several = {group: tuple(own) for group, own in found.items() if len(own) > 1}
    return {ALL: names(), **several}


def chosen(given: Iterable[str]) -> tuple[str, ...]:
    """The experiments that names, groups and files stand for, once each.

    Raises:
        UnknownNameError: nothing has that name.
    """
    known = groups()
    found: list[str] = []
    for name in given:
        if name in known:
            found += known[name]
        elif name in names() or Path(name).suffix == _ENDING:
            found.append(name)
        else:
            raise UnknownNameError("experiment", name, (*names(), *known))
    return tuple(dict.fromkeys(found))


def definition(name: str, scale: Scale = "paper") -> Definition:
    """An experiment as it is done at a scale.

    Args:
        name: of an experiment of the package, or the path of a file.
        scale: a table of this name in the file is put over the rest of it.

    Raises:
        UnknownNameError: there is no such experiment, or no such kind.
        ConfigError: the file cannot be read, or something in it makes no sense.
    """
    values, place = _read(name)
    scales = {key: values.pop(key, {}) for key in ("small", "paper")}
    values = merged(values, scales[scale])
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise UnknownNameError(f"kind of experiment (in {place})", kind, KINDS)
    try:
        return KINDS[kind].model_validate({**values, "name": Path(name).stem})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"experiment {place}, {where}: {first['msg']}.") from error


def _read(name: str) -> tuple[dict[str, Any], str]:
    if name in names():
        entry = files("excise.experiments") / "definitions" / f"{name}{_ENDING}"
        return tomllib.loads(entry.read_text(encoding="utf-8")), name
    if Path(name).suffix != _ENDING:
        raise UnknownNameError("experiment", name, names())
    try:
        return tomllib.loads(Path(name).read_text(encoding="utf-8")), name
    except OSError as error:
        raise ConfigError(f"cannot read experiment {name}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"experiment {name} is no valid TOML: {error}.") from error


def listed() -> Mapping[str, Definition]:
    """Name -> experiment, at the paper's scale."""
    return {name: definition(name) for name in names()}
