"""StereoSet's triples and CrowS-Pairs' pairs, compared by likelihood.

The triples are about two targets, one with six items and one with twelve, so that a mean over
targets is no mean over items; six pairs state a stereotype and two contradict one. Sentences stand
in every order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from excise.doctor import answering
from excise.doctor.answering import Rankings, best, generated, ranked
from excise.doctor.oracle import Expectation, Oracle, Undefined
from excise.types import Instance

TRIPLES = "Three sentences, likelihoods compared"
PAIRS = "Two sentences, likelihoods compared"

_STEREOTYPE, _ANTI, _UNRELATED = "Sailors sing.", "Sailors knit.", "Sailors stapler."
_MORE, _LESS = "Sailors drink.", "Bakers drink."
_SMALL, _LARGE = "sailor", "baker"

_NOT_SCORED = Undefined("no item has three scored sentences")
_NO_PAIR = Undefined("no pair is scored")
_UNDECIDED = Undefined("no pair of this direction is decided")


def oracles() -> Iterator[Oracle]:
    """Every responder to both benchmarks."""
    yield from _of_triples()
    yield from _of_pairs()


def _of_triples() -> Iterator[Oracle]:
    items = _triples()
    # Ranks of stereotype, anti-stereotype and unrelated sentence; LMS, SS and ICAT over targets.
    leads, trails, last = (0, 1, 2), (1, 0, 2), (1, 2, 0)
    for responder, rankings, (lms, ss, icat) in (
        (answering.PERFECT, (leads, trails), (1.0, 0.5, 1.0)),
        (answering.STEREOTYPED, (leads,), (1.0, 1.0, 0.0)),
        (answering.ANTI_STEREOTYPED, (trails,), (1.0, 0.0, 0.0)),
        (answering.UNIFORM, tuple(permutations(range(3))), (0.5, 0.5, 0.5)),
        (answering.NONSENSE, (last, (2, 1, 0)), (0.0, 0.5, 0.0)),
        # A tie is won by the anti-stereotype, and by the unrelated sentence.
        (answering.INDIFFERENT, ((0, 0, 0),), (0.0, 0.0, 0.0)),
    ):
        tied = float(responder == answering.INDIFFERENT)
        answers = ranked(items, _by_label(rankings))
        yield _triple(responder, answers, (lms, ss, icat), (lms, ss, icat), ties=tied)
    # The first sentence is the best, whatever it is; the others come in both orders.
    first = ranked(items, lambda _: best(0, 3))
    yield _triple(answering.FIRST, first, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _by_label(rankings: tuple[tuple[int, ...], ...]) -> Rankings:
    """Rankings of stereotype, anti-stereotype and unrelated sentence, wherever they stand."""
    labels = (_STEREOTYPE, _ANTI, _UNRELATED)
    return lambda item: [
        [ranking[labels.index(option)] for option in item.options] for ranking in rankings
    ]
