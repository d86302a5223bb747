"""Paired cluster bootstrap: how sure the difference between two states of a model is.

Items made from one question template are near-copies, so the template is the unit that is drawn,
never the item; and both states are evaluated on the same draw, so what is hard about an item
cancels. Intervals are expanded percentile intervals (see `excise.statistics.intervals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from excise.statistics.estimates import Ideal, Pair, PooledEstimate, gain
from excise.statistics.intervals import expanded_interval, inflation
from excise.statistics.resampling import (
    MetricFunction,
    optional,
    over_instructions,
    point,
    template_counts,
    template_index,
)
from excise.statistics.swapping import swap_test
from excise.types import Answers, Estimate, FloatArray


def paired_bootstrap(
    function: MetricFunction,
    original: Answers,
    patched: Answers,
    *,
    metric_name: str,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    controls: Sequence[Answers] = (),
) -> Estimate:
    """Difference of a metric between two states, with an interval over templates.

    A value is the mean over the instructions for which the metric is defined. There is no interval
    if more than `MAX_UNDEFINED` of the resamples are undefined, or with a single template.

    Args:
        function: The metric.
        original: Answers before.
        patched: Answers after, to the same instances under the same instructions.
        metric_name: Name written into the estimate.
        n_resamples: Number of resamples, at least 1.
        level: Coverage of the interval, between 0 and 1.
        seed: Start of the random numbers.
        controls: Answers of random controls, to the same instances.

    Returns:
        The estimate; `difference` is patched minus original.

    Raises:
        ValueError: The states differ in instances, their order, or instructions, or an argument is
            out of range.
    """
    for control in controls:
        _check_paired(original, control)
    single = pooled_difference(
        function,
        [Pair(original, patched, stratum="")],
        metric_name=metric_name,
        n_resamples=n_resamples,
        level=level,
        seed=seed,
    )
    return Estimate(
        metric=metric_name,
        original=optional(point(function, original)),
        patched=optional(point(function, patched)),
        difference=single.difference,
        low=single.low,
        high=single.high,
        level=level,
        n_clusters=len(set(original.templates)),
        controls=tuple(optional(point(function, control)) for control in controls),
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """How sure one value is."""

    value: float
    standard_error: float | None
    """Standard deviation over resamples of templates."""
    low: float | None
    high: float | None


def bootstrap(
    function: MetricFunction,
    answers: Answers,
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """A metric of one state with its interval over templates.

    Args:
        function: The metric.
        answers: What the state answered.
        n_resamples: Number of resamples, at least 1.
        level: Coverage of the interval, between 0 and 1.
        seed: Start of the random numbers.

    Returns:
        None where the metric is undefined. There is no interval, and no standard error, if more
        than `MAX_UNDEFINED` of the resamples are undefined, or with a single template.

    Raises:
        ValueError: An argument is out of range.
    """
    _check_range(n_resamples, level)
    value = point(function, answers)
    if np.isnan(value):
        return None
    (index,), n_templates = template_index([answers.templates])
    if n_templates < 2:
        return Interval(value, None, None, None)
    generator = np.random.default_rng([seed, 0])
    draws = np.concatenate(
        [
            over_instructions(function(answers, counts[:, index]))
            for counts in template_counts(n_templates, len(index), n_resamples, generator)
        ]
    )
    low, high = expanded_interval(draws, level, [_variance(draws)], [n_templates])
    if np.isnan(low):
        return Interval(value, None, None, None)
    return Interval(value, float(np.sqrt(_variance(draws))), low, high)


def pooled_difference(
    function: MetricFunction,
    pairs: Sequence[Pair],
    *,
    metric_name: str,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    ideal: Ideal | None = None,
) -> PooledEstimate:
    """Mean over strata of the mean over pairs of a metric's difference, with an interval.

    Templates are drawn within each stratum, from all templates of its pairs, and a draw is applied
    to every pair of the stratum: trials on the same items do not pass for independent evidence.
    Pairs without a defined difference are left out of all values. A resample in which a remaining
    pair is undefined is dropped; there is no interval if more than `MAX_UNDEFINED` of them are, or
    if a stratum has one template only (it would look as if it had no variance).

    Args:
        function: The metric.
        pairs: States to compare; those of one stratum are averaged first.
        metric_name: Name written into the estimate.
        n_resamples: Number of resamples, at least 1.
        level: Coverage of the interval, between 0 and 1.
        seed: Start of the random numbers.
        ideal: The metric's best value; with it the gain, its interval and its exact test are
            computed as well.

    Returns:
        The estimate; `n_clusters` sums the templates of the strata.

    Raises:
        ValueError: As in `paired_bootstrap`.
    """
    _check_range(n_resamples, level)
    strata: dict[str, list[Pair]] = {}
    points: dict[str, list[tuple[float, float]]] = {}
    for pair in pairs:
        _check_paired(pair.original, pair.patched)
        values = point(function, pair.original), point(function, pair.patched)
        if not np.isnan(values).any():
            strata.setdefault(pair.stratum, []).append(pair)
            points.setdefault(pair.stratum, []).append(values)

    before = after = low = high = np.nan
    draws: list[_Draws] = []
    if strata:
        before, after = np.mean([np.mean(each, axis=0) for each in points.values()], axis=0)
        for position, stratum in enumerate(sorted(strata)):
            generator = np.random.default_rng([seed, position])
            draws.append(_stratum(function, strata[stratum], n_resamples, generator, ideal))
        low, high = _interval([each.difference for each in draws], draws, level)
    estimate = PooledEstimate(
        metric=metric_name,
        original=optional(before),
        patched=optional(after),
        difference=optional(after - before),
        low=optional(low),
        high=optional(high),
        level=level,
        n_clusters=sum(each.n_templates for each in draws),
        n_strata=len(strata),
        n_pairs=sum(len(members) for members in strata.values()),
    )
    if ideal is None or not strata:
        return estimate
    test = swap_test(function, [strata[name] for name in sorted(strata)], ideal, seed=seed)
    gains = [
        float(np.mean([gain(np.float64(one), np.float64(other), ideal) for one, other in each]))
        for each in points.values()
    ]
    parts = [each.gain for each in draws]
    gain_low, gain_high = _interval(parts, draws, level)
    error = degrees = None
    if not np.isnan(gain_low):
        variances = [_variance(part) for part in parts]
        scale, degrees = inflation(variances, [each.n_templates for each in draws])
        error = float(np.sqrt(scale * sum(variances))) / len(draws)
    return replace(
        estimate,
        gain=float(np.mean(gains)),
        gain_low=optional(gain_low),
        gain_high=optional(gain_high),
        standard_error=error,
        degrees=degrees,
        p_value=test.p_value,
        smallest_p=test.smallest,
        test=test.name,
    )


@dataclass(frozen=True, slots=True)
class _Draws:
    """Resamples of one stratum: means over its pairs."""

    difference: FloatArray
    """[B] patched minus original, NaN where undefined."""
    gain: FloatArray
    """[B] the same towards the ideal."""
    n_templates: int


def _stratum(
    function: MetricFunction,
    pairs: Sequence[Pair],
    n_resamples: int,
    generator: np.random.Generator,
    ideal: Ideal | None,
) -> _Draws:
    index, n_templates = template_index([pair.original.templates for pair in pairs])
    if n_templates < 2:
        # A single cluster has no variance to resample: unknown, not zero.
        nothing = np.full(n_resamples, np.nan)
        return _Draws(nothing, nothing, n_templates)
    widest = max(len(of_instance) for of_instance in index)
    means = []
    for counts in template_counts(n_templates, widest, n_resamples, generator):
        total = np.zeros((2, len(counts)))
        originals: dict[int, FloatArray] = {}
        for pair, of_instance in zip(pairs, index, strict=True):
            weights = counts[:, of_instance]
            # Trials share their original state.
            before = originals.get(id(pair.original))
            if before is None:
                before = over_instructions(function(pair.original, weights))
                originals[id(pair.original)] = before
            after = over_instructions(function(pair.patched, weights))
            total += after - before, gain(before, after, "max" if ideal is None else ideal)
        means.append(total / len(pairs))
    difference, gains = np.concatenate(means, axis=1)
    return _Draws(difference, gains, n_templates)


def _interval(
    parts: Sequence[FloatArray], draws: Sequence[_Draws], level: float
) -> tuple[float, float]:
    if any(each.n_templates < 2 for each in draws):
        return np.nan, np.nan
    return expanded_interval(
        np.mean(parts, axis=0),
        level,
        [_variance(part) for part in parts],
        [each.n_templates for each in draws],
    )


def _variance(draws: FloatArray) -> float:
    defined = draws[~np.isnan(draws)]
    return float(np.var(defined, ddof=1)) if len(defined) > 1 else 0.0


def _check_range(n_resamples: int, level: float) -> None:
    if n_resamples < 1 or not 0.0 < level < 1.0:
        raise ValueError("need at least 1 resample and a level between 0 and 1")


def _check_paired(one: Answers, other: Answers) -> None:
    if [(i.id, i.template) for i in one.instances] != [(i.id, i.template) for i in other.instances]:
        raise ValueError("a paired difference needs the same instances in the same order")
    if one.instructions != other.instructions:
        raise ValueError("a paired difference needs the same instructions in the same order")
