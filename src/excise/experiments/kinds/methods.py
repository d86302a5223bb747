"""Methods side by side on the tasks that they were fitted on."""

from __future__ import annotations

from collections.abc import Sequence

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
    unit,
    with_spread,
)
from excise.experiments.fits import ORIGINAL
from excise.experiments.lab import Lab
from excise.experiments.readings import Judged, neurons, read, with_verdicts
from excise.experiments.words import level_of, named, title_of

NEURONS = "neurons"


class Methods(Definition):
    """Rows are methods, columns are tasks; one table for each measure."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    """Beside the original."""
    measures: tuple[str, ...]
    """See `Measure`; `neurons` counts what was excised."""

    def measure(self, lab: Lab) -> Findings:
        """Fit every method on every task, and read it on that task's test split."""
        entries: list[Judged] = []
        for name in lab.tasks(self.tasks):
            questions = lab.questions(name)
            for method in (ORIGINAL, *self.methods):
                fits = lab.fits(method, name)
                wanted = [text for text in self.measures if text != NEURONS]
                if wanted:
                    entries += read(lab, fits, questions, wanted, target=name)
                if NEURONS in self.measures and method != ORIGINAL:
                    entries.append(neurons(lab, fits, target=name))
        readings = with_verdicts(lab, entries)
        tables = []
        for measure in measures_together(readings):
            chosen = [reading for reading in readings if reading.measure == measure]
            tables.append(values_table(chosen, measure))
            if any(reading.facts.get("difference") is not None for reading in chosen):
                tables.append(changes_table(chosen, measure))
        return Findings(readings, tuple(tables), bars(readings))


def by_place(readings: Sequence[Reading]) -> dict[tuple[str, str], Reading]:
    """(state, target) -> reading."""
    return {(reading.state, reading.target): reading for reading in readings}


def values_table(readings: Sequence[Reading], measure: str) -> Table:
    """States by tasks: values."""
    found = by_place(readings)
    targets = tuple(dict.fromkeys(r.target for r in readings))
    states = tuple(dict.fromkeys(r.state for r in readings))
    several = any(r.facts.get("sd_over_trials") is not None for r in readings)
    told = f"{title_of(measure)}{'; mean ± sd over trials' if several else ''}"
    return Table(
        told,
        ("method", *(named(readings, target) for target in targets)),
        tuple(
            (state, *(with_spread(found.get((state, target))) for target in targets))
            for state in states
        ),
    )


def changes_table(readings: Sequence[Reading], measure: str) -> Table:
    """States by tasks: differences to the original."""
    found = by_place(readings)
    targets = tuple(dict.fromkeys(r.target for r in readings))
    states = tuple(dict.fromkeys(r.state for r in readings if r.state != ORIGINAL))
    told = f"{title_of(measure)}: difference to the original"
    return Table(
        f"{told} ({level_of(readings)} interval; * significant)",
        ("method", *(named(readings, target) for target in targets)),
        tuple(
            (state, *(change(found.get((state, target))) for target in targets)) for state in states
        ),
    )


def bars(readings: Sequence[Reading]) -> Chart | None:
    """The first measure as bars, tasks along the axis."""
    if not readings:
        return None
    measure = readings[0].measure
    chosen = [r for r in readings if r.measure == measure]
    found = by_place(chosen)
    targets = tuple(dict.fromkeys(r.target for r in chosen))
    states = tuple(dict.fromkeys(r.state for r in chosen))
    series = tuple(
        Series(
            state,
            tuple(
                scaled(measure, found[state, target].value) if (state, target) in found else None
                for target in targets
            ),
        )
        for state in states
    )
    value = " ".join(filter(None, (title_of(measure), f"({unit(measure)})" * bool(unit(measure)))))
    return Chart("bars", title_of(measure), tuple(named(chosen, t) for t in targets), series, value)
