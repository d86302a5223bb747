"""Verdicts in words, by one rule for all metrics.

- `improved` or `worse`: the corrected p-value of the exact test is at most 1 - level, and the
  interval of the gain lies on that side of 0. Both are asked for, so the chance of such a verdict
  without an effect is at most that of the test.
- `not worse by more than d`: neither, and the interval of the gain lies above -d (non-inferiority).
- `no evidence`: none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from excise.statistics.estimates import Ideal, PooledEstimate, gain
from excise.statistics.multiple import holm
from excise.statistics.power import minimum_detectable

IMPROVED = "improved"
WORSE = "worse"
NOT_WORSE = "not worse by more than"
"""How the verdict of non-inferiority begins; the margin follows."""
NO_EVIDENCE = "no evidence"

FEWEST_TEMPLATES = 6
"""Templates below which intervals are too short to exclude a loss, as below which the exact test
cannot give p = 0.05."""

FEWEST_CONTROLS = 20
"""Random controls below which a position among them is no percentile."""

Correction = Literal["holm", "none"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A difference to be judged, with what the rule has to know about its metric."""

    estimate: PooledEstimate
    ideal: Ideal
    margin: float | None
    """Largest loss that counts as none, in the metric's own unit; None: not to be claimed."""
    amount: Callable[[float], str]
    """Writes a size of change in the unit that readers know."""
    family: Hashable = ""
    """What makes the test a different one; tests of one family with the same numbers are one."""


def judged(
    measured: Sequence[Measured], *, correction: Correction = "holm", power: float = 0.8
) -> list[PooledEstimate]:
    """Correct all p-values for each other, and say what each difference means.

    Tests that cannot be significant whatever the signs (nothing changed, or too few templates) are
    not counted (Tarone 1990), nor is one test counted twice under two names.

    Args:
        measured: All differences of a run, or of a table.
        correction: `holm`, or `none`.
        power: Probability that defines the smallest detectable change.

    Returns:
        The estimates with verdicts, in the same order.
    """
    p_values: dict[Hashable, float] = {}
    for entry in measured:
        found = entry.estimate
        if found.p_value is None or (found.smallest_p or 0.0) > 1.0 - found.level:
            continue
        p_values[_identity(entry)] = found.p_value
    adjusted = holm(p_values) if correction == "holm" else p_values
    n_tests = len(p_values) if correction == "holm" else 1
    return [
        _judged(entry, adjusted.get(_identity(entry), entry.estimate.p_value), n_tests, power)
        for entry in measured
    ]


def _identity(entry: Measured) -> Hashable:
    found = entry.estimate
    return (
        entry.family,
        found.original,
        found.patched,
        found.gain_low,
        found.gain_high,
        found.p_value,
    )


def _judged(
    entry: Measured, p_adjusted: float | None, n_tests: int, power: float
) -> PooledEstimate:
    found = entry.estimate
    controls = [value for value in found.controls if value is not None]
    beaten = sum(_beats(found.patched, value, entry.ideal) for value in controls)
    found = replace(
        found,
        p_adjusted=p_adjusted,
        n_tests=n_tests,
        margin=entry.margin,
        n_controls=len(controls),
        control_position=beaten / len(controls) if controls and found.patched is not None else None,
        minimum_detectable=_detectable(found, power),
    )
    verdict = verdict_of(found, entry.amount)
    return replace(found, verdict=verdict, verdict_text=_text(found, verdict, entry, power))


def verdict_of(found: PooledEstimate, amount: Callable[[float], str]) -> str:
    """The verdict of an estimate whose p-value is corrected; see the module."""
    low, high = found.gain_low, found.gain_high
    if low is None or high is None:
        return NO_EVIDENCE
    if found.p_adjusted is not None and found.p_adjusted <= 1.0 - found.level:
        if low > 0:
            return IMPROVED
        if high < 0:
            return WORSE
    enough = found.n_clusters >= FEWEST_TEMPLATES
    if found.margin is not None and found.margin > 0 and low > -found.margin and enough:
        return f"{NOT_WORSE} {amount(found.margin)}"
    return NO_EVIDENCE


def _detectable(found: PooledEstimate, power: float) -> float | None:
    if not found.standard_error or found.degrees is None:
        return None
    return minimum_detectable(found.standard_error, found.degrees, level=found.level, power=power)


def _beats(value: float | None, other: float, ideal: Ideal) -> bool:
    return value is not None and bool(gain(np.float64(other), np.float64(value), ideal) > 0)


def _text(found: PooledEstimate, verdict: str, entry: Measured, power: float) -> str:
    if found.gain is None:
        return f"{NO_EVIDENCE}: undefined before or after"
    parts = [_change(found, verdict, entry)]
    if found.gain_low is None or found.gain_high is None:
        parts.append("no interval, with a single template or too many undefined resamples")
    parts.append(_p_value(found))
    if verdict == NO_EVIDENCE and found.minimum_detectable is not None:
        size = entry.amount(found.minimum_detectable)
        parts.append(
            f"taken alone, a change below {size} would often be missed (power {100 * power:.0f} %)"
        )
    parts.append(_controls(found))
    return "; ".join(part for part in parts if part)


def _change(found: PooledEstimate, verdict: str, entry: Measured) -> str:
    assert found.gain is not None
    if found.gain == 0:
        size = "no change"
    elif isinstance(entry.ideal, str):
        size = f"{entry.amount(abs(found.gain))} {'better' if found.gain > 0 else 'worse'}"
    else:
        size = (
            f"{entry.amount(abs(found.gain))} "
            f"{'nearer to' if found.gain > 0 else 'farther from'} {entry.ideal:g}"
        )
    if verdict == WORSE and found.margin and (found.gain_low or 0.0) > -found.margin:
        size += f", but not by more than {entry.amount(found.margin)}"
    # A loss must not hide behind the number of tests.
    alone = found.p_value is not None and found.p_value <= 1.0 - found.level
    hidden = verdict == NO_EVIDENCE and alone and found.n_tests > 1
    return f"{verdict}{' after correction' if hidden else ''}: {size}"


def _p_value(found: PooledEstimate) -> str:
    if found.p_value is None or found.p_adjusted is None:
        return ""
    if found.smallest_p == 1.0 and found.gain == 0:
        return "no template changed"
    if found.smallest_p is not None and found.smallest_p > 1.0 - found.level:
        return f"with so few changed templates p cannot be below {_p(found.smallest_p)}"
    alone = f"p {_p(found.p_value)}"
    if found.n_tests == 1:
        return alone
    return f"{alone}, {_p(found.p_adjusted)} corrected for {found.n_tests} tests"


def _p(value: float) -> str:
    if value >= 0.1:
        return f"{value:.2f}"
    if value >= 0.001:
        return f"{value:.3f}"
    return f"{value:.1g}" if value >= 1e-4 else "below 0.0001"


def _controls(found: PooledEstimate) -> str:
    if found.control_position is None:
        return ""
    if found.n_controls < FEWEST_CONTROLS:
        beaten = round(found.control_position * found.n_controls)
        few = f"fewer than the {FEWEST_CONTROLS} of a percentile"
        return f"better than {beaten} of {found.n_controls} random controls ({few})"
    return f"better than {100 * found.control_position:.0f} % of {found.n_controls} random controls"
