"""Responders whose every metric is known in advance, and the comparison with what is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

from excise.metrics import METRICS, metric_named, value
from excise.types import Answers, FloatArray

TOLERANCE = 1e-9
"""Largest difference between an expected and a computed value."""


@dataclass(frozen=True, slots=True)
class Undefined:
    """The expectation that a metric has no value."""

    reason: str


Expectation = float | Undefined


@dataclass(frozen=True)
class Oracle:
    """The answers of one responder to one synthetic benchmark, with what metrics must make of them.

    Metrics that are not named do not apply.
    """

    benchmark: str
    responder: str
    answers: Answers
    expected: Mapping[str, Expectation]
    """Metric -> its value in closed form, or why there is none."""
    weights: FloatArray | None = None
    """[N] how often each item counts; None counts each once."""


@dataclass(frozen=True, slots=True)
class Check:
    """One metric of one responder: expected and computed."""

    benchmark: str
    responder: str
    metric: str
    expected: Expectation
    found: float | None
    """None: the metric is undefined, or could not be computed."""
    error: str = ""
    """What went wrong, if it could not be computed."""

    @property
    def as_expected(self) -> bool:
        """Whether both are equal within `TOLERANCE`, or both undefined."""
        if self.error:
            return False
        if isinstance(self.expected, Undefined) or self.found is None:
            return isinstance(self.expected, Undefined) and self.found is None
        return abs(self.found - self.expected) <= TOLERANCE


def examine(oracles: Iterable[Oracle]) -> tuple[Check, ...]:
    """Compute every expected value as `excise evaluate` does, and set it beside the expected one.

    Args:
        oracles: responders with their expectations.

    Raises:
        UnknownNameError: an oracle names a metric that does not exist.
    """
    return tuple(
        _check(oracle, name, expected)
        for oracle in oracles
        for name, expected in oracle.expected.items()
    )


def unchecked(checks: Iterable[Check]) -> tuple[str, ...]:
    """Metrics for which no check expects a value, in the order of the registry."""
    checked = {check.metric for check in checks if not isinstance(check.expected, Undefined)}
    return tuple(name for name in METRICS if name not in checked)


def _check(oracle: Oracle, name: str, expected: Expectation) -> Check:
    metric = metric_named(name)
    found, error = None, ""
    try:
        found = value(metric, oracle.answers, oracle.weights)
    except Exception as raised:  # a broken metric is a finding, not the end of the examination
        error = f"{type(raised).__name__}: {' '.join(str(raised).split())}"
    if found is not None and not isfinite(found):
        found, error = None, f"the value is {found}"
    return Check(oracle.benchmark, oracle.responder, name, expected, found, error)
