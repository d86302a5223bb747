"""Names of measures and tasks for readers."""

from __future__ import annotations

from collections.abc import Sequence

from excise.experiments.definition import Measure
from excise.experiments.findings import Reading


def title_of(measure: str) -> str:
    """A measure for headings."""
    return "Excised neurons" if measure == "neurons" else Measure.of(measure).title


def level_of(readings: Sequence[Reading]) -> str:
    """The level of the intervals of readings, such as "95 %"."""
    return f"{100 * next((r.facts['level'] for r in readings if 'level' in r.facts), 0.95):g} %"


def named(readings: Sequence[Reading], target: str) -> str:
    """A target, with the task that was asked in its place where that is another."""
    asked = next((r.facts.get("asked") for r in readings if r.target == target), None)
    return target if asked in (None, target) else f"{asked} (for {target})"
