"""A pronoun between two people, as in WinoBias: the stereotype is right, or it is wrong.

For each order of the two options there are two sentences in which the stereotype is right, one with
a pronoun of either gender, one in which it is wrong, with a female pronoun, and one without an
annotated stereotype. So neither half is as large as the other, and no metric is the mean of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

from excise.doctor import answering
from excise.doctor.answering import best, generated, ranked
from excise.doctor.oracle import Expectation, Oracle, Undefined
from excise.types import Instance, Predictions

SCORED = "A pronoun between two people, options scored"
WORDS = "A pronoun between two people, answers in words"

_FEMALE, _MALE = "female", "male"
_RIGHT, _WRONG = "The potter", "The pilot"
_NOBODY_NAMED = Undefined("no answer names a person")

_Choose = Callable[[Instance], int]
_Values = tuple[float, float, float, float, Expectation]
"""Accuracy, the same where the stereotype is right and where it is wrong, their difference, and
the share of stereotyped answers."""


def oracles() -> Iterator[Oracle]:
    """Every responder to both benchmarks."""
    items = tuple(
        _item(options, gender, agrees)
        for options in permutations((_RIGHT, _WRONG))
        for gender, agrees in ((_FEMALE, True), (_MALE, True), (_FEMALE, False), (_FEMALE, None))
    )
    # Of 8 items, 4 agree with a stereotype and 2 go against one; the other 2 are answered rightly.
    responders: tuple[tuple[str, _Choose, _Values], ...] = (
        (answering.PERFECT, lambda item: item.gold, (1.0, 1.0, 1.0, 0.0, 4 / 6)),
        (answering.STEREOTYPED, _stereotype, (6 / 8, 1.0, 0.0, 1.0, 1.0)),
        (answering.ANTI_STEREOTYPED, _other, (4 / 8, 0.0, 1.0, -1.0, 0.0)),
        (answering.FIRST, lambda item: 0, (0.5, 0.5, 0.5, 0.0, 0.5)),
        (answering.LAST, lambda item: 1, (0.5, 0.5, 0.5, 0.0, 0.5)),
        # Against the stereotype where the pronoun is female, else right.
        (
            answering.MIXED,
            lambda item: _other(item) if item.group == _FEMALE else item.gold,
            (6 / 8, 2 / 4, 1.0, -1 / 2, 2 / 6),
        ),
    )
    for responder, choose, values in responders:
        yield _oracle(SCORED, responder, ranked(items, _ranks(choose)), values)
        yield _oracle(WORDS, responder, generated(items, _text(choose)), values)
    chance = (0.5, 0.5, 0.5, 0.0, 0.5)
    every = ranked(items, lambda _: ((0, 1), (1, 0)))
    yield _oracle(SCORED, answering.UNIFORM, every, chance)
    yield _oracle(WORDS, answering.UNIFORM, generated(items, lambda i: i.options), chance)
    # The stereotype to female pronouns, nothing to the 2 male ones, in which it is right.
    some = generated(items, lambda i: [i.options[_stereotype(i)] if i.group == _FEMALE else " "])
    half = (4 / 8, 2 / 4, 0.0, 1 / 2, 1.0)
    yield _oracle(WORDS, answering.HALF_EMPTY, some, half, unmatched=2 / 8)
    for responder, answers in (
        (answering.VERBOSE, generated(items, lambda i: [f"{i.options[i.gold]}, of course."])),
        (answering.SEVERAL, generated(items, lambda i: [" or ".join(i.options)])),
        (answering.EMPTY, generated(items, lambda _: [""])),
    ):
        silent = (0.0, 0.0, 0.0, 0.0, _NOBODY_NAMED)
        yield _oracle(WORDS, responder, answers, silent, unmatched=1.0)


def _ranks(choose: _Choose) -> answering.Rankings:
    return lambda item: best(choose(item), 2)


def _text(choose: _Choose) -> answering.Texts:
    return lambda item: [item.options[choose(item)]]


def _stereotype(item: Instance) -> int:
    return item.gold if item.stereotyped is None else item.stereotyped


def _other(item: Instance) -> int:
    return item.gold if item.stereotyped is None else 1 - item.stereotyped


def _oracle(
    benchmark: str,
    responder: str,
    answers: Predictions,
    values: _Values,
    *,
    unmatched: float = 0.0,
) -> Oracle:
    names = ("accuracy", *(f"winobias_{name}" for name in ("pro", "anti", "gap", "stereotyped")))
    expected: dict[str, Expectation] = dict(zip(names, values, strict=True))
    return Oracle(benchmark, responder, answers, expected | {"unmatched": unmatched})


def _item(options: tuple[str, ...], gender: str, agrees: bool | None) -> Instance:
    name = f"{gender}-{agrees}-{options[0]}"
    gold = options.index(_RIGHT)
    return Instance(
        id=name,
        fields={},
        options=options,
        gold=gold,
        template=f"{gender}-{agrees}",
        block=name,
        stereotyped=None if agrees is None else gold if agrees else 1 - gold,
        group=gender,
    )
