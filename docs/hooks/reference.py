"""Reference pages out of the program itself: its verbs and flags, its options, its names.

A page holds `<!-- generated: NAME -->` where the text belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_MARKER = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what a page asks for; an unknown name is an error."""
    return _MARKER.sub(lambda match: _PARTS[match[1]](), markdown)


def command_line() -> str:
    """A section for each verb: usage, description, arguments, options."""
    return "\n\n".join("\n\n".join(_verb(path, command)) for path, command in verbs())


def verbs() -> Iterator[tuple[str, Any]]:
    """Every verb with its command, verbs of a group one by one."""
    from excise.cli.app import app

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {sub}", leaf) for sub, leaf in inner.items())


def _verb(path: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    yield f"## excise {path}"
    yield re.sub(r"\s*\n\s*(?!\n)", " ", (command.help or "").strip()).strip()
    usage = " ".join(
        [f"excise {path}", *map(_usage, arguments), *(["[OPTIONS]"] if options else [])]
    )
    yield f"```text\n{usage}\n```"
    if arguments:
        rows = [(f"`{_metavar(p)}`", _cell(p.help)) for p in arguments]
        yield _table(("argument", "meaning"), rows)
    if options:
        context = command.context_class(command, info_name=path)
        yield _table(("option", "meaning"), [_option(p, context) for p in options])


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper()).strip("[]")


def _usage(parameter: Any) -> str:
    name = _metavar(parameter) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _option(option: Any, context: Any) -> tuple[str, str]:
    """As `--help` shows it: names and value, then what it does with its default."""
    names, text = option.get_help_record(context)
    flags, _, value = names.partition("  ") if "  " in names else names.rpartition(" ")
    if value.startswith("-"):  # a flag: all of it is names
        flags, value = names, ""
    shown = ", ".join(f"`{name.strip()}`" for name in re.split(r"[,/]\s*", flags or value))
    return (f"{shown} `{value}`" if flags and value else shown), _cell(text)


def configuration() -> str:
    """A section for each part of the configuration, out of the models that check it."""
    from pydantic import BaseModel

    from excise.config import RunConfig

    inner: dict[str, type[BaseModel]] = {}
    own = []
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner[name] = field.annotation
        else:
            own.append(_field(name, field))
    parts = ["## Without a section", _table(_COLUMNS, own)]
    for name, section in inner.items():
        rows = [_field(key, field) for key, field in section.model_fields.items()]
        parts += [f"## `[{name}]`", _cell(section.__doc__), _table(_COLUMNS, rows)]
    return "\n\n".join(parts)


_COLUMNS = ("option", "type", "default", "meaning")


def _field(name: str, field: Any) -> tuple[str, str, str, str]:
    default = field.get_default(call_default_factory=True)
    return (
        f"`{name}`",
        f"`{_type(field.annotation)}`",
        "unset" if default is None else f"`{_plain(default)}`",
        _cell(field.description),
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_plain(part)}' for key, part in value.items())}}}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _type(annotation: Any) -> str:
    """An annotation as a reader of TOML needs it; None is what an option left out has."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " | ".join(_plain(value) for value in inner)
    if origin in (Union, UnionType):
        return " | ".join(_type(part) for part in inner if part is not NoneType)
    if origin is tuple:
        return f"[{', '.join('...' if part is Ellipsis else _type(part) for part in inner)}]"
    if origin is not None:
        return f"{{{': '.join(_type(part) for part in inner)}}}"
    return {str: "text", int: "integer", float: "number", bool: "true | false"}[annotation]


def metrics() -> str:
    """Every metric with its range and its ideal."""
    from excise.metrics import METRICS

    rows = [
        (f"`{m.name}`", _cell(m.title), f"{m.low:g} to {m.high:g}", str(m.ideal))
        for m in METRICS.values()
    ]
    return _table(("name", "title", "range", "ideal"), rows)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str | None) -> str:
    """One line, which cannot end its cell and holds no markup but code and links to pages."""
    parts = " ".join((text or "").split()).split("`")
    for number in range(0, len(parts), 2):
        plain = parts[number].replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
        parts[number] = _PAGE.sub(_link, plain)
    return "`".join(parts)


_PAGE = re.compile(r"docs/([\w/-]+\.md)")
_DOCS = Path(__file__).parents[1]


def _link(match: re.Match[str]) -> str:
    """Reference pages stand in a folder of docs/."""
    return f"[{match[1]}](../{match[1]})" if (_DOCS / match[1]).exists() else match[0]


_PARTS: dict[str, Callable[[], str]] = {
    "command-line": command_line,
    "configuration": configuration,
    "metrics": metrics,
}
