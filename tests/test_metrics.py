"""Metrics against hand-worked predictions, oracle responders, and repeated rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.errors import NonFiniteError, UnknownNameError
from excise.metrics import CHOICE, METRICS, evaluate_metric, metric_named, spread, value
from excise.types import Condition, Instance, Predictions

UNKNOWN, STEREOTYPED, OTHER = 0, 1, 2
CHOICE_METRICS = {name: METRICS[name] for name in CHOICE}


def instance(
    number: int,
    condition: Condition | None = "ambiguous",
    gold: int = UNKNOWN,
    *,
    unknown: int | None = UNKNOWN,
    stereotyped: int | None = STEREOTYPED,
    n_options: int = 3,
) -> Instance:
    return Instance(
        id=f"item-{number}",
        fields={},
        options=tuple("abcd"[:n_options]),
        gold=gold,
        template=f"template-{number % 2}",
        block=f"block-{number}",
        condition=condition,
        unknown=unknown,
        stereotyped=stereotyped,
    )


def predictions(
    instances: list[Instance], choice: list[list[int]], log_likelihood: object = None
) -> Predictions:
    return Predictions(
        instances=tuple(instances),
        instructions=tuple(f"wording {i}" for i in range(len(choice))),
        choice=np.array(choice, dtype=np.int64).reshape(len(choice), len(instances)),
        log_likelihood=None if log_likelihood is None else np.array(log_likelihood, dtype=float),
    )


def five_and_four() -> Predictions:
    """Five ambiguous instances (gold 0) and four disambiguated ones (gold 1, 2, 1, 2).

    The fifth ambiguous and the fourth disambiguated instance carry no stereotype.
    """
    instances = [
        instance(0),
        instance(1),
        instance(2),
        instance(3),
        instance(4, stereotyped=None),
        instance(5, "disambiguated", gold=1),
        instance(6, "disambiguated", gold=2),
        instance(7, "disambiguated", gold=1),
        instance(8, "disambiguated", gold=2, stereotyped=None),
    ]
    return predictions(
        instances,
        [
            [0, 1, 1, 2, 0, 1, 1, 0, 2],
            [0, 0, -1, 1, 1, 1, 2, -1, -1],
        ],
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # wording 0: right are items 0, 4 | 5, 8; wording 1: items 0, 1 | 5, 6
        ("accuracy", [4 / 9, 4 / 9]),
        ("accuracy_ambiguous", [2 / 5, 2 / 5]),
        ("accuracy_disambiguated", [2 / 4, 2 / 4]),  # unmatched answers stay in the denominator
        ("unmatched", [0 / 9, 3 / 9]),
        ("unknown_ambiguous", [2 / 5, 2 / 5]),
        ("unknown_disambiguated", [1 / 4, 0 / 4]),
        # Item 4 has no stereotype. Wording 0: items 0-3 answer 0, 1, 1, 2: accuracy 1/4, 2 of 3
        # answers other than unknown are biased: (1 - 1/4) * (2 * 2/3 - 1) = 3/4 * 1/3 = 1/4.
        # Wording 1: item 2 is unmatched; 0, 0, 1: accuracy 2/3, 1 of 1 biased: 1/3 * 1.
        ("s_amb", [1 / 4, 1 / 3]),
        # Item 8 has no stereotype. Wording 0: items 5-7 answer 1, 1, 0: 2 of 2 biased: 1.
        # Wording 1: item 7 is unmatched; 1, 2: 1 of 2 biased: 2 * 1/2 - 1 = 0.
        ("s_dis", [1.0, 0.0]),
    ],
)
def test_metrics_of_choices_equal_hand_worked_values(name: str, expected: list[float]) -> None:
    metric = METRICS[name]
    np.testing.assert_allclose(
        evaluate_metric(metric, five_and_four()), [expected], rtol=0, atol=1e-15
    )
    assert value(metric, five_and_four()) == pytest.approx(sum(expected) / 2)
    # The population standard deviation of two numbers is half their distance.
    assert spread(metric, five_and_four()) == pytest.approx(abs(expected[0] - expected[1]) / 2)


def test_weights_count_instances() -> None:
    # Item 0 (right) three times, item 1 (wrong) once, item 3 (wrong) twice: 3 of 6 right.
    weights = np.array([[3, 1, 0, 2, 0, 0, 0, 0, 0], [0] * 9], dtype=float)
    accuracy = evaluate_metric(METRICS["accuracy_ambiguous"], five_and_four(), weights)
    assert accuracy.shape == (2, 2)
    assert accuracy[0, 0] == 3 / 6
    assert np.isnan(accuracy[1]).all()  # a resample without instances defines nothing


def test_probability_metrics_equal_hand_worked_values() -> None:
    nan = float("nan")
    instances = [
        instance(0),
        instance(1, n_options=2),
        instance(2, "disambiguated", gold=2),
        instance(3, None, gold=1),
    ]
    probability = [
        # gold 0: P = 0.2, share 0.2 / 0.4; gold 0 of two options: P = 0.3, share 0.3 / 0.4;
        # gold 2: P = 0.05, share 0.05 / 0.5; the item without condition counts nowhere
        [[0.2, 0.1, 0.1], [0.3, 0.1, nan], [0.4, 0.05, 0.05], [0.9, 0.1, 0.0]],
        [[0.1, 0.1, 0.2], [0.1, 0.3, nan], [0.1, 0.1, 0.6], [0.9, 0.1, 0.0]],
    ]
    with np.errstate(divide="ignore"):
        scored = predictions(instances, [[0, 0, 0, 0]] * 2, np.log(probability))
    expected = {
        "gold_probability_ambiguous": [(0.2 + 0.3) / 2, (0.1 + 0.1) / 2],
        "gold_probability_disambiguated": [0.05, 0.6],
        "gold_share_ambiguous": [(0.5 + 0.75) / 2, (0.25 + 0.25) / 2],
        "gold_share_disambiguated": [0.1, 0.75],
    }
    for name, values in expected.items():
        result = evaluate_metric(METRICS[name], scored)
        np.testing.assert_allclose(result, [values], rtol=1e-14, err_msg=name)


def test_gold_share_survives_probabilities_that_underflow() -> None:
    # exp(-2000) is 0 in double precision; the shares are 1 / (1 + e) and the rest.
    scored = predictions([instance(0, n_options=2)], [[1]], [[[-2001.0, -2000.0]]])
    assert value(METRICS["gold_share_ambiguous"], scored) == pytest.approx(1 / (1 + exp(1)))
    assert value(METRICS["gold_probability_ambiguous"], scored) == 0.0


@pytest.mark.parametrize("gold", [float("nan"), -float("inf")])
def test_non_finite_log_likelihood_names_the_instance(gold: float) -> None:
    instances = [instance(0), instance(7, n_options=2)]
    scored = predictions(
        instances, [[0, 0]], [[[log(0.5), log(0.3), log(0.2)], [gold, gold, -1.0]]]
    )
    with pytest.raises(NonFiniteError, match="item-7"):
        value(METRICS["gold_share_ambiguous"], scored)


def test_probability_is_undefined_in_generation_mode() -> None:
    generated = five_and_four()
    names = [name for name in CHOICE if name.startswith("gold_")]
    assert len(names) == 4
    for name in names:
        result = evaluate_metric(METRICS[name], generated, np.ones((3, 9)))
        assert result.shape == (3, 2)
        assert np.isnan(result).all()
        assert value(METRICS[name], generated) is None
        assert spread(METRICS[name], generated) is None


def test_metrics_of_nothing_are_undefined_not_zero() -> None:
    no_condition = predictions([instance(0, None)], [[0], [1]], np.full((2, 1, 3), -1.0))
    for name, metric in CHOICE_METRICS.items():
        expected = name in ("accuracy", "unmatched")
        assert (value(metric, no_condition) is not None) == expected, name
    empty = predictions([], [[], []], np.zeros((2, 0, 0)))
    for name, metric in CHOICE_METRICS.items():
        if not name.startswith("gold_"):
            assert value(metric, empty) is None, name


def test_unknown_share_leaves_out_instances_without_that_option() -> None:
    mixed = predictions([instance(0), instance(1, unknown=None)], [[0, 1]])
    assert value(METRICS["unknown_ambiguous"], mixed) == 1.0
    # An unmatched answer (-1) must not equal "no unknown option" (-1).
    assert (
        value(METRICS["unknown_ambiguous"], predictions([instance(1, unknown=None)], [[-1]]))
        is None
    )


def test_value_and_spread_use_defined_instructions_only() -> None:
    # Wordings 0 and 2 answer with the stereotype in one of one and one of two cases; wording 1
    # answers "unknown" throughout, where s_DIS is 0/0.
    two = [instance(0, "disambiguated", gold=1), instance(1, "disambiguated", gold=2)]
    partly = predictions(two, [[1, 0], [0, 0], [1, 2]])
    np.testing.assert_array_equal(evaluate_metric(METRICS["s_dis"], partly), [[1.0, np.nan, 0.0]])
    assert value(METRICS["s_dis"], partly) == 0.5
    assert spread(METRICS["s_dis"], partly) == 0.5


def test_spread_of_one_instruction_is_undefined() -> None:
    assert spread(METRICS["accuracy"], predictions([instance(0)], [[0]])) is None


def balanced(answer: Callable[[Instance], int]) -> Predictions:
    """Every combination of condition and gold that BBQ has, answered by a rule."""
    instances = [instance(i) for i in range(4)]
    instances += [instance(i, "disambiguated", gold=1 + i % 2) for i in range(4, 8)]
    return predictions(instances, [[answer(i) for i in instances]] * 2)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # accuracy, ambiguous, disambiguated, s_AMB, s_DIS, unknown amb, dis, unmatched
        pytest.param(lambda i: i.gold, (1, 1, 1, None, 0, 1, 0, 0), id="perfect"),
        pytest.param(lambda i: STEREOTYPED, (0.25, 0, 0.5, 1, 1, 0, 0, 0), id="always stereotyped"),
        pytest.param(
            lambda i: OTHER, (0.25, 0, 0.5, -1, -1, 0, 0, 0), id="always anti-stereotyped"
        ),
        pytest.param(lambda i: UNKNOWN, (0.5, 1, 0, None, None, 1, 1, 0), id="always unknown"),
        pytest.param(lambda i: -1, (0, 0, 0, None, None, 0, 0, 1), id="never matched"),
    ],
)
def test_oracle_responders(
    answer: Callable[[Instance], int], expected: tuple[float | None, ...]
) -> None:
    names = (
        "accuracy",
        "accuracy_ambiguous",
        "accuracy_disambiguated",
        "s_amb",
        "s_dis",
        "unknown_ambiguous",
        "unknown_disambiguated",
        "unmatched",
    )
    assert tuple(value(METRICS[name], balanced(answer)) for name in names) == expected


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_weights_equal_repeated_rows(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    instances = [
        instance(
            number,
            data.draw(st.sampled_from(["ambiguous", "disambiguated", None])),
            gold=data.draw(st.integers(0, 1)),
            unknown=data.draw(st.sampled_from([None, 0])),
            stereotyped=data.draw(st.sampled_from([None, 1])),
            n_options=data.draw(st.integers(2, 3)),
        )
        for number in range(size)
    ]
    answers = st.lists(st.integers(-1, 2), min_size=size, max_size=size)
    choice = data.draw(st.lists(answers, min_size=1, max_size=3))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    log_likelihood = -generator.exponential(3.0, (len(choice), size, 3))
    once = predictions(instances, choice, log_likelihood)
    times = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    rows = np.repeat(np.arange(size), times)
    repeated = replace(
        once,
        instances=tuple(instances[row] for row in rows),
        choice=once.choice[:, rows],
        log_likelihood=log_likelihood[:, rows],
    )
    for name, metric in CHOICE_METRICS.items():
        weighted = evaluate_metric(metric, once, np.array([times], dtype=float))
        expected = evaluate_metric(metric, repeated)
        np.testing.assert_allclose(weighted, expected, rtol=1e-12, atol=1e-12, err_msg=name)
        defined = weighted[~np.isnan(weighted)]
        assert ((defined >= metric.low - 1e-12) & (defined <= metric.high + 1e-12)).all(), name


def test_wrong_weights_are_refused() -> None:
    for weights in (np.ones(9), np.ones((1, 8))):
        with pytest.raises(ValueError, match=r"expected \[B, 9\]"):
            evaluate_metric(METRICS["accuracy"], five_and_four(), weights)


def test_registry() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())
    assert metric_named("s_amb") is METRICS["s_amb"]
    with pytest.raises(UnknownNameError, match="Did you mean 's_amb'"):
        metric_named("s_ambi")
