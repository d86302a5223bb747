"""The paired cluster bootstrap against enumeration, brute force and simulated coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from excise.metrics import METRICS
from excise.statistics import (
    Pair,
    paired_bootstrap,
    pooled_difference,
    resampling,
    template_weights,
)
from excise.types import Estimate, Instance, IntArray, Predictions

ACCURACY = METRICS["accuracy"].function
S_DIS = METRICS["s_dis"].function


def answered(choice: npt.ArrayLike, templates: Sequence[str], prefix: str = "") -> Predictions:
    """Answers to disambiguated instances with gold 1 (also the stereotype) and unknown 0."""
    array: IntArray = np.atleast_2d(np.asarray(choice, dtype=np.int64))
    instances = tuple(
        Instance(
            id=f"{prefix}{number}",
            fields={},
            options=("unknown", "right", "wrong"),
            gold=1,
            template=template,
            block=str(number),
            condition="disambiguated",
            unknown=0,
            stereotyped=1,
        )
        for number, template in enumerate(templates)
    )
    return Predictions(instances, tuple(f"wording {i}" for i in range(len(array))), array)


def accuracy_estimate(
    original: Predictions, patched: Predictions, n_resamples: int = 500, **options: float
) -> Estimate:
    return paired_bootstrap(
        ACCURACY,
        original,
        patched,
        metric_name="accuracy",
        n_resamples=n_resamples,
        level=options.get("level", 0.95),
        seed=int(options.get("seed", 0)),
    )


def interval(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


def expanded(draws: npt.ArrayLike, level: float, templates: int) -> list[float]:
    """Percentiles of draws, as far out as Student's t and the unbiased variance demand."""
    quantile = stats.t(templates - 1).ppf(1 - (1 - level) / 2)
    tail = 1 - stats.norm.cdf(quantile * (templates / (templates - 1)) ** 0.5)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return [float(low), float(high)]


def drawn_rows(templates: Sequence[str], drawn: Sequence[str]) -> list[int]:
    """Rows of a resample: all rows of every drawn template, as often as it was drawn."""
    return [row for name in drawn for row, template in enumerate(templates) if template == name]


def accuracy_of_rows(predictions: Predictions, rows: list[int]) -> float:
    if not rows:
        return float("nan")
    return float(np.mean([np.mean(wording[rows] == 1) for wording in predictions.choice]))


def test_template_weights_draw_whole_templates() -> None:
    templates = ["b", "a", "b", "c", "a", "b"]
    weights = template_weights(templates, 3000, seed=3)
    assert weights.shape == (3000, 6)
    for name in "abc":
        columns = weights[:, [i for i, template in enumerate(templates) if template == name]]
        assert (columns == columns[:, :1]).all()
    counts = weights[:, [0, 1, 3]]
    assert (counts.sum(axis=1) == 3).all()  # three templates, three draws
    # A binomial(3, 1/3) count has mean 1 and variance 2/3.
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.06)
    np.testing.assert_allclose(counts.var(axis=0), 2 / 3, atol=0.06)


def test_template_weights_follow_the_seed() -> None:
    templates = [str(i) for i in range(9)]
    weights = template_weights(templates, 20, seed=1)
    np.testing.assert_array_equal(weights, template_weights(templates, 20, seed=1))
    assert (weights != template_weights(templates, 20, seed=2)).any()


def test_interval_of_two_templates_by_enumeration() -> None:
    # Differences: template a 1/2 (one of two items mended), b 1 (both). Resamples: aa 1/2 with
    # probability 1/4, ab 3/4 with 1/2, bb 1 with 1/4. Two templates leave one degree of freedom:
    # for 95 % the interval reaches to the ends, 1/2 and 1. For 20 % the percentiles are those of
    # sqrt(2) tan(0.1 pi) = 0.46 standard errors, 32 and 68 %: both are 3/4.
    templates = ["a", "a", "b", "b"]
    original = answered([2, 2, 2, 2], templates)
    patched = answered([1, 2, 1, 1], templates)
    estimate = accuracy_estimate(original, patched)
    assert (estimate.original, estimate.patched, estimate.difference) == (0.0, 0.75, 0.75)
    assert interval(estimate) == (0.5, 1.0)
    assert estimate.n_clusters == 2
    assert interval(accuracy_estimate(original, patched, level=0.2)) == (0.75, 0.75)


def test_interval_equals_a_brute_force_loop() -> None:
    generator = np.random.default_rng(0)
    templates = [f"t{i}" for i in generator.integers(7, size=30)]
    original = answered(generator.integers(-1, 3, (3, 30)), templates)
    patched = answered(generator.integers(-1, 3, (3, 30)), templates)
    draws = []
    for weights in template_weights(templates, 200, seed=5):
        rows = [row for row, times in enumerate(weights) for _ in range(int(times))]
        draws.append(accuracy_of_rows(patched, rows) - accuracy_of_rows(original, rows))
    estimate = accuracy_estimate(original, patched, n_resamples=200, seed=5, level=0.9)
    assert interval(estimate) == pytest.approx(expanded(draws, 0.9, 7), abs=1e-12)
    assert estimate.level == 0.9


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    templates = [f"t{i}" for i in generator.integers(11, size=40)]
    original = answered(generator.integers(0, 3, (2, 40)), templates)
    patched = answered(generator.integers(0, 3, (2, 40)), templates)
    whole = accuracy_estimate(original, patched)
    widths = []

    def recording(predictions: Predictions, weights: npt.NDArray[np.float64]) -> object:
        widths.append(weights.size)
        return ACCURACY(predictions, weights)

    monkeypatch.setattr(resampling, "CHUNK_ENTRIES", 40 * 7)
    chunked = paired_bootstrap(
        recording,  # type: ignore[arg-type]
        original,
        patched,
        metric_name="accuracy",
        n_resamples=500,
    )
    assert chunked == whole
    assert max(widths) == 40 * 7


def test_copies_within_a_template_are_no_evidence() -> None:
    # Six templates of five identical items: drawing rows would pass 30 copies for 30 items.
    right = np.repeat([1, 1, 1, 2, 2, 1], 5)
    clustered = np.repeat(list("abcdef"), 5).tolist()
    single = [str(i) for i in range(30)]
    widths = []
    for templates in (clustered, single):
        original = answered(np.full(30, 2), templates)
        low, high = interval(accuracy_estimate(original, answered(right, templates), 2000))
        widths.append(high - low)
    # The standard error grows by the square root of five.
    assert 1.8 < widths[0] / widths[1] < 2.7


def test_coverage_over_templates_holds_and_over_rows_does_not() -> None:
    generator = np.random.default_rng(2)
    n_templates, size, repetitions, chance = 40, 5, 60, 0.5
    by_template = np.repeat([f"t{i}" for i in range(n_templates)], size).tolist()
    by_row = [str(i) for i in range(n_templates * size)]
    covered = {"template": 0, "row": 0}
    for _ in range(repetitions):
        mended = np.repeat(generator.random(n_templates) < chance, size)
        for unit, templates in (("template", by_template), ("row", by_row)):
            original = answered(np.full(mended.size, 2), templates)
            patched = answered(np.where(mended, 1, 2), templates)
            low, high = interval(accuracy_estimate(original, patched, 300))
            covered[unit] += low <= chance <= high
    # Coverage itself is measured in test_statistics_simulation.py; here, that the unit matters.
    assert covered["template"] / repetitions >= 0.85
    assert covered["row"] / repetitions < 0.8


def test_identical_predictions_differ_by_exactly_zero() -> None:
    generator = np.random.default_rng(3)
    templates = [f"t{i % 6}" for i in range(24)]
    same = answered(generator.integers(0, 3, (3, 24)), templates)
    estimate = accuracy_estimate(same, replace(same))
    assert (estimate.difference, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_one_template_has_no_interval() -> None:
    original, patched = answered([2, 2, 2], ["a"] * 3), answered([1, 1, 2], ["a"] * 3)
    estimate = accuracy_estimate(original, patched)
    assert estimate.difference == pytest.approx(2 / 3)
    assert (estimate.low, estimate.high, estimate.n_clusters) == (None, None, 1)


def test_undefined_metric_gives_none_not_zero() -> None:
    # Every patched answer is "unknown": s_DIS is 0/0.
    original, patched = answered([1, 2], ["a", "b"]), answered([0, 0], ["a", "b"])
    estimate = paired_bootstrap(S_DIS, original, patched, metric_name="s_dis", controls=[patched])
    assert (estimate.original, estimate.patched, estimate.difference) == (0.0, None, None)
    assert (estimate.low, estimate.high) == (None, None)
    assert estimate.controls == (None,)
    nothing = answered(np.zeros((1, 0)), [])
    assert accuracy_estimate(nothing, nothing).difference is None


@pytest.mark.parametrize(("n_deciding", "has_interval"), [(1, False), (2, False), (3, True)])
def test_interval_needs_nine_in_ten_resamples_defined(n_deciding: int, has_interval: bool) -> None:
    # Of ten templates only k take sides; a resample misses all of them with probability
    # (1 - k/10)^10: 35 %, 11 %, 3 % for k = 1, 2, 3.
    templates = [f"t{i}" for i in range(10)]
    original = answered([1] * n_deciding + [0] * (10 - n_deciding), templates)
    patched = answered([1, 2, 2][:n_deciding] + [0] * (10 - n_deciding), templates)
    estimate = paired_bootstrap(S_DIS, original, patched, metric_name="s_dis", n_resamples=4000)
    assert estimate.difference is not None
    assert (estimate.low is not None) is has_interval


def test_controls_are_reported() -> None:
    templates = ["a", "b"]
    original, right = answered([2, 2], templates), answered([1, 1], templates)
    half = answered([1, 2], templates)
    estimate = paired_bootstrap(
        ACCURACY, original, right, metric_name="accuracy", n_resamples=10, controls=[half, original]
    )
    assert estimate.controls == (0.5, 0.0)


def test_mismatched_states_are_refused() -> None:
    original = answered([1, 2], ["a", "b"])
    reordered = replace(original, instances=original.instances[::-1])
    other = answered([1, 2], ["a", "b"], prefix="other")
    moved = answered([1, 2], ["a", "c"])
    for patched in (reordered, other, moved, answered([1], ["a"])):
        with pytest.raises(ValueError, match="same instances"):
            accuracy_estimate(original, patched)
    with pytest.raises(ValueError, match="same instructions"):
        accuracy_estimate(original, answered([[1, 2], [1, 2]], ["a", "b"]))
    with pytest.raises(ValueError, match="same instances"):
        paired_bootstrap(ACCURACY, original, original, metric_name="a", controls=[other])
    with pytest.raises(ValueError, match="same instances"):
        pooled_difference(ACCURACY, [Pair(original, other, "x")], metric_name="a")


def test_arguments_out_of_range_are_refused() -> None:
    state = answered([1, 2], ["a", "b"])
    for arguments in ((0, 0.95), (10, 0.0), (10, 1.0)):
        with pytest.raises(ValueError, match="level between 0 and 1"):
            accuracy_estimate(state, state, arguments[0], level=arguments[1])
    with pytest.raises(ValueError, match="at least 1 instance"):
        template_weights([], 5, seed=0)


def random_pair(templates: list[str], stratum: str, seed: int) -> Pair:
    generator = np.random.default_rng(seed)
    shape = (2, len(templates))
    return Pair(
        answered(generator.integers(0, 3, shape), templates),
        answered(generator.integers(0, 3, shape), templates),
        stratum,
    )


def test_pooled_difference_equals_a_brute_force_loop() -> None:
    age = [f"age-{i % 5}" for i in range(20)]
    disability = [f"dis-{i % 4}" for i in range(14)]
    # The second trial on disability was evaluated on other templates: its union has six.
    others = [f"dis-{2 + i % 4}" for i in range(15)]
    pairs = [
        random_pair(disability, "disability", 0),
        random_pair(age, "age", 1),
        random_pair(others, "disability", 2),
        random_pair(age, "age", 3),
        random_pair(age, "age", 4),
    ]
    n_resamples = 150
    strata = {"age": sorted(set(age)), "disability": sorted({*disability, *others})}
    point, draws, variances = [], np.zeros(n_resamples), []
    for position, (stratum, names) in enumerate(strata.items()):
        members = [pair for pair in pairs if pair.stratum == stratum]

        def difference(pair: Pair, names: list[str]) -> float:
            rows = drawn_rows(pair.original.templates, names)
            return accuracy_of_rows(pair.patched, rows) - accuracy_of_rows(pair.original, rows)

        point.append(np.mean([difference(pair, names) for pair in members]))
        generator = np.random.default_rng([9, position])
        own = np.zeros(n_resamples)
        for resample in range(n_resamples):
            drawn = [names[i] for i in generator.integers(len(names), size=len(names))]
            own[resample] = np.mean([difference(pair, drawn) for pair in members])
        draws += own / 2
        # A bootstrap of T templates has (T - 1) / T of the unbiased variance.
        variances.append(np.nanvar(own, ddof=1))

    # A draw of dis-0 and dis-1 only leaves the second trial without instances: it is dropped.
    draws = draws[~np.isnan(draws)]
    assert 0.9 * n_resamples < len(draws) < n_resamples
    estimate = pooled_difference(
        ACCURACY, pairs, metric_name="accuracy", n_resamples=n_resamples, seed=9
    )
    assert estimate.difference == pytest.approx(np.mean(point), abs=1e-12)
    one, other = variances[0] * 5 / 4, variances[1] * 6 / 5
    degrees = (one + other) ** 2 / (one**2 / 4 + other**2 / 5)
    inflated = ((one + other) / sum(variances)) ** 0.5
    tail = stats.norm.sf(inflated * stats.t(degrees).ppf(0.975))
    expected = np.quantile(draws, [tail, 1 - tail])
    assert interval(estimate) == pytest.approx(expected, abs=1e-12)
    assert (estimate.n_strata, estimate.n_pairs, estimate.n_clusters) == (2, 5, 11)
    assert estimate.original is not None
    assert estimate.patched == pytest.approx(estimate.original + np.mean(point), abs=1e-12)


def test_pooling_one_pair_is_the_paired_bootstrap() -> None:
    pair = random_pair([f"t{i % 8}" for i in range(32)], "only", 5)
    pooled = pooled_difference(ACCURACY, [pair], metric_name="accuracy", n_resamples=100, seed=4)
    single = accuracy_estimate(pair.original, pair.patched, 100, seed=4)
    assert interval(pooled) == interval(single)
    assert pooled.difference == single.difference


def test_repeated_trials_do_not_narrow_the_pooled_interval() -> None:
    pair = random_pair([f"t{i % 8}" for i in range(32)], "only", 5)
    once = pooled_difference(ACCURACY, [pair], metric_name="accuracy", n_resamples=100)
    thrice = pooled_difference(ACCURACY, [pair] * 3, metric_name="accuracy", n_resamples=100)
    assert interval(thrice) == pytest.approx(interval(once), abs=1e-12)


def test_strata_weigh_the_same_whatever_their_number_of_pairs() -> None:
    templates = ["a", "b"]
    wrong, right = answered([2, 2], templates), answered([1, 1], templates)
    pairs = [Pair(wrong, right, "x")] + [Pair(wrong, wrong, "y")] * 3
    pooled = pooled_difference(ACCURACY, pairs, metric_name="accuracy", n_resamples=20)
    assert pooled.difference == 0.5


def test_pooled_leaves_out_undefined_pairs_and_says_so() -> None:
    templates = ["a", "b"]
    sides, silent = answered([1, 1], templates), answered([0, 0], templates)
    against = answered([2, 2], templates)
    pairs = [Pair(sides, against, "x"), Pair(sides, silent, "x"), Pair(sides, silent, "y")]
    pooled = pooled_difference(S_DIS, pairs, metric_name="s_dis", n_resamples=20)
    assert (pooled.original, pooled.patched, pooled.difference) == (1.0, -1.0, -2.0)
    assert (pooled.n_strata, pooled.n_pairs, pooled.n_clusters) == (1, 1, 2)
    empty = pooled_difference(S_DIS, pairs[1:], metric_name="s_dis", n_resamples=20)
    assert (empty.original, empty.difference, empty.low, empty.n_strata) == (None, None, None, 0)


def test_a_stratum_of_one_template_has_no_interval() -> None:
    several = random_pair([f"t{i % 8}" for i in range(32)], "several", 5)
    one = random_pair(["t"] * 9, "one", 6)
    pooled = pooled_difference(ACCURACY, [several, one], metric_name="accuracy", n_resamples=50)
    assert pooled.difference is not None
    assert (pooled.low, pooled.high) == (None, None)
