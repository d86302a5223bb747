"""Paired cluster bootstrap: how sure the difference between two states of a model is.

Items made from one question template are near-copies, so the template is the unit that is drawn,
never the item; and both states are evaluated on the same draw, so what is hard about an item
cancels. Intervals are percentile intervals (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from excise.types import Answers, Estimate, FloatArray, IntArray

MetricFunction = Callable[[Any, FloatArray], FloatArray]
"""From answers and weights [B, N] to values [B, I], NaN where undefined."""

MAX_UNDEFINED = 0.1
"""Largest share of undefined resamples with which an interval is still reported."""

_CHUNK_ENTRIES = 4_000_000
"""Weights held at a time, 32 MB: memory does not grow with the number of resamples."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two states of one model on the same instances, for example one trial on one task."""

    original: Answers
    patched: Answers
    stratum: str
    """What is averaged with equal weight in the end, usually the task."""


@dataclass(frozen=True, slots=True)
class PooledEstimate(Estimate):
    """An estimate over several strata: means over those in which the difference is defined."""

    n_strata: int = 0
    n_pairs: int = 0


def template_weights(templates: Sequence[str], n_resamples: int, seed: int) -> FloatArray:
    """How often each instance counts when templates are drawn with replacement.

    Args:
        templates: [N] template of each instance.
        n_resamples: B, the number of resamples.
        seed: Start of the random numbers; equal seeds give equal weights.

    Returns:
        [B, N] non-negative whole numbers; all instances of a template share one.

    Raises:
        ValueError: There is no instance, or no resample.
    """
    if not templates or n_resamples < 1:
        raise ValueError("need at least 1 instance and 1 resample")
    (index,), n_templates = _template_index([templates])
    generator = np.random.default_rng([seed, 0])
    draws = _template_counts(n_templates, len(templates), n_resamples, generator)
    return np.concatenate([counts[:, index] for counts in draws])


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
        original=_optional(_point(function, original)),
        patched=_optional(_point(function, patched)),
        difference=single.difference,
        low=single.low,
        high=single.high,
        level=level,
        n_clusters=len(set(original.templates)),
        controls=tuple(_optional(_point(function, control)) for control in controls),
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
    point = _point(function, answers)
    if np.isnan(point):
        return None
    (index,), n_templates = _template_index([answers.templates])
    if n_templates < 2:
        return Interval(point, None, None, None)
    generator = np.random.default_rng([seed, 0])
    draws = np.concatenate(
        [
            _over_instructions(function(answers, counts[:, index]))
            for counts in _template_counts(n_templates, len(index), n_resamples, generator)
        ]
    )
    low, high = _percentile_interval(draws, level)
    if np.isnan(low):
        return Interval(point, None, None, None)
    return Interval(point, float(np.nanstd(draws, ddof=1)), low, high)


def pooled_difference(
    function: MetricFunction,
    pairs: Sequence[Pair],
    *,
    metric_name: str,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
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
        point = _point(function, pair.original), _point(function, pair.patched)
        if not np.isnan(point).any():
            strata.setdefault(pair.stratum, []).append(pair)
            points.setdefault(pair.stratum, []).append(point)

    before = after = low = high = np.nan
    n_clusters = 0
    if strata:
        before, after = np.mean([np.mean(each, axis=0) for each in points.values()], axis=0)
        draws = np.zeros(n_resamples)
        for position, stratum in enumerate(sorted(strata)):
            generator = np.random.default_rng([seed, position])
            one, n_templates = _stratum_draws(function, strata[stratum], n_resamples, generator)
            draws += one / len(strata)
            n_clusters += n_templates
        low, high = _percentile_interval(draws, level)
    return PooledEstimate(
        metric=metric_name,
        original=_optional(before),
        patched=_optional(after),
        difference=_optional(after - before),
        low=_optional(low),
        high=_optional(high),
        level=level,
        n_clusters=n_clusters,
        n_strata=len(strata),
        n_pairs=sum(len(members) for members in strata.values()),
    )


def _check_range(n_resamples: int, level: float) -> None:
    if n_resamples < 1 or not 0.0 < level < 1.0:
        raise ValueError("need at least 1 resample and a level between 0 and 1")


def _stratum_draws(
    function: MetricFunction,
    pairs: Sequence[Pair],
    n_resamples: int,
    generator: np.random.Generator,
) -> tuple[FloatArray, int]:
    """[B] mean over pairs of patched minus original, NaN where undefined; number of templates."""
    index, n_templates = _template_index([pair.original.templates for pair in pairs])
    if n_templates < 2:
        # A single cluster has no variance to resample: unknown, not zero.
        return np.full(n_resamples, np.nan), n_templates
    widest = max(len(of_instance) for of_instance in index)
    means = []
    for counts in _template_counts(n_templates, widest, n_resamples, generator):
        total = np.zeros(len(counts))
        for pair, of_instance in zip(pairs, index, strict=True):
            weights = counts[:, of_instance]
            total += _over_instructions(function(pair.patched, weights))
            total -= _over_instructions(function(pair.original, weights))
        means.append(total / len(pairs))
    return np.concatenate(means), n_templates


def _template_counts(
    n_templates: int, n_instances: int, n_resamples: int, generator: np.random.Generator
) -> Iterator[FloatArray]:
    """Chunks [b, T]: how often each template is drawn; the chunks leave the draws unchanged."""
    size = max(1, _CHUNK_ENTRIES // max(n_instances, n_templates))
    for start in range(0, n_resamples, size):
        rows = min(size, n_resamples - start)
        drawn = generator.integers(n_templates, size=(rows, n_templates))
        cells = drawn + n_templates * np.arange(rows)[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows * n_templates)
        yield counts.reshape(rows, n_templates).astype(np.float64)


def _template_index(templates: Sequence[Sequence[str]]) -> tuple[list[IntArray], int]:
    """Position of each instance's template among all of them sorted, and how many there are."""
    position = {name: i for i, name in enumerate(sorted(set(chain.from_iterable(templates))))}
    index = [np.array([position[name] for name in each], dtype=np.int64) for each in templates]
    return index, len(position)


def _point(function: MetricFunction, predictions: Answers) -> float:
    weights = np.ones((1, len(predictions.instances)))
    return float(_over_instructions(function(predictions, weights))[0])


def _over_instructions(values: FloatArray) -> FloatArray:
    """[B] mean of [B, I] over the defined instructions, NaN where there is none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    n_defined = defined.sum(axis=1)
    means = np.full(len(values), np.nan)
    np.divide(total, n_defined, out=means, where=n_defined > 0)
    return means


def _percentile_interval(draws: FloatArray, level: float) -> tuple[float, float]:
    defined = draws[~np.isnan(draws)]
    if len(draws) - len(defined) > MAX_UNDEFINED * len(draws):
        return np.nan, np.nan
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return float(low), float(high)


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _check_paired(one: Answers, other: Answers) -> None:
    if [(i.id, i.template) for i in one.instances] != [(i.id, i.template) for i in other.instances]:
        raise ValueError("a paired difference needs the same instances in the same order")
    if one.instructions != other.instructions:
        raise ValueError("a paired difference needs the same instructions in the same order")
