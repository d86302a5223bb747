"""Correction of p-values for the number of tests."""

from __future__ import annotations

from collections.abc import Hashable, Mapping


def holm(p_values: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """Adjusted p-values that control the chance of any false finding (Holm 1979).

    The i-th smallest of m p-values is multiplied by m - i + 1; none is smaller than the one before
    it, and none above 1. It holds whatever the dependence between the tests.

    Args:
        p_values: The p-value of each test.

    Returns:
        The adjusted p-value of each test, in the same order.

    Raises:
        ValueError: A p-value is not in 0..1.
    """
    if not all(0.0 <= p <= 1.0 for p in p_values.values()):
        raise ValueError("p-values must lie in 0..1")
    adjusted: dict[Hashable, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}
