"""Published numbers beside ours: only of the same model; those of others are named as theirs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from excise.config.section import Section
from excise.experiments.findings import UNDEFINED, Reading, Table, scaled, shown
from excise.experiments.words import named, title_of

Certainty = Literal["stated", "code", "recomputed", "second-hand", "interpreted"]


class PublishedTable(Section):
    """A part of a published table that is one measure of one model."""

    experiment: str
    model: str
    source: str
    """Publication and table."""
    certainty: Certainty
    """`stated` in the publication, `code`: printed by published code, `recomputed` from published
    counts, `second-hand`: quoted by others, `interpreted`: the unit or the reading is a guess."""
    measure: str
    """See `Measure`; `neurons` counts excised neurons."""
    targets: tuple[str, ...]
    """The columns."""
    rows: Mapping[str, tuple[float, ...]]
    """State -> numbers, in the unit of tables; NaN where none was found."""


@dataclass(frozen=True, slots=True)
class Published:
    """One published number."""

    state: str
    target: str
    measure: str
    value: float
    """In the unit of tables."""
    source: str
    certainty: str


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """All published tables that are known, in the order of the file."""
    text = (files("excise.experiments") / "published.toml").read_text(encoding="utf-8")
    return tuple(PublishedTable.model_validate(entry) for entry in tomllib.loads(text)["table"])


def published(experiment: str, model: str) -> dict[tuple[str, str, str], Published]:
    """(state, target, measure) -> what was published of that very model."""
    found = {}
    for table in published_tables():
        if table.experiment == experiment and table.model.lower() == model.lower():
            for state, numbers in table.rows.items():
                for target, number in zip(table.targets, numbers, strict=True):
                    if number == number:
                        found[state, target, table.measure] = Published(
                            state, target, table.measure, number, table.source, table.certainty
                        )
    return found


def other_models(experiment: str, model: str) -> tuple[str, ...]:
    """Models of which numbers were published that do not belong to this one."""
    return tuple(
        dict.fromkeys(
            table.model
            for table in published_tables()
            if table.experiment == experiment and table.model.lower() != model.lower()
        )
    )


def beside(experiment: str, model: str, readings: Sequence[Reading]) -> Table | None:
    """Ours beside theirs, with the difference; None where nothing was published of this model."""
    known = published(experiment, model)
    ours = {(r.state, r.target, r.measure): r for r in readings}
    rows = []
    for place, entry in known.items():
        reading = ours.get(place)
        mine = scaled(entry.measure, reading.value) if reading else None
        difference = UNDEFINED if mine is None else f"{mine - entry.value:+.2f}"
        told = named(readings, entry.target)
        measured = shown(entry.measure, reading.value) if reading else "not measured"
        rows.append(
            (
                f"{entry.state}, {told}, {title_of(entry.measure)}",
                measured,
                f"{entry.value:g}",
                difference,
                f"{entry.source} ({entry.certainty})",
            )
        )
    if not rows:
        return None
    header = ("what", "measured", "published", "difference", "source (certainty)")
    return Table("Beside the published numbers", header, tuple(rows))


def of_others(experiment: str, model: str) -> tuple[Table, ...]:
    """What was published of other models; for orientation, not to compare with."""
    tables = []
    for table in published_tables():
        if table.experiment != experiment or table.model.lower() == model.lower():
            continue
        rows = tuple(
            (state, *(UNDEFINED if number != number else f"{number:g}" for number in numbers))
            for state, numbers in table.rows.items()
        )
        title = f"{table.model}: {title_of(table.measure)} ({table.source}; {table.certainty})"
        tables.append(Table(title, ("method", *table.targets), rows))
    return tuple(tables)
