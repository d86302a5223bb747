"""One option of a method over several values."""

from __future__ import annotations

from typing import Any

from excise.experiments.definition import Definition
from excise.experiments.findings import (
    Chart,
    Findings,
    Reading,
    Series,
    Table,
    change,
    measures_together,
    scaled,
    with_spread,
)
from excise.experiments.fits import ORIGINAL
from excise.experiments.lab import Lab
from excise.experiments.readings import Judged, neurons, read, with_verdicts
from excise.experiments.settings import with_options
from excise.experiments.words import level_of, named, title_of


class Sweep(Definition):
    """Rows are values of the option, columns are tasks; one table for each method and measure."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...] = ("crispr",)
    measures: tuple[str, ...]
    option: str
    """For example `selection.n`."""
    values: tuple[int | float | str, ...]
    count: bool = False
    """Also say how many neurons were excised."""

    @property
    def told(self) -> tuple[str, ...]:
        """The option and its values."""
        return (f"{self.option} = {', '.join(map(str, self.values))}",)

    def measure(self, lab: Lab) -> Findings:
        """Fit with every value; what does not depend on the option is done once."""
        entries: list[Judged] = []
        for name in lab.tasks(self.tasks):
            questions = lab.questions(name)
            entries += read(lab, lab.fits(ORIGINAL, name), questions, self.measures, target=name)
            for value in self.values:
                config = with_options(lab.config, _nested(self.option, value))
                for method in self.methods:
                    fits = lab.fits(method, name, config)
                    entries += read(lab, fits, questions, self.measures, target=name, at=value)
                    if self.count:
                        entries.append(neurons(lab, fits, target=name, at=value))
        readings = with_verdicts(lab, entries)
        tables = tuple(
            table
            for measure in measures_together(readings)
            for method in self.methods
            for table in self._tables(readings, measure, method)
        )
        return Findings(readings, tables, self._chart(readings))

    def _tables(self, readings: tuple[Reading, ...], measure: str, method: str) -> list[Table]:
        targets = tuple(dict.fromkeys(r.target for r in readings))
        found = {
            (r.state, r.target, r.facts.get("at")): r for r in readings if r.measure == measure
        }
        header = (self.option, *(named(readings, target) for target in targets))
        values: list[tuple[str, tuple[str, Any]]] = [(str(at), (method, at)) for at in self.values]
        if any((ORIGINAL, target, None) in found for target in targets):
            values = [(ORIGINAL, (ORIGINAL, None)), *values]
        value_rows = [
            (told, *(with_spread(found.get((state, target, at))) for target in targets))
            for told, (state, at) in values
        ]
        tables = [Table(f"{title_of(measure)}, {method}", header, tuple(value_rows))]
        if measure != "neurons":
            changes = [
                (str(at), *(change(found.get((method, target, at))) for target in targets))
                for at in self.values
            ]
            told = f"{title_of(measure)}, {method}: difference to the original"
            tables.append(Table(f"{told} ({level_of(readings)} interval)", header, tuple(changes)))
        return tables

    def _chart(self, readings: tuple[Reading, ...]) -> Chart:
        measure = self.measures[0]
        found = {
            (r.state, r.target, r.facts.get("at")): r.value
            for r in readings
            if r.measure == measure
        }
        targets = tuple(dict.fromkeys(r.target for r in readings))
        series = [
            Series(
                f"{method}, {named(readings, target)}",
                tuple(scaled(measure, found.get((method, target, at))) for at in self.values),
            )
            for method in self.methods
            for target in targets
        ]
        for target in targets:
            level = scaled(measure, found.get((ORIGINAL, target, None)))
            name = f"original, {named(readings, target)}"
            series.append(Series(name, (level,) * len(self.values)))
        return Chart(
            "lines",
            f"{title_of(measure)} against {self.option}",
            tuple(map(str, self.values)),
            tuple(series),
            title_of(measure),
            self.option,
        )


def _nested(option: str, value: Any) -> dict[str, Any]:
    """`section.name` and a value, as options."""
    section, _, name = option.rpartition(".")
    return {section: {name: value}} if section else {name: value}
