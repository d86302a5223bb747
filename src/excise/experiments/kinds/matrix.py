"""Fitted on one task, asked another: transfer between tasks, and what is retained elsewhere."""

from __future__ import annotations

from excise.errors import ExciseError
from excise.experiments.definition import Definition, NotApplicableError
from excise.experiments.findings import (
    Chart,
    Findings,
    Reading,
    Series,
    Table,
    change,
    scaled,
    unit,
    with_spread,
)
from excise.experiments.fits import ORIGINAL
from excise.experiments.lab import Lab
from excise.experiments.readings import Judged, read, reason, with_verdicts
from excise.experiments.words import level_of, named, title_of
from excise.metrics import metrics_of


class Matrix(Definition):
    """Rows are tasks that a method was fitted on, columns are tasks that are asked."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    method: str = "crispr"
    measures: tuple[str, ...] = ("accuracy",)
    """The first that a target defines stands for it; a target that defines none is read by its own
    first metric."""

    def measure(self, lab: Lab) -> Findings:
        """Fit on every source, ask every target.

        Raises:
            NotApplicableError: there is no target beside the source.
        """
        sources, left_out = lab.tasks(self.sources), []
        entries: list[Judged] = []
        targets: list[str] = []
        seen: set[str] = set()
        for target in self.targets:
            try:
                questions = lab.questions(target)
            except ExciseError as error:
                left_out.append((target, reason(error)))
                continue
            if questions.task.name in seen:
                continue
            seen.add(questions.task.name)
            targets.append(target)
        if len(seen | {task.name for task in sources.values()}) < 2:
            raise NotApplicableError(
                "needs two tasks that this model can be asked, and there is one only."
            )
        for target in targets:
            questions = lab.questions(target)
            applies = [metric.name for metric in metrics_of(questions.task)]
            measures = [name for name in self.measures if name in applies] or applies[:1]
            fits = lab.fits(ORIGINAL, target)
            entries += read(lab, fits, questions, measures[:1], target=target)
            for source in sources:
                fits = lab.fits(self.method, source)
                entries += read(lab, fits, questions, measures[:1], target=target, source=source)
        readings = with_verdicts(lab, entries)
        tables = _tables(readings, list(sources), targets)
        chart = _heat(readings, list(sources), targets)
        return Findings(readings, tables, chart, left_out=tuple(left_out))


def _tables(
    readings: tuple[Reading, ...], sources: list[str], targets: list[str]
) -> tuple[Table, ...]:
    found = {(r.facts.get("source"), r.target): r for r in readings}
    header = ("fitted on", *(named(readings, target) for target in targets))
    measured = {target: title_of(r.measure) for (_, target), r in found.items()}
    told = "; ".join(dict.fromkeys(measured.values()))
    names = {source: named(readings, source) for source in sources}
    values = [
        ("(original)", *(with_spread(found.get((None, target))) for target in targets)),
        *(
            (names[source], *(with_spread(found.get((source, target))) for target in targets))
            for source in sources
        ),
    ]
    changes = [
        (names[source], *(change(found.get((source, target))) for target in targets))
        for source in sources
    ]
    return (
        Table(told, header, tuple(values)),
        Table(
            f"{told}: difference to the original ({level_of(readings)} interval; * significant)",
            header,
            tuple(changes),
        ),
    )


def _heat(readings: tuple[Reading, ...], sources: list[str], targets: list[str]) -> Chart:
    """Differences in points; a target that is measured in another unit is left out."""
    found = {(r.facts.get("source"), r.target): r for r in readings}
    columns = [t for t in targets if unit(found[None, t].measure) in ("%", "points")]
    series = tuple(
        Series(
            named(readings, source),
            tuple(
                scaled(found[source, t].measure, found[source, t].facts.get("difference"))
                for t in columns
            ),
        )
        for source in sources
    )
    return Chart(
        "heat",
        "Difference to the original, in points",
        tuple(named(readings, t) for t in columns),
        series,
        "fitted on",
        "asked",
    )
