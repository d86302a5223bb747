"""Instruction sets: the paraphrases of a task's request, and the layout of its prompt.

A set is a TOML file with `instructions = ["...", ...]` and, if wanted, `prompt_format = "..."`, or
a text file with one instruction per line. The sets of this project lie in `instructions/*.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from string import Formatter

from excise.errors import ConfigError

_KEYS = ("instructions", "prompt_format")
_ALWAYS_REQUIRED = ("instruction", "options")


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """Paraphrases of one request."""

    instructions: tuple[str, ...]
    """At least one, all different, no outer white space."""
    prompt_format: str
    """`str.format` layout over `instruction`, `options` and the fields of the instances."""


def packaged(name: str) -> InstructionSet:
    """The instruction set `name` of this project, for example `bbq`."""
    file = files("excise.tasks") / "instructions" / f"{name}.toml"
    return _from_toml(file.read_text(encoding="utf-8"), f"{name}.toml", own_format="")


def read(path: Path, own_format: str) -> InstructionSet:
    """Read the user's own instruction set.

    Args:
        path: A `.toml` file, or a `.txt` file with one instruction per line (empty lines are
            skipped).
        own_format: The task's own prompt layout, for a file that gives none.

    Raises:
        ConfigError: The file is missing, not UTF-8, empty, holds an instruction twice, or
            something else than instructions.
    """
    if path.suffix.lower() not in {".toml", ".txt"}:
        raise ConfigError(f"{path}: instructions must be a .toml file, or .txt with one per line.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save the file as UTF-8.") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: the instructions cannot be read ({error.strerror}); check the path."
        ) from error
    if path.suffix.lower() == ".toml":
        return _from_toml(text, str(path), own_format)
    lines = [(f"line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return InstructionSet(_checked(lines, str(path)), own_format)


def choose(
    default: str,
    path: Path | None,
    *,
    fields: Collection[str],
    required: Collection[str] = ("question",),
) -> InstructionSet:
    """The user's instructions if there are any, else the set `default`; fit for the task.

    Args:
        default: Name of one of this project's sets.
        path: The user's file, or None.
        fields: Names of the texts that every instance of the task has.
        required: Those of them without which a prompt would not ask.

    Raises:
        ConfigError: The file is malformed, or its layout names what the task does not have, or
            leaves out what it needs.
    """
    own = packaged(default)
    if path is None:
        return own
    given = read(path, own.prompt_format)
    if given.prompt_format != own.prompt_format:
        _check_format(given.prompt_format, fields, required, str(path))
    return given


def _from_toml(text: str, file: str, own_format: str) -> InstructionSet:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}.") from error
    for key in values:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_KEYS)}."
            raise ConfigError(f"{file}, field {key!r}: unknown; {hint}")
    listed = values.get("instructions")
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise ConfigError(
            f"{file}, field 'instructions': must be a list of texts, "
            'for example instructions = ["Pick the best option."].'
        )
    layout = values.get("prompt_format", own_format)
    if not isinstance(layout, str):
        raise ConfigError(f"{file}, field 'prompt_format': must be a text.")
    items = [(f"instruction {n}", item) for n, item in enumerate(listed, 1)]
    return InstructionSet(_checked(items, file), layout)


def _checked(items: Sequence[tuple[str, str]], file: str) -> tuple[str, ...]:
    if not items:
        raise ConfigError(f"{file}: holds no instructions; give at least one.")
    first_place: dict[str, str] = {}
    for place, item in items:
        text = item.strip()
        if not text:
            raise ConfigError(f"{file}, {place}: is empty; write it or remove it.")
        if text in first_place:
            raise ConfigError(
                f"{file}, {place}: repeats {first_place[text]}; remove one, "
                "or it would count twice in every mean."
            )
        first_place[text] = place
    return tuple(first_place)


def _check_format(
    layout: str, fields: Collection[str], required: Collection[str], file: str
) -> None:
    where = f"{file}, field 'prompt_format'"
    try:
        parts = list(Formatter().parse(layout))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; write a literal brace twice.") from error
    known = {"instruction", "options", *fields}
    named: set[str] = set()
    for _, name, specification, conversion in parts:
        if name is None:
            continue
        if name not in known or specification or conversion:
            names = ", ".join(f"{{{k}}}" for k in sorted(known))
            raise ConfigError(f"{where}: cannot fill {{{name}}}; this task has {names}.")
        named.add(name)
    missing = [name for name in (*_ALWAYS_REQUIRED, *required) if name not in named]
    if missing:
        raise ConfigError(f"{where}: lacks {{{missing[0]}}}; without it the prompt cannot ask.")
    if layout != layout.rstrip():
        raise ConfigError(
            f"{where}: ends in white space; remove it, the space before an answer is added when "
            "options are scored."
        )
