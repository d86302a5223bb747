"""What is estimated: a difference between two states, with all that is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from excise.types import Answers, Estimate, FloatArray

Ideal = float | Literal["min", "max"]
"""The best value of a metric: a number, or an end of its range."""

Values = TypeVar("Values", FloatArray, np.float64)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two states of one model on the same instances, for example one trial on one task."""

    original: Answers
    patched: Answers
    stratum: str
    """What is averaged with equal weight in the end, usually the task."""


@dataclass(frozen=True, slots=True)
class PooledEstimate(Estimate):
    """An estimate over several strata: means over those in which the difference is defined.

    All fields from `gain` on are None or empty where the metric's ideal was not given; those from
    `p_adjusted` on are filled in by `judged`.
    """

    n_strata: int = 0
    n_pairs: int = 0
    gain: float | None = None
    """Change towards the metric's ideal: the difference, with its sign turned where less is better;
    the decrease of the distance where the ideal is a number."""
    gain_low: float | None = None
    gain_high: float | None = None
    standard_error: float | None = None
    """Of the gain, over draws of templates."""
    degrees: float | None = None
    """Degrees of freedom of the standard error."""
    p_value: float | None = None
    """Two-sided, of the exact test that the gain is zero."""
    smallest_p: float | None = None
    """The smallest p that the test could give with so many templates."""
    test: str = ""
    """Which test."""
    p_adjusted: float | None = None
    """After correction for the number of tests."""
    n_tests: int = 0
    """How many tests the correction counts."""
    minimum_detectable: float | None = None
    """The smallest true gain that such a measurement would show with the power asked for."""
    control_position: float | None = None
    """Share of the random controls that the patched value beats, in the direction of the ideal."""
    n_controls: int = 0
    """Number of random controls with a value."""
    margin: float | None = None
    """Largest loss that counts as none, in the metric's own unit."""
    verdict: str = ""
    """See `excise.statistics.verdicts`."""
    verdict_text: str = ""
    """The verdict as a sentence, with what it rests on."""


def gain(before: Values, after: Values, ideal: Ideal) -> Values:
    """How much nearer to the ideal a metric came.

    Args:
        before: Values of any shape.
        after: Values of the same shape.
        ideal: `max`, `min`, or the number that is best.

    Returns:
        Gains of the same shape, positive where `after` is better.
    """
    if isinstance(ideal, str):
        return after - before if ideal == "max" else before - after
    distances: Values = np.abs(before - ideal) - np.abs(after - ideal)
    return distances
