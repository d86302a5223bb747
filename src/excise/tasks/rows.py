"""Reading rows of a data file, with errors that name file, line and field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from excise.errors import TaskFormatError

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file."""

    where: str
    """File and line (or item) for messages."""
    values: Mapping[str, Any]

    def error(self, field: str, problem: str) -> TaskFormatError:
        """The error that says what is wrong with `field` of this row."""
        return TaskFormatError(f"{self.where}, field {field!r}: {problem}")


def decode(content: bytes, file: str) -> str:
    """UTF-8 text of a file, without a byte order mark.

    Raises:
        TaskFormatError: The content is not UTF-8; names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TaskFormatError(f"{file}, line {line}: not UTF-8; save the file as UTF-8.") from error


def from_jsonl(text: str, file: str) -> Iterator[Row]:
    """Rows of a JSON Lines file; empty lines are skipped."""
    # Not str.splitlines: it also breaks at U+2028 and the like, which JSON texts may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{file}, line {number}"
            try:
                yield _row(json.loads(line), where)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep"
                raise TaskFormatError(
                    f"{where}: not valid JSON ({reason}); write one JSON object per line."
                ) from error


def from_json(text: str, file: str) -> Iterator[Row]:
    """Rows of a JSON list of objects; a file that does not start with `[` is read as JSON Lines."""
    if not text.lstrip().startswith("["):
        yield from from_jsonl(text, file)
        return
    try:
        items = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep"
        raise TaskFormatError(
            f"{file}{place}: not valid JSON ({reason}); write a list of objects."
        ) from error
    for number, item in enumerate(items, 1):
        yield _row(item, f"{file}, item {number}")


def from_csv(text: str, file: str) -> Iterator[Row]:
    """Rows of a CSV file with a header; empty cells are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in header:
            if header.count(name) > 1:
                raise TaskFormatError(f"{file}, line 1, field {name!r}: the column appears twice.")
        line = reader.line_num + 1
        for cells in reader:
            where, line = f"{file}, line {line}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                raise TaskFormatError(
                    f"{where}: has {len(cells)} cells but the header has {len(header)}; "
                    "put texts that contain commas in double quotes."
                )
            filled = zip(header, cells, strict=True)
            yield Row(where, {name: cell for name, cell in filled if cell.strip()})
    except csv.Error as error:
        raise TaskFormatError(
            f"{file}, line {line}: not valid CSV ({error}); check the double quotes."
        ) from error


def validated(
    row: Row, model: type[Model], expected: Mapping[str, str], *, extra: bool = False
) -> Model:
    """A row as `model`.

    Args:
        row: The row.
        model: What a row must be.
        expected: What each field must be, in words; its keys are the known fields.
        extra: Whether fields that are not known are passed over.

    Raises:
        TaskFormatError: The first field that is unknown, missing or of the wrong type.
    """
    for name in row.values:
        if name not in expected and not extra:
            near = get_close_matches(name, expected, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(expected)}."
            raise row.error(name, f"unknown; {hint}")
    try:
        return model.model_validate(row.values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise row.error(name, f"missing; give {expected[name]}.") from error
        found = json.dumps(row.values[name], ensure_ascii=False, default=str)
        shown = found if len(found) <= 60 else f"{found[:57]}..."
        raise row.error(name, f"must be {expected[name]}, not {shown}.") from error


def _row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise TaskFormatError(f"{where}: must be a JSON object with named fields.")
    return Row(where, value)
