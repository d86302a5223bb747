"""Intervals out of bootstrap draws: percentiles, expanded for few templates.

Plain percentile intervals are too short where few clusters are drawn: with 10 templates intervals
of 95 % hold the truth in 88 to 90 % of simulated runs, and BCa intervals do no better. The expanded
percentile interval takes percentiles further out, by as much as Student's t and the unbiased
variance widen the interval of a mean (Hesterberg, "What Teachers Should Know About the Bootstrap",
The American Statistician 69, 2015, section 4.3). It holds the truth in about 94 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from excise.types import FloatArray

MAX_UNDEFINED = 0.1
"""Largest share of undefined resamples with which an interval is still reported."""


def expanded_interval(
    draws: FloatArray, level: float, variances: Sequence[float], clusters: Sequence[int]
) -> tuple[float, float]:
    """The expanded percentile interval of a mean over independently resampled strata.

    Args:
        draws: [B] the estimate in each resample, NaN where undefined.
        level: Coverage of the interval, between 0 and 1.
        variances: Variance of each stratum's own draws.
        clusters: Number of templates of each stratum, each at least 2.

    Returns:
        Lower and upper end; NaN where more than `MAX_UNDEFINED` of the draws are.
    """
    defined = draws[~np.isnan(draws)]
    if len(draws) - len(defined) > MAX_UNDEFINED * len(draws):
        return np.nan, np.nan
    tail = expanded_tail(level, variances, clusters)
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return float(low), float(high)


def expanded_tail(level: float, variances: Sequence[float], clusters: Sequence[int]) -> float:
    """Share of the draws beyond each end of the interval.

    With one stratum of T templates this is Phi(-sqrt(T / (T - 1)) t), t the quantile of Student's
    distribution with T - 1 degrees of freedom; over several strata degrees of freedom and inflation
    are those of the summed variance (Satterthwaite 1946).
    """
    scale, degrees = inflation(variances, clusters)
    quantile = stats.t.ppf((1.0 + level) / 2.0, degrees)
    return float(stats.norm.cdf(-np.sqrt(scale) * quantile))


def inflation(variances: Sequence[float], clusters: Sequence[int]) -> tuple[float, float]:
    """By what the variance of bootstrap draws is too small, and its degrees of freedom.

    Args:
        variances: Variance of each stratum's own draws.
        clusters: Number of templates of each stratum, each at least 2.
    """
    size = np.asarray(clusters, dtype=np.float64)
    drawn = np.asarray(variances, dtype=np.float64)
    total = drawn.sum()
    # Only their shares count, and squares of tiny ones (improbable texts) would be 0.
    drawn = drawn / total if total > 0 else np.full_like(size, 1.0 / len(size))
    unbiased = drawn * size / (size - 1.0)
    degrees = unbiased.sum() ** 2 / (unbiased**2 / (size - 1.0)).sum()
    return float(unbiased.sum()), float(degrees)
