"""Benchmarks before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from excise.experiments.definition import Definition, NotApplicableError
from excise.experiments.findings import Findings
from excise.experiments.fits import ORIGINAL
from excise.experiments.lab import Lab
from excise.experiments.readings import with_verdicts
from excise.experiments.settings import with_options
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
        asked = {reading.state for reading in readings}
        answers = tuple(
            training(state.name, lab.describe(fit))
            for state in self.states
            if state.name in asked
            for fit in lab.fits(state.method, state.on, with_options(lab.config, state.options))
        )
        said = tuple(text for text in answers if text)
        return Findings(readings, tables_of(readings), chart, said, tuple(left_out))


def training(state: str, facts: Mapping[str, Any]) -> str:
    """How a fine-tuned state was trained, in a sentence; empty for any other.

    Args:
        state: what it is called.
        facts: what the fit says about itself.
    """
    if "best_step" not in facts:
        return ""
    kept = facts["best_step"]
    which = (
        f"the weights after update {kept} were kept"
        if kept
        else "none was kept, so this state is the original"
    )
    return (
        f"{state}: {facts['steps']} updates on {facts['pairs_trained']:,} pairs "
        f"({facts['trainable_parameters']:,} weights); {which}."
    )
