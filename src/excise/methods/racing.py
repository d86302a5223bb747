"""Choosing among numbers of neurons without measuring each in full: a race over the tune split.

All numbers are asked a part of the tune items; those that do worst, and those that are worse by
more than chance, drop out; the rest goes on with the next part (successive halving: Jamieson and
Talwalkar, AISTATS 2016). Items are the same for all, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np

from excise.evaluation.parts import joined
from excise.statistics import template_weights
from excise.types import FloatArray, Instance, Predictions

PORTIONS = 4
"""Parts of the tune items."""
STAYING = (0.4, 0.3, 0.2)
"""Shares of the numbers that go on after each part but the last; together with the first part they
cost 1.9 / 4 of the grid."""
_FEWEST = 2
"""Numbers that always go on, as long as chance may explain how they differ."""
_RESAMPLES = 500
_LEVEL = 0.95

Ask = Callable[[int, int], FloatArray]
"""From a number of neurons and a portion to the share of instructions under which each of the
portion's items is answered correctly, [items]."""


def portions(instances: Sequence[Instance]) -> list[list[Instance]]:
    """The items in parts of about the same size; items of a block stay together.

    Args:
        instances: the tune items, in a random order of their blocks.

    Returns:
        At most `PORTIONS` parts, none empty.
    """
    blocks: dict[str, list[Instance]] = {}
    for instance in instances:
        blocks.setdefault(instance.block, []).append(instance)
    dealt: list[list[Instance]] = [[] for _ in range(min(PORTIONS, len(blocks)))]
    for block, portion in zip(blocks.values(), cycle(dealt), strict=False):
        portion += block
    return dealt


def raced(
    numbers: Sequence[int],
    instances: Sequence[Instance],
    answers: Callable[[int, Sequence[Instance]], Predictions],
) -> dict[int, Predictions]:
    """A race on answers: what the numbers that stay in it to the end answered to all items.

    Args:
        numbers: what competes, without repetitions.
        instances: the tune items, in a random order of their blocks.
        answers: what the model answers under a number of neurons to some of them.

    Returns:
        Ascending numbers; the items stand in the order in which they were asked.
    """
    parts = portions(instances)
    said: dict[tuple[int, int], Predictions] = {}

    def correct(n: int, place: int) -> FloatArray:
        said[n, place] = found = answers(n, parts[place])
        return np.asarray((found.choice == found.gold).mean(axis=0), dtype=np.float64)

    together = {}
    for n in race(numbers, parts, correct):
        found = [said[n, place] for place in range(len(parts))]
        told = range(len(found[0].instructions))
        whole = joined([_under(one, i) for i in told for one in found], len(told))
        assert isinstance(whole, Predictions)
        together[n] = whole
    return together


def _under(predictions: Predictions, i: int) -> Predictions:
    """The answers under one instruction."""
    rows = {
        name: values[i : i + 1]
        for name in ("choice", "log_likelihood", "n_tokens", "compared")
        if (values := getattr(predictions, name)) is not None
    }
    return replace(predictions, instructions=predictions.instructions[i : i + 1], **rows)


def race(numbers: Sequence[int], parts: Sequence[Sequence[Instance]], ask: Ask) -> list[int]:
    """The numbers that are still in the race after all parts, each measured on all of them.

    A number drops out when the 95 % interval of its paired difference from the best so far
    (resampled by template) lies below 0, or when too many others are better. Equal ones are kept in
    favour of the smaller number.

    Args:
        numbers: what competes, without repetitions.
        parts: of the tune items.
        ask: measures a number on a part; called at most once for each pair.

    Returns:
        Ascending, at least one.
    """
    left = sorted(numbers)
    correct: dict[int, list[FloatArray]] = {n: [] for n in left}
    templates: list[str] = []
    for place, part in enumerate(parts):
        for n in left:
            correct[n].append(ask(n, place))
        templates += [instance.template for instance in part]
        if place == len(parts) - 1:
            break
        means = {n: float(np.concatenate(correct[n]).mean()) for n in left}
        order = sorted(left, key=lambda n: (-means[n], n))
        weights = template_weights(templates, _RESAMPLES, seed=place)
        best = np.concatenate(correct[order[0]])
        stay = max(_FEWEST, int(len(numbers) * STAYING[min(place, len(STAYING) - 1)]))
        left = sorted(
            n for n in order[:stay] if not _worse(np.concatenate(correct[n]) - best, weights)
        )
    return left


def _worse(difference: FloatArray, weights: FloatArray) -> bool:
    """Whether a paired difference lies below 0 by more than chance."""
    draws = weights @ difference / weights.sum(axis=1)
    return bool(np.quantile(draws, (1 + _LEVEL) / 2) < 0)
