"""Exact tests of paired differences: templates' signs flipped, and McNemar's test.

Without an effect, original and patched could have changed names in any template, so the difference
that a template contributes is as likely to have the other sign (Fisher, "The Design of
Experiments", 1935, section 21). The test compares the sum of contributions to the sums under all
assignments of signs. Where all contributions have the same size it is the exact test of McNemar
(1947): a binomial test of how many point one way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from excise.statistics.resampling import chunks
from excise.types import FloatArray

MOST_ENUMERATED = 36
"""Contributions up to which all assignments of signs are counted; two halves of 2**18 sums."""

N_FLIPS = 19_999
"""Random assignments of signs where there are more."""

_NEGLIGIBLE = 1e-9
"""Relative size of differences that are rounding."""


@dataclass(frozen=True, slots=True)
class ExactTest:
    """What a test found."""

    p_value: float
    """Two-sided, in 0..1."""
    smallest: float
    """The smallest p that these sizes of contributions allow, whatever their signs."""
    exact: bool
    """Whether all assignments were counted, rather than a random sample of them."""
    binomial: bool = False
    """Whether all contributions have the same size."""


def sign_flip(contributions: FloatArray, *, seed: int = 0) -> ExactTest:
    """Two-sided sign-flip test that contributions are symmetric about zero.

    Up to `MOST_ENUMERATED` contributions other than zero the p-value is exact: sums of one half are
    looked up among the sorted sums of the other. Beyond that it comes from `N_FLIPS` random
    assignments, the observed one counted among them, so that it is never too small.

    Args:
        contributions: [T] what each template adds to the difference.
        seed: Start of the random assignments.

    Returns:
        The test; p = 1 where every contribution is zero.
    """
    scale = float(np.abs(contributions).max(initial=0.0))
    sizes = contributions[np.abs(contributions) > _NEGLIGIBLE * scale]
    if not sizes.size:
        return ExactTest(1.0, 1.0, exact=True)
    smallest = 0.5 ** (len(sizes) - 1)
    if np.ptp(np.abs(sizes)) <= _NEGLIGIBLE * scale:
        p_value = stats.binomtest(int((sizes > 0).sum()), len(sizes)).pvalue
        return ExactTest(float(p_value), smallest, exact=True, binomial=True)
    observed = abs(float(sizes.sum()))
    rounding = _NEGLIGIBLE * float(np.abs(sizes).sum())
    if len(sizes) <= MOST_ENUMERATED:
        return ExactTest(_enumerated(sizes, observed, rounding), smallest, exact=True)
    return ExactTest(_sampled(sizes, observed, rounding, seed), 1.0 / (N_FLIPS + 1), exact=False)


def _enumerated(sizes: FloatArray, observed: float, rounding: float) -> float:
    if observed <= rounding:
        return 1.0
    half = len(sizes) // 2
    left, right = _sums(sizes[:half]), np.sort(_sums(sizes[half:]))
    above = len(right) - np.searchsorted(right, observed - left - rounding, side="left")
    below = np.searchsorted(right, -observed - left + rounding, side="right")
    return float((above.sum() + below.sum()) / 2.0 ** len(sizes))


def _sums(sizes: FloatArray) -> FloatArray:
    """[2**k] sums of k numbers under all assignments of signs."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return sums


def _sampled(sizes: FloatArray, observed: float, rounding: float, seed: int) -> float:
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in chunks(N_FLIPS, len(sizes)):
        signs = 1.0 - 2.0 * generator.integers(2, size=(len(rows), len(sizes)))
        extreme += int((np.abs(signs @ sizes) >= observed - rounding).sum())
    return (extreme + 1) / (N_FLIPS + 1)
