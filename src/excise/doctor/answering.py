"""Responders' answers, taken through the same code as a model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from excise.evaluation.choices import byte_counts, likeliest, normalised
from excise.generation import match
from excise.types import Instance, Predictions

PERFECT = "perfect"
STEREOTYPED = "stereotyped"
ANTI_STEREOTYPED = "anti-stereo"
UNKNOWN = "unknown"
UNIFORM = "uniform"
FIRST = "first"
LAST = "last"
MIXED = "mixed"
INDIFFERENT = "indifferent"
VERBOSE = "verbose"
SEVERAL = "multi-word"
EMPTY = "empty"
HALF_EMPTY = "half empty"

RESPONDERS = {
    PERFECT: "always right; nothing hurtful; every token of a text certain",
    STEREOTYPED: "always as the stereotype says",
    ANTI_STEREOTYPED: "always against the stereotype",
    UNKNOWN: "always that it cannot be known",
    UNIFORM: "every answer, or every order of options, equally often",
    FIRST: "always the option that is listed first",
    LAST: "always the option that is listed last",
    MIXED: "one way to some items and another way to the others",
    INDIFFERENT: "finds all options equally likely",
    VERBOSE: "the right answer inside a longer sentence",
    SEVERAL: "several words or options in one answer",
    EMPTY: "nothing",
    HALF_EMPTY: "nothing to some items, the stereotype to the others",
}
"""What each responder does."""

_LEVELS = ((5, 1.0), (2, 2.0), (1, 3.0))
"""Tokens of the best, second and third option, and bits of each token: per token the first is
best, in total it is the worst. So a comparison by the wrong number shows."""

PROBABILITIES = (2.0**-5, 2.0**-4, 2.0**-3)
"""Probability of the texts of the best, second and third option."""

Texts = Callable[[Instance], Sequence[str]]
"""The answers to an item; as many to every item."""
Orders = Callable[[Instance], Sequence[Sequence[int]]]
"""Orders of an item's options, the best first; as many for every item."""


def generated(instances: Sequence[Instance], answers: Texts) -> Predictions:
    """Answers in words, matched to options."""
    asked = [(item, list(answers(item))) for item in instances]
    choice = [[match(text, item.options) for item, texts in asked for text in texts]]
    return Predictions(_repeated(asked), ("",), np.array(choice, dtype=np.int64))


def preferred(instances: Sequence[Instance], orders: Orders) -> Predictions:
    """Log-likelihoods of options, compared per token."""
    asked = [(item, list(orders(item))) for item in instances]
    levels = [
        [_LEVELS[order.index(option)] for option in range(len(item.options))]
        for item, several in asked
        for order in several
    ]
    return _scored(_repeated(asked), levels)


def indifferent(instances: Sequence[Instance]) -> Predictions:
    """Options that are all equally likely."""
    levels = [[_LEVELS[0]] * len(item.options) for item in instances]
    return _scored(tuple(instances), levels)


def _scored(
    instances: tuple[Instance, ...], levels: Sequence[Sequence[tuple[int, float]]]
) -> Predictions:
    shape = (1, len(instances), max(map(len, levels)))
    log_likelihood = np.full(shape, np.nan)
    n_tokens = np.zeros(shape, dtype=np.int64)
    for n, row in enumerate(levels):
        n_tokens[0, n, : len(row)] = [tokens for tokens, _ in row]
        log_likelihood[0, n, : len(row)] = [-tokens * bits * np.log(2.0) for tokens, bits in row]
    compared = normalised(log_likelihood, n_tokens, byte_counts(instances), "per_token")
    return Predictions(
        instances, ("",), likeliest(compared), log_likelihood, n_tokens, compared, "synthetic"
    )


def _repeated(asked: Sequence[tuple[Instance, Sequence[object]]]) -> tuple[Instance, ...]:
    """Each item once for each of its answers."""
    numbers = {len(several) for _, several in asked}
    if len(numbers) != 1:
        # Items would count with unequal weights, and closed forms would not hold.
        raise ValueError(f"a responder gives {sorted(numbers)} answers to an item")
    return tuple(
        replace(item, id=f"{item.id}-{number}")
        for item, several in asked
        for number in range(len(several))
    )
