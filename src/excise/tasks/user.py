"""The user's own data: JSON Lines, JSON or CSV, in a plain format or in BBQ's.

A plain row has these fields; only `question`, `options` and `gold` must be there:

    {"context": "...", "question": "...", "options": ["...", "..."], "gold": 1, "template": "...",
     "condition": "ambiguous", "unknown": 0, "stereotyped": 1, "block": "...", "group": "...",
     "id": "..."}

`gold` is an option's number from 0 or its text. `template` is the unit that splits keep together;
left out, each question text is its own. `block` names rows that are sampled together; left out,
each row is its own. In CSV the options are separated by `|`. Rows with a field `ans0` are read in
BBQ's format, their stereotyped option by `bbq_rows.stereotyped_by_rule`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from excise.errors import TaskFormatError
from excise.tasks import bbq_rows, instruction_sets
from excise.tasks.rows import Row, decode, from_csv, from_json, from_jsonl, validated
from excise.types import Condition, Instance, Task

_READERS: Mapping[str, Callable[[str, str], Iterator[Row]]] = {
    ".jsonl": from_jsonl,
    ".json": from_json,
    ".csv": from_csv,
}
SUFFIXES = tuple(_READERS)
"""File endings that can be read."""

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_OptionNumber = Annotated[int, Field(ge=0)]


class _PlainRow(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    question: _Text
    options: Annotated[tuple[_Text, ...], Field(min_length=2, strict=False)]
    gold: _OptionNumber | _Text
    context: _Text | None = None
    template: _Text | None = None
    condition: Condition | None = None
    unknown: _OptionNumber | None = None
    stereotyped: _OptionNumber | None = None
    block: _Text | None = None
    group: str | None = None
    id: _Text | None = None


_NUMBER = "an option's number, counted from 0"
_EXPECTED = {
    "context": "a text that is not empty",
    "question": "a text that is not empty",
    "options": "a list of at least two texts that are not empty",
    "gold": f"{_NUMBER}, or the option's text",
    "template": "a text that is not empty",
    "condition": '"ambiguous" or "disambiguated"',
    "unknown": _NUMBER,
    "stereotyped": _NUMBER,
    "block": "a text that is not empty",
    "group": "a text",
    "id": "a text that is not empty",
}


def load(path: Path, instructions: Path | None) -> Task:
    """Load the user's own file as a task named after it.

    Args:
        path: A `.jsonl`, `.json` or `.csv` file.
        instructions: The user's instructions file, or None for ten of this project: about a
            context and a question, or about a question alone where rows have no context.

    Raises:
        TaskFormatError: The file is missing or malformed; names file, line and field.
        ConfigError: The instructions make no sense.
    """
    content = _read(path)
    file = str(path)
    instances = _instances(list(_READERS[path.suffix.lower()](decode(content, file), file)), file)
    fields = tuple(instances[0].fields)
    chosen = instruction_sets.choose(
        "bbq" if "context" in fields else "question", instructions, fields=fields
    )
    return Task(
        name=path.stem,
        instances=instances,
        instructions=chosen.instructions,
        prompt_format=chosen.prompt_format,
        licence="the user's own",
        citation="",
        digest=hashlib.sha256(content).hexdigest(),
    )


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in _READERS:
        raise TaskFormatError(f"{path}: a task file must end in {', '.join(SUFFIXES)}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise TaskFormatError(
            f"{path}: cannot be read ({error.strerror}); check the path."
        ) from error


def _instances(rows: list[Row], file: str) -> tuple[Instance, ...]:
    if not rows:
        raise TaskFormatError(f"{file}: holds no rows; give at least one question.")
    as_bbq = bbq_rows.is_bbq(rows[0].values)
    csv = file.lower().endswith(".csv")
    if as_bbq and csv:
        raise rows[0].error("ans0", "BBQ's format nests lists and is read from .jsonl only.")
    place: dict[str, str] = {}
    instances: list[Instance] = []
    for position, row in enumerate(rows):
        if as_bbq:
            instance = _from_bbq(row)
        else:
            instance = _from_plain(_from_cells(row) if csv else row, position)
        if instance.id in place:
            name = "example_id" if as_bbq else "id"
            raise row.error(name, f"{instance.id!r} was used before ({place[instance.id]}).")
        if instances and instance.fields.keys() != instances[0].fields.keys():
            raise row.error("context", "give a context in every row of the file or in none.")
        place[instance.id] = row.where
        instances.append(instance)
    return bbq_rows.merge_templates(instances) if as_bbq else tuple(instances)


def _from_bbq(row: Row) -> Instance:
    item = bbq_rows.parse(row)
    return bbq_rows.to_instance(item, stereotyped=bbq_rows.stereotyped_by_rule(item))


def _from_plain(row: Row, position: int) -> Instance:
    item = validated(row, _PlainRow, _EXPECTED)
    for option in item.options:
        if item.options.count(option) > 1:
            raise row.error("options", f"{option!r} stands there twice; make the options differ.")
    for name, number in (("unknown", item.unknown), ("stereotyped", item.stereotyped)):
        if number is not None:
            _check_number(row, name, number, item.options)
    if item.unknown is not None and item.unknown == item.stereotyped:
        raise row.error("stereotyped", "is also the unknown option; name another one.")
    identity = item.id or f"row-{position}"
    return Instance(
        id=identity,
        fields={"question": item.question}
        if item.context is None
        else {"context": item.context, "question": item.question},
        options=item.options,
        gold=_gold(row, item),
        template=item.template or item.question,
        block=item.block or identity,
        condition=item.condition,
        unknown=item.unknown,
        stereotyped=item.stereotyped,
        group=item.group or "",
    )


def _gold(row: Row, item: _PlainRow) -> int:
    if isinstance(item.gold, int):
        _check_number(row, "gold", item.gold, item.options)
        return item.gold
    if item.gold not in item.options:
        raise row.error("gold", f"{item.gold!r} is none of the options; copy one of them exactly.")
    return item.options.index(item.gold)


def _check_number(row: Row, name: str, number: int, options: tuple[str, ...]) -> None:
    if number >= len(options):
        raise row.error(
            name, f"{number} is out of range; the options are numbered 0 to {len(options) - 1}."
        )


def _from_cells(row: Row) -> Row:
    """A CSV row with its options as a list and its numbers as numbers."""
    values: dict[str, Any] = {name: cell.strip() for name, cell in row.values.items()}
    if "options" in values:
        values["options"] = [option.strip() for option in values["options"].split("|")]
    for name in ("unknown", "stereotyped"):
        if values.get(name, "").isdecimal():
            values[name] = int(values[name])
    if "gold" in values:
        values["gold"] = _gold_of_cell(row, values["gold"], values.get("options", []))
    return Row(row.where, values)


def _gold_of_cell(row: Row, cell: str, options: list[str]) -> int | str:
    """A cell has no type: `1` may be a number or a text, and must not be both."""
    if not cell.isdecimal():
        return cell
    number = int(cell)
    if cell not in options:
        return number
    if number < len(options) and options[number] != cell:
        raise row.error(
            "gold", f"{cell} is one option's number and another one's text; use .jsonl instead."
        )
    return cell
