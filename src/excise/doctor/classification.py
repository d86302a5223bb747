"""Questions with "Yes" and "No", six positive items and four negative ones, as in GLUE."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from excise.doctor import answering
from excise.doctor.answering import PROBABILITIES, best, generated, ranked
from excise.doctor.oracle import Expectation, Oracle, Undefined
from excise.types import Instance, Predictions

SCORED = "Yes or no, options scored"
WORDS = "Yes or no, answers in words"

_YES, _NO = 0, 1
_OPTIONS = ("Yes", "No")
_IN_WORDS = Undefined("answers were generated, not scored")


def oracles() -> Iterator[Oracle]:
    """Every responder to both benchmarks."""
    items = tuple(map(_item, range(10)))
    # F1 = 2 * TP / (items called positive + positive items).
    for responder, choose, accuracy, f1 in (
        (answering.PERFECT, lambda item: item.gold, 1.0, 1.0),
        (answering.FIRST, lambda item: _YES, 6 / 10, 2 * 6 / (10 + 6)),
        (answering.LAST, lambda item: _NO, 4 / 10, 0.0),
        # "Yes" to four positive items and one negative one.
        (answering.MIXED, lambda i: _YES if i.id in "01236" else _NO, 7 / 10, 2 * 4 / (5 + 6)),
    ):
        yield _scored(responder, ranked(items, _ranks(choose)), accuracy, f1)
        yield _worded(responder, generated(items, _text(choose)), accuracy, f1)
    # Each item is called both: of 20, 10 are called positive, 12 are positive, 6 are both.
    accuracy, f1 = 1 / 2, 2 * 6 / (10 + 12)
    every = ranked(items, lambda item: ((0, 1), (1, 0)))
    yield _scored(answering.UNIFORM, every, accuracy, f1)
    yield _worded(answering.UNIFORM, generated(items, lambda i: i.options), accuracy, f1)
    for responder, answers in (
        (answering.VERBOSE, generated(items, lambda i: [f"{i.options[i.gold]}, they do."])),
        (answering.SEVERAL, generated(items, lambda i: ["Yes and no"])),
        (answering.EMPTY, generated(items, lambda i: [""])),
    ):
        # Positive items are missed; no negative one is called positive.
        yield _worded(responder, answers, 0.0, 0.0, unmatched=1.0)


_Choose = Callable[[Instance], int]


def _ranks(choose: _Choose) -> answering.Rankings:
    return lambda item: best(choose(item), 2)


def _text(choose: _Choose) -> answering.Texts:
    return lambda item: [item.options[choose(item)]]


def _scored(responder: str, answers: Predictions, accuracy: float, f1: float) -> Oracle:
    """Gold is the preferred option where the answer is right, else the second."""
    first, second, _ = PROBABILITIES
    gold = accuracy * first + (1 - accuracy) * second
    expected: dict[str, Expectation] = {
        "accuracy": accuracy,
        "f1": f1,
        "gold_probability": gold,
        "gold_share": gold / (first + second),
        "unmatched": 0.0,
    }
    return Oracle(SCORED, responder, answers, expected)


def _worded(
    responder: str, answers: Predictions, accuracy: float, f1: float, *, unmatched: float = 0.0
) -> Oracle:
    expected: dict[str, Expectation] = {
        "accuracy": accuracy,
        "f1": f1,
        "gold_probability": _IN_WORDS,
        "gold_share": _IN_WORDS,
        "unmatched": unmatched,
    }
    return Oracle(WORDS, responder, answers, expected)


def _item(number: int) -> Instance:
    return Instance(
        id=str(number),
        fields={},
        options=_OPTIONS,
        gold=_YES if number < 6 else _NO,
        template=str(number),
        block=str(number),
    )
