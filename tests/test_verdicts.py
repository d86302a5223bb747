"""Verdicts in words: one rule for all metrics, worked out case by case."""

from __future__ import annotations

from typing import Any

import pytest

from excise.statistics import Measured, PooledEstimate, judged
from excise.statistics.verdicts import FEWEST_CONTROLS


def row(**given: Any) -> PooledEstimate:
    """A gain of 0.1 with an interval, better where more is better."""
    values: dict[str, Any] = {
        "metric": "m",
        "original": 0.5,
        "patched": 0.6,
        "difference": 0.1,
        "low": 0.04,
        "high": 0.16,
        "n_clusters": 12,
        "gain": 0.1,
        "gain_low": 0.04,
        "gain_high": 0.16,
        "standard_error": 0.03,
        "degrees": 11.0,
        "p_value": 0.01,
        "smallest_p": 0.0005,
        "test": "a test",
    }
    return PooledEstimate(**values | given)


def points(size: float) -> str:
    return f"{100 * size:.3g} points"


def judge(found: PooledEstimate, ideal: Any = "max", margin: float | None = 0.02) -> PooledEstimate:
    (said,) = judged([Measured(found, ideal, margin, points)])
    return said


def against(low: float, high: float, **given: Any) -> PooledEstimate:
    middle = (low + high) / 2
    ends = {"gain": middle, "gain_low": low, "gain_high": high}
    return row(**ends, difference=middle, low=low, high=high, patched=0.5 + middle, **given)


def test_improved_needs_both_the_test_and_the_interval() -> None:
    assert judge(row()).verdict == "improved"
    assert judge(row(p_value=0.05)).verdict == "improved"
    assert judge(row(p_value=0.051), margin=None).verdict == "no evidence"
    assert judge(against(-0.001, 0.2), margin=None).verdict == "no evidence"
    assert judge(row(level=0.999), margin=None).verdict == "no evidence"


def test_worse() -> None:
    said = judge(against(-0.16, -0.04))
    assert said.verdict == "worse"
    assert said.verdict_text.startswith("worse: 10 points worse; p 0.010; ") is False
    assert said.verdict_text == "worse: 10 points worse; p 0.010"
    within = judge(against(-0.015, -0.005))
    assert within.verdict == "worse"
    assert "1 points worse, but not by more than 2 points" in within.verdict_text


def test_not_worse_by_more_than_the_margin() -> None:
    assert judge(against(-0.019, 0.03, p_value=0.4)).verdict == "not worse by more than 2 points"
    assert judge(against(-0.02, 0.03, p_value=0.4)).verdict == "no evidence"
    # Significant for the test alone, but the interval holds 0: the loss is still excluded.
    assert judge(against(-0.019, 0.03)).verdict == "not worse by more than 2 points"
    few = against(-0.019, 0.03, p_value=0.4, n_clusters=5)
    assert judge(few).verdict == "no evidence"
    assert judge(against(-0.019, 0.03, p_value=0.4), margin=0.0).verdict == "no evidence"


def test_no_evidence_says_what_would_be_missed() -> None:
    said = judge(against(-0.05, 0.09, p_value=0.5))
    assert said.verdict == "no evidence"
    # Student's t with 11 degrees of freedom: 2.2010 at 97.5 % and 0.8755 at 80 %.
    assert said.minimum_detectable == pytest.approx(0.03 * (2.2010 + 0.8755), abs=1e-4)
    assert said.verdict_text == (
        "no evidence: 2 points better; p 0.50; taken alone, a change below 9.23 points would often "
        "be missed (power 80 %)"
    )
    assert judge(row(standard_error=0.0)).minimum_detectable is None


def test_undefined_and_without_an_interval() -> None:
    nothing = PooledEstimate("m", 0.5, None, None, None, None)
    said = judge(nothing)
    assert (said.verdict, said.p_adjusted) == ("no evidence", None)
    assert said.verdict_text == "no evidence: undefined before or after"
    alone = judge(row(gain_low=None, gain_high=None, p_value=1.0, smallest_p=1.0))
    assert alone.verdict == "no evidence"
    assert "no interval" in alone.verdict_text


def test_a_number_as_ideal_is_about_the_distance() -> None:
    said = judge(row(original=0.3, patched=0.2, difference=-0.1), 0.0)
    assert said.verdict == "improved"
    assert said.verdict_text.startswith("improved: 10 points nearer to 0; ")
    worse = judge(against(-0.16, -0.04), 0.5)
    assert worse.verdict_text.startswith("worse: 10 points farther from 0.5; ")


def test_holm_runs_over_all_tests_of_a_run() -> None:
    rows = [row(p_value=p, original=p) for p in (0.02, 0.01, 0.04)]
    said = judged([Measured(r, "max", None, points) for r in rows])
    assert [r.p_adjusted for r in said] == pytest.approx([0.04, 0.03, 0.04])
    assert [r.n_tests for r in said] == [3, 3, 3]
    assert [r.verdict for r in said] == ["improved"] * 3
    two = judged([Measured(r, "max", None, points) for r in (row(p_value=0.03), row(original=0.1))])
    assert [r.verdict for r in two] == ["improved", "improved"]
    lost = [row(p_value=0.03), row(p_value=0.026, original=0.1)]
    said = judged([Measured(r, "max", None, points) for r in lost])
    assert [r.verdict for r in said] == ["no evidence"] * 2
    assert "no evidence after correction: 10 points better" in said[0].verdict_text
    assert "p 0.030, 0.052 corrected for 2 tests" in said[0].verdict_text
    alone = judged([Measured(r, "max", None, points) for r in lost], correction="none")
    assert [r.verdict for r in alone] == ["improved"] * 2
    assert [r.p_adjusted for r in alone] == [0.03, 0.026]


def test_tests_that_decide_nothing_are_not_counted() -> None:
    # The same numbers under a second name, and a test that no signs could make significant.
    rows = [row(), row(metric="twin"), row(p_value=0.125, smallest_p=0.125, original=0.2)]
    said = judged([Measured(r, "max", None, points) for r in rows])
    assert [r.n_tests for r in said] == [1, 1, 1]
    assert [r.p_adjusted for r in said] == [0.01, 0.01, 0.125]
    assert "with so few changed templates p cannot be below 0.12" in said[2].verdict_text
    # In two families the same numbers are two findings.
    apart = judged([Measured(row(), "max", None, points, family) for family in ("one", "two")])
    assert [r.p_adjusted for r in apart] == [0.02, 0.02]


def test_the_position_among_random_controls() -> None:
    few = judge(row(controls=(0.5, 0.55, None, 0.6, 0.7)))
    # 0.6 is a tie, which is not beaten.
    assert (few.control_position, few.n_controls) == (0.5, 4)
    assert few.verdict_text.endswith(
        "better than 2 of 4 random controls (fewer than the 20 of a percentile)"
    )
    assert judge(row(controls=(0.5, 0.7)), "min").control_position == 0.5
    # Distances to 0.5: the patched 0.1, the controls 0.15 and 0.05.
    assert judge(row(controls=(0.35, 0.55)), 0.5).control_position == 0.5
    many = judge(row(controls=(0.5,) * (FEWEST_CONTROLS - 1) + (0.9,)))
    assert many.verdict_text.endswith("better than 95 % of 20 random controls")
    none = judge(row())
    assert (none.control_position, none.n_controls) == (None, 0)
