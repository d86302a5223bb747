"""F1 and the gold option's probability over all items: by hand and by brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.metrics import METRICS, evaluate_metric, spread, value
from excise.types import Instance, Predictions

F1 = METRICS["f1"]
YES, NO, NEITHER = 0, 1, -1


def predictions(
    gold: list[int], choice: list[list[int]], log_likelihood: object = None
) -> Predictions:
    instances = tuple(
        Instance(f"pair-{n}", {}, ("Yes", "No"), right, f"template-{n // 2}", f"pair-{n}")
        for n, right in enumerate(gold)
    )
    return Predictions(
        instances=instances,
        instructions=tuple(f"wording {i}" for i in range(len(choice))),
        choice=np.array(choice, dtype=np.int64).reshape(len(choice), len(gold)),
        log_likelihood=None if log_likelihood is None else np.array(log_likelihood, dtype=float),
    )


def test_f1_by_hand() -> None:
    gold = [YES, YES, YES, NO, NO]
    answered = predictions(
        gold,
        [
            [YES, YES, NO, YES, NO],  # TP 2, FP 1, FN 1: precision 2/3, recall 2/3
            [YES, NO, NO, NO, NO],  # TP 1, FN 2: precision 1, recall 1/3
            [NO, NO, NO, YES, YES],  # TP 0, FP 2, FN 3
        ],
    )
    expected = [2 / 3, 2 * 1 * (1 / 3) / (1 + 1 / 3), 0.0]
    np.testing.assert_allclose(evaluate_metric(F1, answered), [expected], rtol=1e-15)
    assert value(F1, answered) == pytest.approx(sum(expected) / 3)
    assert spread(F1, answered) == pytest.approx(np.std(expected))


def test_f1_differs_from_accuracy_and_from_the_other_class() -> None:
    # All "Yes" on 3 of 4: accuracy 3/4, F1 2*3/(2*3+1); F1 of "No" would be 0.
    answered = predictions([YES, YES, YES, NO], [[YES] * 4])
    assert value(METRICS["accuracy"], answered) == 3 / 4
    assert value(F1, answered) == 6 / 7


def test_an_unmatched_answer_is_no_prediction_of_the_positive_class() -> None:
    # Items 1 (positive) and 3 (negative) are unmatched: a miss, and no false alarm.
    answered = predictions([YES, YES, NO, NO], [[YES, NEITHER, NO, NEITHER]])
    assert value(F1, answered) == 2 * 1 / (2 * 1 + 0 + 1)
    assert value(METRICS["unmatched"], answered) == 2 / 4
    assert value(METRICS["accuracy"], answered) == 2 / 4
    # Left out instead, the miss would vanish and F1 would be 1.
    kept = predictions([YES, NO], [[YES, NO]])
    assert value(F1, kept) == 1.0


def test_f1_of_nothing_is_undefined() -> None:
    assert value(F1, predictions([NO, NO], [[NO, NEITHER]])) is None
    assert value(F1, predictions([], [[]])) is None
    assert value(F1, predictions([NO], [[YES]])) == 0.0  # a false alarm is something
    assert value(F1, predictions([YES], [[NO]])) == 0.0
    weights = np.array([[0.0, 1.0], [1.0, 0.0]])
    both = evaluate_metric(F1, predictions([YES, NO], [[YES, NO]]), weights)
    np.testing.assert_array_equal(both, [[np.nan], [1.0]])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_f1_equals_a_count_over_repeated_rows(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 7))
    gold = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    answers = st.lists(st.integers(-1, 1), min_size=size, max_size=size)
    choice = data.draw(st.lists(answers, min_size=1, max_size=3))
    times = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    got = evaluate_metric(F1, predictions(gold, choice), np.array([times], dtype=float))
    for told, found in zip(choice, got[0], strict=True):
        rows = [(g, c) for g, c, n in zip(gold, told, times, strict=True) for _ in range(n)]
        hits = sum(g == YES and c == YES for g, c in rows)
        misses = sum(g == YES and c != YES for g, c in rows)
        alarms = sum(g != YES and c == YES for g, c in rows)
        if hits + misses + alarms == 0:
            assert np.isnan(found)
        elif hits == 0:
            assert found == 0.0
        else:
            precision, recall = hits / (hits + alarms), hits / (hits + misses)
            assert found == pytest.approx(2 * precision * recall / (precision + recall))


def test_gold_probability_and_share_over_all_items() -> None:
    probability = [
        [[0.2, 0.6], [0.1, 0.3]],  # gold Yes: 0.2 of 0.8; gold No: 0.3 of 0.4
        [[0.5, 0.5], [0.4, 0.1]],  # 0.5 of 1; 0.1 of 0.5
    ]
    scored = predictions([YES, NO], [[0, 0], [0, 0]], np.log(probability))
    for name, expected in {
        "gold_probability": [(0.2 + 0.3) / 2, (0.5 + 0.1) / 2],
        "gold_share": [(0.25 + 0.75) / 2, (0.5 + 0.2) / 2],
    }.items():
        got = evaluate_metric(METRICS[name], scored)
        np.testing.assert_allclose(got, [expected], rtol=1e-14, err_msg=name)
        # the second item only, and nothing at all
        weights = np.array([[0.0, 2.0], [0.0, 0.0]])
        got = evaluate_metric(METRICS[name], scored, weights)
        second = {"gold_probability": [0.3, 0.1], "gold_share": [0.75, 0.2]}[name]
        np.testing.assert_allclose(got, [second, [np.nan, np.nan]], rtol=1e-14, err_msg=name)
        assert value(METRICS[name], replace(scored, log_likelihood=None)) is None


def test_over_all_items_is_the_mean_of_both_conditions() -> None:
    """On items that have a condition, the metric over all is the weighted mean of the two."""
    base = predictions([YES, NO, YES], [[0, 0, 0]], np.log([[[0.2, 0.6], [0.1, 0.3], [0.6, 0.3]]]))
    conditions = ("ambiguous", "disambiguated", "disambiguated")
    instances = tuple(
        replace(i, condition=condition)
        for i, condition in zip(base.instances, conditions, strict=True)
    )
    scored = replace(base, instances=instances)
    for name in ("gold_probability", "gold_share"):
        one, two = (value(METRICS[f"{name}_{c}"], scored) for c in ("ambiguous", "disambiguated"))
        assert one is not None
        assert two is not None
        assert value(METRICS[name], scored) == pytest.approx((one + 2 * two) / 3)
