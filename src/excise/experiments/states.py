"""States of the model put to targets: what benchmarks and questions have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from excise.config.section import Section
from excise.errors import ExciseError
from excise.experiments.definition import Options
from excise.experiments.findings import Chart, Reading, Series, Table, change, scaled, with_spread
from excise.experiments.fits import ORIGINAL
from excise.experiments.lab import Lab, Questions
from excise.experiments.readings import Judged, read, reason
from excise.experiments.settings import with_options
from excise.experiments.words import named, title_of
from excise.metrics import METRICS


class State(Section):
    """A method fitted on a task."""

    method: str
    on: str = "bbq-ses"
    """The task that it is fitted on."""
    label: str = ""
    """What the state is called; the method's name by default."""
    options: Options = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the state is called."""
        return self.label or self.method


class Target(Section):
    """A task that all states are asked."""

    task: str
    measures: tuple[str, ...]
    """See `Measure`; those that the task does not define are left out."""
    options: Options = Field(default_factory=dict)
    """How it is asked, where that is not as usual."""
    label: str = ""
    """What it is called; the task's name by default."""
    role: str = ""
    """What it says about a state; see the kind that asks."""

    @property
    def name(self) -> str:
        """What the target is called."""
        return self.label or self.task


def listed(states: Sequence[State]) -> str:
    """Names of states by the task that they are fitted on, as a text."""
    by_task: dict[str, list[str]] = {}
    for state in states:
        by_task.setdefault(state.on, []).append(state.name)
    return "; ".join(f"fitted on {on}: {', '.join(names)}" for on, names in by_task.items())


def read_states(
    lab: Lab, states: Sequence[State], targets: Sequence[Target], **facts: Any
) -> tuple[list[Judged], list[tuple[str, str]]]:
    """The original and all states on all targets.

    Returns:
        What was read, and what was left out with the reason.
    """
    entries: list[Judged] = []
    left_out: list[tuple[str, str]] = []
    fitted_on: dict[str, str] = {}
    for state in states:
        try:
            fitted_on[state.name] = lab.task(state.on).name
        except ExciseError as error:
            left_out.append((state.name, reason(error)))
    seen: set[tuple[str, str]] = set()
    for target in targets:
        told = {**facts, "role": target.role}
        try:
            questions = lab.questions(target.task, with_options(lab.config, target.options))
            asked = (questions.task.name, repr(sorted(target.options.items())))
            if asked in seen:
                continue
            seen.add(asked)
            original = lab.fits(ORIGINAL, target.task)
            now = read(lab, original, questions, target.measures, target=target.name, **told)
            if not any(entry.reading.value is not None for entry in now):
                undefined = "none of its measures has a value (another judge, or too few items)"
                left_out.append((target.name, undefined))
                continue
            entries += now
        except ExciseError as error:
            left_out.append((target.name, reason(error)))
            continue
        for state in states:
            if state.name in fitted_on:
                found, why = _state(lab, state, target, questions, told)
                entries += found
                left_out += why
    return [e for e in entries if e.reading.value is not None], left_out


def _state(
    lab: Lab, state: State, target: Target, questions: Questions, told: Mapping[str, Any]
) -> tuple[list[Judged], list[tuple[str, str]]]:
    fits = lab.fits(state.method, state.on, with_options(lab.config, state.options))
    try:
        return (
            read(
                lab,
                fits,
                questions,
                target.measures,
                target=target.name,
                state=state.name,
                **told,
            ),
            [],
        )
    except ExciseError as error:
        return [], [(f"{state.name} on {target.name}", reason(error))]


def tables_of(readings: Sequence[Reading]) -> tuple[Table, ...]:
    """One table for each target: measures by states, values and differences."""
    tables = []
    for target in dict.fromkeys(r.target for r in readings):
        own = [r for r in readings if r.target == target]
        states = [s for s in dict.fromkeys(r.state for r in own) if s != ORIGINAL]
        found = {(r.state, r.measure): r for r in own}
        header = ["measure", ORIGINAL]
        for state in states:
            header += [state, f"{state}, difference"]
        rows = []
        for measure in dict.fromkeys(r.measure for r in own):
            cells = [title_of(measure), with_spread(found.get((ORIGINAL, measure)))]
            for state in states:
                reading = found.get((state, measure))
                cells += [with_spread(reading), change(reading)]
            rows.append(tuple(cells))
        items = own[0].facts["items"]
        title = f"{named(own, target)}: {items:,} items"
        tables.append(Table(title, tuple(header), tuple(rows)))
    return tuple(tables)


def chart_of(readings: Sequence[Reading], title: str) -> Chart | None:
    """Differences to the original with their intervals: the first share of each target."""
    first: dict[str, str] = {}
    for reading in readings:
        if METRICS[reading.measure.split("@")[0].split(":")[0]].unit in ("%", "points"):
            first.setdefault(reading.target, reading.measure)
    changes = [r for r in readings if r.facts.get("difference") is not None]
    states = tuple(dict.fromkeys(r.state for r in changes))
    if not first or not states:
        return None
    found = {(r.state, r.target, r.measure): r for r in changes}

    def numbers(state: str, key: str) -> tuple[float | None, ...]:
        return tuple(
            scaled(measure, found[state, target, measure].facts.get(key))
            if (state, target, measure) in found
            else None
            for target, measure in first.items()
        )

    series = tuple(
        Series(s, numbers(s, "difference"), numbers(s, "low"), numbers(s, "high")) for s in states
    )
    places = tuple(f"{named(readings, t)}: {title_of(m)}" for t, m in first.items())
    return Chart("intervals", title, places, series, "difference to the original, in points")
