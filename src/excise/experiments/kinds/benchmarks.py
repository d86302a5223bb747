"""Benchmarks before and after."""

from __future__ import annotations

from excise.experiments.definition import Definition, NotApplicableError
from excise.experiments.findings import Findings
from excise.experiments.lab import ORIGINAL, Lab
from excise.experiments.readings import with_verdicts
from excise.experiments.states import (
    State,
    Target,
    chart_of,
    listed,
    read_states,
    tables_of,
)


class Benchmarks(Definition):
    """The original and some states of the model on some benchmarks."""

    states: tuple[State, ...]
    targets: tuple[Target, ...]

    @property
    def told(self) -> tuple[str, ...]:
        """The states."""
        return (listed(self.states),)

    def measure(self, lab: Lab) -> Findings:
        """Ask all states all targets.

        Raises:
            NotApplicableError: no target can be asked, or no state can be fitted.
        """
        entries, left_out = read_states(lab, self.states, self.targets)
        if all(entry.reading.state == ORIGINAL for entry in entries):
            raise NotApplicableError("; ".join(dict.fromkeys(why for _, why in left_out)))
        readings = with_verdicts(lab, entries)
        chart = chart_of(readings, self.title)
        return Findings(readings, tables_of(readings), chart, left_out=tuple(left_out))
