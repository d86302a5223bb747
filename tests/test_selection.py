"""Ranking, random controls and the choice of n."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.errors import ConfigError, NonFiniteError
from excise.selection import (
    CurvePoint,
    RankedNeuron,
    choose,
    first_best,
    golden_section,
    random_control,
    rank,
    top,
)
from excise.types import Neuron

SCORES = {
    "late": np.array([0.5, -2.0, 1.0]),
    "early": np.array([1.0, 0.5, -0.25, 3.0]),
}
SIZES = {"a": 6, "b": 4, "c": 1}


def names(ranking: tuple[RankedNeuron, ...]) -> list[tuple[str, int]]:
    return [(ranked.neuron.module, ranked.neuron.index) for ranked in ranking]


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        # 3; then 1 and 1, 0.5 and 0.5: the module that stands first in the mapping comes first
        ("signed", ["early 3", "late 2", "early 0", "late 0", "early 1", "early 2", "late 1"]),
        ("absolute", ["early 3", "late 1", "late 2", "early 0", "late 0", "early 1", "early 2"]),
        ("ascending", ["late 1", "early 2", "late 0", "early 1", "late 2", "early 0", "early 3"]),
    ],
)
def test_modules_are_ranked_together_and_ties_follow_their_order(
    sign: str, expected: list[str]
) -> None:
    ranking = rank(SCORES, sign=sign)  # type: ignore[arg-type]
    assert [f"{module} {index}" for module, index in names(ranking)] == expected
    # The score stays signed, whatever the order.
    assert all(r.score == SCORES[r.neuron.module][r.neuron.index] for r in ranking)
    assert rank(SCORES, sign=sign, limit=3) == ranking[:3]  # type: ignore[arg-type]
    assert rank(SCORES, sign=sign, limit=99) == ranking  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.lists(st.integers(-3, 3), max_size=8),
        max_size=5,
    )
)
def test_rank_equals_sorting_in_python(values: dict[str, list[int]]) -> None:
    flat = [(m, i, float(v)) for m, scores in values.items() for i, v in enumerate(scores)]
    expected = sorted(flat, key=lambda entry: -entry[2])  # sorted is stable
    ranking = rank({m: np.array(v, dtype=np.float64) for m, v in values.items()})
    assert [(r.neuron.module, r.neuron.index, r.score) for r in ranking] == expected


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_scores_name_the_module(broken: float) -> None:
    with pytest.raises(NonFiniteError, match=r"'h\.1\.mlp'"):
        rank({"h.0.mlp": np.zeros(3), "h.1.mlp": np.array([0.0, broken])}, limit=1)


def test_top_takes_exactly_n() -> None:
    assert top(SCORES, 0) == ()
    assert names(top(SCORES, 2)) == [("early", 3), ("late", 2)]
    assert len(top(SCORES, 7)) == 7
    for n in (8, -1):
        with pytest.raises(ConfigError, match=f"cannot take {n} neurons: .* from 0 to 7$"):
            top(SCORES, n)
    with pytest.raises(ValueError, match="at least 0"):
        rank(SCORES, limit=-1)


@given(
    chosen=st.sets(st.sampled_from([(m, i) for m, size in SIZES.items() for i in range(size)])),
    seed=st.integers(0, 50),
)
def test_random_control_matches_counts_and_avoids_the_excised(
    chosen: set[tuple[str, int]], seed: int
) -> None:
    neurons = [Neuron(module, index) for module, index in sorted(chosen)]
    control = random_control(SIZES, neurons, seed=seed)
    assert len(set(control)) == len(control)
    for module, size in SIZES.items():
        excised = {n.index for n in neurons if n.module == module}
        drawn = {n.index for n in control if n.module == module}
        assert len(drawn) == len(excised)
        assert drawn <= set(range(size))
        # No more overlap than the lack of other neurons forces.
        assert len(drawn & excised) == max(0, 2 * len(excised) - size)
    assert control == random_control(SIZES, neurons[::-1], seed=seed)
    assert control == random_control({m: np.zeros(n) for m, n in SIZES.items()}, neurons, seed=seed)


def test_random_control_varies_with_the_seed_and_reaches_all_others() -> None:
    neurons = [Neuron("a", 1), Neuron("a", 4)]
    draws = {random_control(SIZES, neurons, seed=seed) for seed in range(60)}
    assert len(draws) == 6  # pairs out of the four others
    anything = {n for s in range(60) for n in random_control(SIZES, neurons, seed=s, exclude=False)}
    assert anything == {Neuron("a", index) for index in range(6)}


def test_random_control_refuses_neurons_outside_the_model() -> None:
    for neuron in (Neuron("d", 0), Neuron("a", 6), Neuron("a", -1)):
        with pytest.raises(ConfigError, match="not in the model"):
            random_control(SIZES, [neuron], seed=0)


def test_choose_takes_the_smallest_of_the_best() -> None:
    curve = [CurvePoint(30, 0.5), CurvePoint(0, 0.25), CurvePoint(8, 0.5), CurvePoint(3, 0.4375)]
    assert choose(curve) == CurvePoint(8, 0.5)
    assert choose(curve, tolerance=0.0625).n == 3
    assert choose(curve, tolerance=1.0).n == 0
    assert choose(curve[:1]).n == 30
    assert first_best(curve).n == 30  # ties by evaluation order instead


def test_nothing_to_choose_from_is_refused() -> None:
    for function in (choose, first_best):
        with pytest.raises(ValueError, match="no point"):
            function([])
        with pytest.raises(NonFiniteError, match="3 neurons"):
            function([CurvePoint(0, 1.0), CurvePoint(3, float("nan"))])
    with pytest.raises(ValueError, match="tolerance"):
        choose([CurvePoint(0, 1.0)], tolerance=-0.1)


@settings(deadline=None)
@given(
    low=st.integers(0, 30),
    width=st.integers(0, 300),
    peak=st.integers(-20, 350),
    slope=st.floats(0.1, 10.0),
    tolerance=st.integers(1, 9),
)
def test_golden_section_finds_the_peak_of_a_unimodal_function(
    low: int, width: int, peak: int, slope: float, tolerance: int
) -> None:
    high = low + width

    def objective(n: int) -> float:
        return -slope * (peak - n) if n < peak else float(peak - n)

    points = golden_section(objective, low, high, tolerance)
    best = max(range(low, high + 1), key=objective)
    assert first_best(points) == CurvePoint(best, objective(best))
    assert len({point.n for point in points}) == len(points)
    assert all(low <= point.n <= high for point in points)


def test_golden_section_evaluates_in_the_order_of_the_published_search() -> None:
    calls: list[int] = []

    def objective(n: int) -> float:
        calls.append(n)
        return -abs(n - 170.0)

    points = golden_section(objective, 0, 500, 4)
    assert calls == [point.n for point in points]
    # round(500 * 0.618) = 309: probes 191 and 309; the left one wins, so [0, 309] follows with
    # round(309 * 0.618) = 191: probes 118 and (known) 191; the right one wins: [118, 309].
    assert calls[:4] == [191, 309, 118, 236]
    assert first_best(points).n == 170
    assert len(calls) < 20


def test_golden_section_on_a_plateau_moves_to_fewer_neurons_and_keeps_the_first() -> None:
    points = golden_section(lambda n: 1.0, 0, 500, 4)
    assert first_best(points) == points[0]
    assert min(point.n for point in points) == 0
    assert choose(points).n == 0


def test_golden_section_refuses_bad_input() -> None:
    for low, high, tolerance in ((5, 4, 4), (0, 10, 0)):
        with pytest.raises(ConfigError, match="cannot search"):
            golden_section(float, low, high, tolerance)
    with pytest.raises(NonFiniteError, match="is not a number"):
        golden_section(lambda n: float("nan"), 0, 10, 4)
