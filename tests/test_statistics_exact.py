"""Exact tests against enumeration by hand, brute force, and published oracles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from excise.metrics import METRICS
from excise.statistics import Pair, exact, holm, pooled_difference, sign_flip, swap_test, swapping
from excise.statistics.estimates import gain
from excise.types import (
    Continuations,
    FloatArray,
    Instance,
    Passage,
    Predictions,
    Prompt,
    Readings,
)
from test_statistics import ACCURACY, S_DIS, answered, random_pair


def brute_force(contributions: list[float]) -> float:
    """Two-sided p by going through every assignment of signs."""
    observed = abs(sum(contributions))
    sums = [
        abs(sum(sign * size for sign, size in zip(signs, contributions, strict=True)))
        for signs in product((1, -1), repeat=len(contributions))
    ]
    return sum(value >= observed - 1e-12 for value in sums) / len(sums)


def test_sign_flip_by_hand() -> None:
    # Sums of +-1 +-2 +-4 are 7, 5, 3, 1 and their negatives, each once: |5| or more has 4 of 8.
    found = sign_flip(np.array([-1.0, 2.0, 4.0]))
    assert (found.p_value, found.smallest, found.exact, found.binomial) == (0.5, 0.25, True, False)
    assert sign_flip(np.array([1.0, 2.0, 4.0])).p_value == 0.25


def test_sign_flip_equals_brute_force() -> None:
    generator = np.random.default_rng(0)
    for size in (2, 3, 5, 8, 11):
        # Whole numbers tie often, and zeros take no part.
        for numbers in (generator.integers(-3, 4, size), generator.normal(size=size)):
            contributions = numbers.astype(np.float64)
            wanted = brute_force([float(c) for c in contributions])
            assert sign_flip(contributions).p_value == pytest.approx(wanted, abs=1e-12)


def test_sign_flip_of_equal_sizes_is_the_exact_mcnemar_test() -> None:
    # McNemar's exact test of 12 against 3 discordant pairs; R's binom.test(3, 15): p = 0.03515625.
    contributions = np.concatenate([np.full(12, 0.01), np.full(3, -0.01), np.zeros(400)])
    found = sign_flip(contributions)
    assert found.p_value == pytest.approx(0.03515625, abs=1e-12)
    assert found.binomial
    assert found.smallest == 2.0**-14


def test_counting_in_halves_agrees_with_random_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    contributions = generator.normal(0.3, 1, 30)
    exactly = sign_flip(contributions)
    assert exactly.exact
    monkeypatch.setattr(exact, "MOST_ENUMERATED", 5)
    sampled = sign_flip(contributions, seed=3)
    assert not sampled.exact
    error = (exactly.p_value * (1 - exactly.p_value) / exact.N_FLIPS) ** 0.5
    assert abs(sampled.p_value - exactly.p_value) < 4 * error
    assert sampled.smallest == 1 / 20_000


def test_sign_flip_of_nothing_is_no_evidence() -> None:
    assert sign_flip(np.zeros(7)).p_value == 1.0
    assert sign_flip(np.zeros(0)).smallest == 1.0
    # What opposite contributions leave is rounding, not an effect.
    assert sign_flip(np.array([0.1, 0.2, -0.3, 1e-18])).p_value == 1.0


def swapped(pairs: list[Pair], which: set[str]) -> list[Pair]:
    """The pairs with original and patched changed over in some templates, by plain loops."""
    found = []
    for pair in pairs:
        before, after = pair.original, pair.patched
        assert isinstance(before, Predictions)
        assert isinstance(after, Predictions)
        one, other = before.choice.copy(), after.choice.copy()
        for n, instance in enumerate(before.instances):
            if instance.template in which:
                one[:, n], other[:, n] = after.choice[:, n], before.choice[:, n]
        found.append(Pair(replace(before, choice=one), replace(after, choice=other), pair.stratum))
    return found


def brute_force_swaps(function: Any, strata: list[list[Pair]], ideal: Any) -> float:
    names = [sorted({t for p in pairs for t in p.original.templates}) for pairs in strata]
    gains = []
    for flips in product(*([set(compress) for compress in _subsets(own)] for own in names)):
        of_strata = []
        for pairs, which in zip(strata, flips, strict=True):
            values = []
            for pair in swapped(pairs, which):
                ones = np.ones((1, len(pair.original.instances)))
                before = np.nanmean(function(pair.original, ones))
                after = np.nanmean(function(pair.patched, ones))
                values.append(gain(np.float64(before), np.float64(after), ideal))
            of_strata.append(np.mean(values))
        gains.append(abs(np.mean(of_strata)))
    # The first subset of each stratum is the empty one: nothing swapped.
    return float(np.mean(np.array(gains) >= gains[0] - 1e-12))


def _subsets(names: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for name in names:
        found += [[*subset, name] for subset in found]
    return found


@pytest.mark.parametrize(
    ("function", "ideal", "name"),
    [
        (ACCURACY, "max", "exact sign-flip test over templates"),
        (ACCURACY, "min", "exact sign-flip test over templates"),
        (ACCURACY, 0.4, "exact swap test over templates"),
        (S_DIS, 0.0, "exact swap test over templates"),
        (S_DIS, "max", "exact swap test over templates"),
    ],
)
def test_swap_test_equals_brute_force(function: Any, ideal: Any, name: str) -> None:
    templates = [f"t{i % 6}" for i in range(20)]
    trials = [random_pair(templates, "one", seed) for seed in (4, 7)]
    found = swap_test(function, [trials], ideal)
    assert found.name == name
    assert found.p_value == pytest.approx(brute_force_swaps(function, [trials], ideal), abs=1e-12)


def test_swap_test_over_strata_equals_brute_force() -> None:
    one = [random_pair([f"a{i % 4}" for i in range(11)], "one", 4)]
    two = [random_pair([f"b{i % 3}" for i in range(10)], "two", seed) for seed in (5, 6)]
    for function, ideal in ((ACCURACY, "max"), (S_DIS, 0.0)):
        found = swap_test(function, [one, two], ideal)
        wanted = brute_force_swaps(function, [one, two], ideal)
        assert found.p_value == pytest.approx(wanted, abs=1e-12)


def test_random_swaps_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = random_pair([f"t{i % 10}" for i in range(40)], "one", 3)
    exactly = swap_test(S_DIS, [[pair]], 0.0)
    monkeypatch.setattr(swapping, "MOST_ENUMERATED", 3)
    sampled = swap_test(S_DIS, [[pair]], 0.0, seed=2)
    assert sampled.name == "swap test over templates"
    error = (exactly.p_value * (1 - exactly.p_value) / swapping.N_SWAPS) ** 0.5
    assert abs(sampled.p_value - exactly.p_value) < 4 * error + 1e-3


def test_single_items_are_tested_by_mcnemar() -> None:
    # 8 items mended, 1 broken, 5 as before: two-sided 2 * (1 + 9) / 2**9.
    templates = [str(i) for i in range(14)]
    original = answered([2] * 8 + [1] + [1] * 5, templates)
    patched = answered([1] * 8 + [2] + [1] * 5, templates)
    found = swap_test(ACCURACY, [[Pair(original, patched, "")]], "max")
    assert found.name == "exact McNemar test"
    assert found.p_value == pytest.approx(20 / 512, abs=1e-12)
    assert found.p_value == pytest.approx(stats.binomtest(1, 9).pvalue, abs=1e-12)


def test_repeated_trials_are_no_further_evidence() -> None:
    pair = random_pair([f"t{i % 9}" for i in range(36)], "one", 8)
    once, thrice = (swap_test(ACCURACY, [[pair] * n], "max").p_value for n in (1, 3))
    assert once == thrice


def test_the_estimate_carries_its_test() -> None:
    pair = random_pair([f"t{i % 6}" for i in range(24)], "one", 9)
    options: dict[str, Any] = {"metric_name": "accuracy", "n_resamples": 200}
    with_ideal = pooled_difference(ACCURACY, [pair], ideal="min", **options)
    assert with_ideal.p_value == swap_test(ACCURACY, [[pair]], "min").p_value
    assert with_ideal.gain == pytest.approx(-(with_ideal.difference or 0.0))
    assert with_ideal.gain_low == pytest.approx(-(with_ideal.high or 0.0))
    assert with_ideal.gain_high == pytest.approx(-(with_ideal.low or 0.0))
    without = pooled_difference(ACCURACY, [pair], **options)
    assert (without.low, without.high) == (with_ideal.low, with_ideal.high)
    assert (without.p_value, without.gain, without.test) == (None, None, "")


def _readings(divergence: list[float]) -> Readings:
    n = len(divergence)
    counts = np.full(n, 10)
    items = tuple(Passage(str(i), "text", f"t{i}", str(i)) for i in range(n))
    likelihood = -20.0 - np.array(divergence)
    return Readings(items, likelihood, counts, 4 * counts, np.array(divergence))


def _continued(scores: list[float]) -> Continuations:
    items = tuple(Prompt(str(i), "text", "g", f"t{i}", str(i)) for i in range(len(scores)))
    table = np.array(scores)[:, None]
    texts = tuple(("word",) for _ in scores)
    return Continuations(items, texts, {"toxicity": table, "hate": table}, "judge")


def _sides(scores: list[float]) -> Predictions:
    """Two sentences of which the first is likelier by each score."""
    items = tuple(
        Instance(str(i), {}, ("more", "less"), -1, f"t{i}", str(i), stereotyped=0)
        for i in range(len(scores))
    )
    compared = np.stack([np.array(scores), np.zeros(len(scores))], axis=-1)[None]
    choice = np.where(compared[..., 0] > 0, 0, 1)
    return Predictions(items, ("",), choice, compared, np.ones_like(compared, int), compared)


@pytest.mark.parametrize(
    ("metric", "make"),
    [
        ("perplexity", _readings),
        ("kl_divergence", _readings),
        ("toxicity_mean", _continued),
        ("crows_pairs", _sides),
    ],
)
def test_all_kinds_of_answers_can_be_tested(metric: str, make: Callable[..., Any]) -> None:
    # All seven items go one way: of 2**7 assignments only this one and its reverse are as extreme.
    before, after = [0.1] * 7, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    if metric == "crows_pairs":
        before, after = [0.5] * 7, [-0.5] * 7
    pair = Pair(make(before), make(after), "")
    ideal = "min" if metric == "crows_pairs" else METRICS[metric].ideal
    found = swap_test(METRICS[metric].function, [[pair]], ideal)
    assert found.p_value == pytest.approx(2 / 2**7)


def test_unlike_answers_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot stack Readings and Predictions"):
        swapping.stacked(_readings([0.1]), _sides([0.1]))


def test_undefined_mixtures_count_as_extreme() -> None:
    def undefined_when_mixed(answers: Any, weights: FloatArray) -> FloatArray:
        half = weights.shape[1] // 2
        taken = weights[:, half:].sum(axis=1)
        mixed = (taken > 0) & (taken < half)
        return np.where(mixed, np.nan, taken / half)[:, None]

    pair = random_pair([f"t{i}" for i in range(4)], "one", 1)
    assert swap_test(undefined_when_mixed, [[pair]], "max").p_value == 1.0


def test_holm_by_hand() -> None:
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06 again, and 0.5.
    p_values = {"b": 0.02, "a": 0.01, "d": 0.5, "c": 0.03}
    assert holm(p_values) == pytest.approx({"b": 0.06, "a": 0.04, "d": 0.5, "c": 0.06})
    assert list(holm(p_values)) == ["b", "a", "d", "c"]
    assert holm({1: 0.9, 2: 0.8}) == {1: 1.0, 2: 1.0}
    assert holm({}) == {}
    with pytest.raises(ValueError, match="p-values"):
        holm({1: 1.2})
