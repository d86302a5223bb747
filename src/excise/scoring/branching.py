"""Where states of a model part: which hidden states are worth keeping for the next state.

A state is described layer by layer, as the changes to each layer's weights. Two states compute the
same up to the first layer in which they differ, so states are a tree over layers, as prompts are a
tree over tokens: where it branches, hidden states serve everything behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from excise.scoring.tree import shared_length

Label = tuple[tuple[tuple[str, int, float], ...], ...]
"""What is changed in one layer: (module, index, factor), block by block."""
Labels = tuple[Label, ...]
"""What is changed outside of the layers, then in each of them; or the beginning of such a tuple."""


def branch_points(states: Sequence[Labels]) -> tuple[Labels, ...]:
    """The beginnings of states whose hidden states save the most layers, the best first.

    Greedy: the next one is what saves most beside those before it. Of a beginning, the first state
    that has it computes the hidden states, and the others start behind it.

    Args:
        states: in the order in which they are asked, all of the same length.

    Returns:
        As many as help; the first k of them are what to keep where memory holds k.
    """
    asked = list(dict.fromkeys(states))
    ordered = sorted(asked)
    found = {a[: shared_length(a, b)] for a, b in pairwise(ordered)}
    candidates = sorted(beginning for beginning in found if len(beginning) > 1)
    if not candidates:
        return ()
    # [candidates, states] layers that a state need not compute
    saved = np.zeros((len(candidates), len(asked)))
    for row, beginning in zip(saved, candidates, strict=True):
        having = [n for n, state in enumerate(asked) if state[: len(beginning)] == beginning]
        row[having[1:]] = len(beginning) - 1
    chosen: list[Labels] = []
    now = np.zeros(len(asked))
    while True:
        better = np.maximum(saved, now).sum(axis=1)
        best = int(better.argmax())
        if better[best] <= now.sum():
            return tuple(chosen)
        chosen.append(candidates[best])
        now = np.maximum(now, saved[best])
