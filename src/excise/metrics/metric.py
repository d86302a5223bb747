"""What a metric is, and how one is evaluated.

A metric is a pure function of predictions and of weights: how often each instance counts in each
resample. The point value and every bootstrap resample thereby run through the same code, as a few
matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from excise.errors import NonFiniteError
from excise.types import Answers, BoolArray, FloatArray, Predictions

MetricFunction = Callable[[Any, FloatArray], FloatArray]
"""From answers (`Predictions`, `Continuations` or `Readings`, as the metric needs) and weights
[B, N] to values [B, I], one per resample and instruction."""

Unit = Literal["%", "points", "nats", "bits", ""]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that describes answers, with what a reader needs to judge it."""

    name: str
    """Key in the registry and in every artefact."""
    title: str
    """Short heading for tables."""
    description: str
    """One sentence: what is counted over what."""
    ideal: float | Literal["min", "max"]
    """The best value: a number inside the range, or one of its ends."""
    low: float
    """Smallest possible value."""
    high: float
    """Largest possible value."""
    function: MetricFunction
    """Pure, vectorised; NaN where the metric is undefined."""
    unit: Unit
    """How the value reads: 100 times a share in per cent, 100 times a signed score in points, or as
    it is in nats, in bits, or as a bare number."""
    source: str = ""
    """Publication or code that defines it."""
    undefined: str = "there is nothing to average"
    """Why there may be no value."""


def evaluate_metric(
    metric: Metric, predictions: Answers, weights: FloatArray | None = None
) -> FloatArray:
    """Values of a metric for every resample and instruction.

    Args:
        metric: What to compute.
        predictions: Answers to N instances under I instructions.
        weights: [B, N] how often each instance counts in each resample; None counts each once.

    Returns:
        [B, I] values in `metric.low` .. `metric.high`, NaN where undefined.

    Raises:
        ValueError: The weights are not [B, N].
    """
    n_instances = len(predictions.instances)
    if weights is None:
        weights = np.ones((1, n_instances), dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != n_instances:
        raise ValueError(f"weights have shape {weights.shape}, expected [B, {n_instances}]")
    return metric.function(predictions, weights)


def value(metric: Metric, predictions: Answers, weights: FloatArray | None = None) -> float | None:
    """Mean of a metric over the instructions for which it is defined.

    Args:
        metric: What to compute.
        predictions: Answers to N instances under I instructions.
        weights: [N] how often each instance counts, 0 leaves it out; None counts each once.

    Returns:
        The mean, or None where the metric is defined for no instruction: a metric of nothing is
        never 0.
    """
    defined = _defined(metric, predictions, weights)
    return float(defined.mean()) if defined.size else None


def spread(metric: Metric, predictions: Answers) -> float | None:
    """Consistency: population standard deviation of a metric over the instructions.

    Source: CRISPR (Yang et al., ACL 2024), table 2.

    Args:
        metric: What to compute.
        predictions: Answers to N instances under I instructions.

    Returns:
        The standard deviation, at least 0, or None with fewer than two defined instructions: one
        wording shows nothing about consistency.
    """
    defined = _defined(metric, predictions)
    return float(defined.std()) if defined.size > 1 else None


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotient that is NaN, without a warning, where the denominator is 0.

    Args:
        numerator: Any shape.
        denominator: The same shape.

    Returns:
        The same shape.
    """
    quotient = np.full(numerator.shape, np.nan, dtype=np.float64)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def count(marked: BoolArray, weights: FloatArray) -> FloatArray:
    """Weighted number of marked instances.

    Args:
        marked: [I, N] which answers count, per instruction.
        weights: [B, N] how often each instance counts.

    Returns:
        [B, I] counts.
    """
    return weights @ marked.T.astype(np.float64)


def share(marked: BoolArray, among: BoolArray, weights: FloatArray) -> FloatArray:
    """Weighted share of marked answers among the instances that are looked at.

    Args:
        marked: [I, N] which answers count, per instruction.
        among: [N] or [I, N] which answers are looked at.
        weights: [B, N] how often each instance counts.

    Returns:
        [B, I] shares in 0..1, NaN where nothing is looked at.
    """
    among = np.broadcast_to(among, marked.shape)
    return ratio(count(marked & among, weights), count(among, weights))


def mean(
    values: FloatArray, among: BoolArray, weights: FloatArray, predictions: Predictions
) -> FloatArray:
    """Weighted mean of one number per answer among the instances that are looked at.

    Args:
        values: [I, N] one number per instruction and instance.
        among: [N] which instances are looked at.
        weights: [B, N] how often each instance counts.
        predictions: Where the numbers come from, to name an instance in the error.

    Returns:
        [B, I] means, NaN where nothing is looked at.

    Raises:
        NonFiniteError: A number that is looked at is not finite; averaging would spread it over
            the result, where NaN means undefined.
    """
    broken = among & ~np.isfinite(values)
    if broken.any():
        instance = predictions.instances[int(np.flatnonzero(broken.any(axis=0))[0])]
        raise NonFiniteError(
            f"instance {instance.id!r} has an option without a finite probability; "
            "check the model's precision and weights"
        )
    total = weights @ np.where(among, values, 0.0).T
    return ratio(total, count(np.broadcast_to(among, values.shape), weights))


def _defined(metric: Metric, predictions: Answers, weights: FloatArray | None = None) -> FloatArray:
    """The values over instructions that are numbers, in the order of the instructions."""
    values = evaluate_metric(metric, predictions, None if weights is None else weights[None])[0]
    defined: FloatArray = values[~np.isnan(values)]
    return defined
