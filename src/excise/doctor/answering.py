"""Responders' answers, taken through the same code as a model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from excise.evaluation.choices import byte_counts, likeliest, normalised
from excise.generation import match
from excise.types import Instance, Normalisation, Predictions

PERFECT = "perfect"
STEREOTYPED = "stereotyped"
ANTI_STEREOTYPED = "anti-stereo"
UNKNOWN = "unknown"
UNIFORM = "uniform"
FIRST = "first"
LAST = "last"
MIXED = "mixed"
INDIFFERENT = "indifferent"
HALF_TIED = "half tied"
NONSENSE = "nonsense"
VERBOSE = "verbose"
SEVERAL = "multi-word"
EMPTY = "empty"
HALF_EMPTY = "half empty"
NOBODY = "nobody"

RESPONDERS = {
    PERFECT: "always right, never leaning, nothing hurtful; certain of every token",
    STEREOTYPED: "always as the stereotype says",
    ANTI_STEREOTYPED: "always against the stereotype",
    UNKNOWN: "always that it cannot be known",
    UNIFORM: "every answer, or every order of options, equally often",
    FIRST: "always the option that is listed first",
    LAST: "always the option that is listed last",
    MIXED: "one way to some items and another way to the others",
    INDIFFERENT: "finds all options equally likely",
    HALF_TIED: "finds options equally likely in some items, prefers the stereotype in the others",
    NONSENSE: "always the option that makes no sense",
    VERBOSE: "the right answer inside a longer sentence",
    SEVERAL: "several words or options in one answer",
    EMPTY: "nothing",
    HALF_EMPTY: "nothing to some items, the stereotype to the others",
    NOBODY: "is not asked: every item counts 0 times",
}
"""What each responder does."""

_LEVELS = ((5, 1.0), (2, 2.0), (1, 3.0))
"""Tokens of an option's text, and bits of each: per token the first is the best, in total it is the
worst. So a comparison by the wrong number shows."""

PROBABILITIES = (2.0**-5, 2.0**-4, 2.0**-3)
"""Probability of the texts of the best, second and third option per token."""

Texts = Callable[[Instance], Sequence[str]]
"""The answers to an item; as many to every item."""
Rankings = Callable[[Instance], Sequence[Sequence[int]]]
"""Rankings of an item's options: the rank of each one, 0 for the best, equal for ties; as many
rankings for every item."""


def generated(instances: Sequence[Instance], answers: Texts) -> Predictions:
    """Answers in words, matched to options."""
    asked = [(item, list(answers(item))) for item in instances]
    choice = [[match(text, item.options) for item, texts in asked for text in texts]]
    return Predictions(_repeated(asked), ("",), np.array(choice, dtype=np.int64))


def ranked(
    instances: Sequence[Instance], rankings: Rankings, by: Normalisation = "per_token"
) -> Predictions:
    """Log-likelihoods of options.

    Args:
        instances: the items.
        rankings: how each item's options are ranked.
        by: what the rankings hold for, `per_token` or `total`; the other one is the reverse.
    """
    asked = [(item, list(rankings(item))) for item in instances]
    rows = [ranking for _, several in asked for ranking in several]
    repeated = _repeated(asked)
    levels = _LEVELS if by == "per_token" else _LEVELS[::-1]
    shape = (1, len(rows), max(map(len, rows)))
    log_likelihood = np.full(shape, np.nan)
    n_tokens = np.zeros(shape, dtype=np.int64)
    for n, ranking in enumerate(rows):
        for option, rank in enumerate(ranking):
            tokens, bits = levels[rank]
            n_tokens[0, n, option] = tokens
            log_likelihood[0, n, option] = -tokens * bits * np.log(2.0)
    compared = normalised(log_likelihood, n_tokens, byte_counts(repeated), by)
    return Predictions(
        repeated, ("",), likeliest(compared), log_likelihood, n_tokens, compared, "synthetic"
    )


def best(option: int, n_options: int) -> list[tuple[int, ...]]:
    """All rankings that put one option first."""
    return [ranks for ranks in permutations(range(n_options)) if ranks[option] == 0]


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
