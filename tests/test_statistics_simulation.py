"""Simulated runs: how often intervals hold the truth, and how often noise passes for an effect.

Items are questions with 0/1 outcomes in 10 to 25 templates; each template has its own difficulty
and its own effect of the patch, drawn anew in every simulated run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from excise.statistics import (
    Measured,
    Pair,
    PooledEstimate,
    judged,
    pooled_difference,
    sign_flip,
    swap_test,
)
from excise.statistics.intervals import expanded_interval, expanded_tail
from excise.statistics.power import minimum_detectable, templates_needed
from excise.statistics.verdicts import IMPROVED, WORSE
from excise.types import FloatArray, IntArray, Predictions
from test_statistics import ACCURACY, S_DIS, answered

RUNS = 4000
"""Simulated runs: the standard error of a coverage of 95 % is 0.34 points."""
TOGETHER = 500
"""Runs that share their resamples."""


@dataclass(frozen=True)
class Simulated:
    """Right answers of both states in each template of each run."""

    items: IntArray
    """[R, T] items of a template."""
    before: IntArray
    after: IntArray
    truth: float
    """Mean difference over the population of templates."""


def simulate(
    generator: np.random.Generator, runs: int, templates: int, *, effect: float, sizes: str
) -> Simulated:
    """Template effects on the log odds: normal difficulty (sd 1), normal effect (sd 0.7)."""
    shape = (runs, templates)
    items = np.full(shape, 8) if sizes == "equal" else generator.integers(6, 19, shape)

    def rates(shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
        difficulty, change = generator.normal(0, 1, shape), generator.normal(effect, 0.7, shape)
        # Half the effect on either side: without one, both states have the same distribution.
        return (
            1 / (1 + np.exp(-(difficulty - change / 2))),
            1 / (1 + np.exp(-(difficulty + change / 2))),
        )

    one, other = rates((100_000,))
    truth = float((other - one).mean()) if effect else 0.0
    before, after = rates(shape)
    return Simulated(
        items, generator.binomial(items, before), generator.binomial(items, after), truth
    )


def resampled(generator: np.random.Generator, found: Simulated) -> FloatArray:
    """[B, R] the difference in resamples of templates; runs share the resamples."""
    templates = found.items.shape[1]
    weights = generator.multinomial(templates, [1 / templates] * templates, 800).astype(float)
    changed, items = (found.after - found.before).astype(float), found.items.astype(float)
    draws: FloatArray = (weights @ changed.T) / (weights @ items.T)
    return draws


def coverage(templates: int, effect: float, sizes: str) -> tuple[float, float]:
    """Share of expanded and of plain percentile intervals that hold the truth."""
    generator = np.random.default_rng([templates, sizes == "equal", int(10 * effect)])
    held = plain = 0
    tail = expanded_tail(0.95, [1.0], [templates])
    for _ in range(RUNS // TOGETHER):
        found = simulate(generator, TOGETHER, templates, effect=effect, sizes=sizes)
        draws = resampled(generator, found)
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        held += int(((low - 1e-12 <= found.truth) & (found.truth <= high + 1e-12)).sum())
        one = draws[:, 0]
        # This is what the library does run by run.
        ends = expanded_interval(one, 0.95, [one.var()], [templates])
        assert ends == pytest.approx((low[0], high[0]), abs=1e-12)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        plain += int(((low <= found.truth) & (found.truth <= high)).sum())
    return held / RUNS, plain / RUNS


@pytest.mark.parametrize("templates", [10, 15, 25])
@pytest.mark.parametrize(("effect", "sizes"), [(0.0, "equal"), (0.8, "equal"), (0.8, "unequal")])
def test_intervals_hold_the_truth_in_93_to_97_percent(
    templates: int, effect: float, sizes: str
) -> None:
    expanded, plain = coverage(templates, effect, sizes)
    assert 0.93 <= expanded <= 0.97
    # Why percentiles are expanded at all.
    assert plain < expanded
    if templates == 10:
        assert plain < 0.92


@pytest.mark.parametrize("templates", [6, 10, 15, 25])
def test_the_sign_flip_test_finds_noise_in_at_most_5_percent(templates: int) -> None:
    generator = np.random.default_rng(templates)
    found = simulate(generator, 3000, templates, effect=0.0, sizes="unequal")
    p_values = np.array(
        [sign_flip(row).p_value for row in (found.after - found.before).astype(float)]
    )
    # A true rate of 5 % would give more than this with probability 0.1 %.
    assert (p_values <= 0.05).mean() <= 0.05 + 3.1 * (0.05 * 0.95 / 3000) ** 0.5
    # Nor is it idle: with so many templates it rejects nearly as often as it may.
    if templates > 6:
        assert (p_values <= 0.05).mean() > 0.03


@cache
def questions(task: str, templates: int, size: int) -> Predictions:
    names = np.repeat([f"{task}-{t}" for t in range(templates)], size).tolist()
    return answered(np.zeros(len(names)), names)


def answers(
    generator: np.random.Generator, templates: int, size: int, effect: float
) -> tuple[Pair, Pair]:
    """One run of two tasks, with answers right (1), wrong (2) or "unknown" (0)."""
    pairs = []
    for task in ("one", "two"):
        sides = generator.normal(0, 1, templates)
        shift = generator.normal(effect, 0.7, templates)
        states = []
        for sign in (-0.5, 0.5):
            chance = 1 / (1 + np.exp(-(sides + sign * shift)))
            right = generator.random((templates, size)) < chance[:, None]
            silent = generator.random((templates, size)) < 0.2
            states.append(np.where(silent, 0, np.where(right, 1, 2)).ravel())
        before, after = (
            replace(questions(task, templates, size), choice=state[None]) for state in states
        )
        pairs.append(Pair(before, after, task))
    return pairs[0], pairs[1]


def verdicts(pairs: tuple[Pair, Pair], seed: int) -> list[PooledEstimate]:
    """Two metrics of two tasks and one of both together, judged as one run."""
    measured = []
    accuracy, s_dis = ("accuracy", ACCURACY, "max"), ("s_dis", S_DIS, 0.0)
    for chosen, metrics in (
        ([pairs[0]], (accuracy, s_dis)),
        ([pairs[1]], (accuracy, s_dis)),
        ([*pairs], (accuracy,)),
    ):
        for name, function, ideal in metrics:
            found = pooled_difference(
                function,
                chosen,
                metric_name=name,
                n_resamples=100,
                seed=seed,
                ideal=ideal,  # type: ignore[arg-type]
            )
            entry = Measured(found, ideal, 0.05, str, len(measured))  # type: ignore[arg-type]
            measured.append(entry)
    return judged(measured)


def test_a_run_without_effect_gets_a_verdict_in_at_most_5_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("excise.statistics.swapping.N_SWAPS", 499)
    generator, runs = np.random.default_rng(5), 150
    wrong = 0
    for run in range(runs):
        found = verdicts(answers(generator, 10, 5, effect=0.0), run)
        wrong += any(row.verdict in (IMPROVED, WORSE) for row in found)
    # A true rate of 5 % would give more than this with probability 1 %.
    assert wrong / runs <= 0.05 + 2.33 * (0.05 * 0.95 / runs) ** 0.5


def test_an_effect_is_found_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("excise.statistics.swapping.N_SWAPS", 499)
    generator, runs = np.random.default_rng(6), 20
    found = [verdicts(answers(generator, 15, 6, effect=2.0), run)[0].verdict for run in range(runs)]
    assert found.count(IMPROVED) >= 0.8 * runs


def test_the_swap_test_of_a_bias_score_finds_noise_in_at_most_5_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("excise.statistics.swapping.N_SWAPS", 199)
    generator, runs = np.random.default_rng(7), 400
    found = 0
    for run in range(runs):
        pair, _ = answers(generator, 12, 4, effect=0.0)
        found += swap_test(S_DIS, [[pair]], 0.0, seed=run).p_value <= 0.05
    assert found / runs <= 0.05 + 3.1 * (0.05 * 0.95 / runs) ** 0.5


def test_a_loss_of_the_margin_is_excluded_in_at_most_3_percent() -> None:
    # The truth is a loss of exactly the margin, so excluding it is wrong: one end of the interval.
    generator = np.random.default_rng(8)
    templates, wrong = 15, 0
    tail = expanded_tail(0.95, [1.0], [templates])
    for _ in range(RUNS // TOGETHER):
        found = simulate(generator, TOGETHER, templates, effect=-0.5, sizes="equal")
        low = np.quantile(resampled(generator, found), tail, axis=0)
        wrong += int((low > found.truth).sum())
    assert 0.015 <= wrong / RUNS <= 0.04


def test_the_smallest_detectable_change_is_detected_with_its_power() -> None:
    # Normal template differences of deviation 1: intervals of Student's t are exact there.
    generator = np.random.default_rng(9)
    for templates in (8, 20):
        error = 1 / templates**0.5
        effect = minimum_detectable(error, templates - 1)
        values = generator.normal(effect, 1, (40_000, templates))
        estimated = values.std(axis=1, ddof=1) / templates**0.5
        half = minimum_detectable(1.0, templates - 1, power=0.5)  # t at 0.5 is zero: the quantile
        shown = (values.mean(axis=1) - half * estimated > 0).mean()
        assert shown == pytest.approx(0.8, abs=0.025)
    # And so many templates are found to be needed again.
    assert templates_needed(1.0, minimum_detectable(1 / 20**0.5, 19) + 1e-9) == 20
