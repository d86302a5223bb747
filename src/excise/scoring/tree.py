"""Prompts and options as one prefix tree: what the tokens are, which of them predict something.

Nodes are numbered in preorder, the order of a depth-first walk. Any run of consecutive nodes then
has all its outside ancestors on one path, the path from the root to the run's first node, so a tree
of any size can be forwarded run by run with no token computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from excise.scoring.encoding import EncodedPrompt
from excise.types import IntArray


@dataclass(frozen=True)
class PrefixTree:
    """The distinct prefixes of a list of prompts with options. n nodes, s scored tokens."""

    tokens: IntArray
    """[n] token ids in preorder."""
    depths: IntArray
    """[n] number of tokens before each one: its position in its text."""
    ends: IntArray
    """[n] the first node behind each node's descendants."""
    predicting: IntArray
    """[s] node that predicts each scored token, ascending."""
    targets: IntArray
    """[s] the scored token."""
    prompts: IntArray
    """[s] the prompt it belongs to."""
    options: IntArray
    """[s] the option of that prompt."""
    n_prompts: int

    def __len__(self) -> int:
        """Number of distinct prefixes."""
        return len(self.tokens)

    def cut(self, start: int, tokens: int, predicting: int) -> int:
        """Where a run of nodes ends that begins at `start`: at least one node later.

        Args:
            start: the run's first node.
            tokens: most nodes of a run.
            predicting: most nodes of a run that predict something (each costs a row of logits).
        """
        stop = min(start + tokens, len(self))
        low, high = np.searchsorted(self.predicting, [start, stop])
        nodes = np.unique(self.predicting[low:high])
        return int(nodes[predicting]) if len(nodes) > predicting else stop

    def finished(self) -> IntArray:
        """[n_prompts] ascending, the node after which one more prompt is completely scored."""
        last = np.zeros(self.n_prompts, dtype=np.int64)
        np.maximum.at(last, self.prompts, self.predicting)
        return np.sort(last)


def prefix_tree(prompts: Sequence[EncodedPrompt]) -> PrefixTree:
    """The tree of all prompts with all their options.

    Args:
        prompts: none of them empty, no option without tokens. The last token of an option is only
            predicted, so it is no node.
    """
    texts = sorted(
        (item.prompt + option[:-1], number, place)
        for number, item in enumerate(prompts)
        for place, option in enumerate(item.options)
    )
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    scored: list[tuple[int, int, int, int]] = []
    path: list[int] = []
    before: tuple[int, ...] = ()
    for text, number, place in texts:
        shared = shared_length(before, text)
        for node in path[shared:]:
            ends[node] = len(tokens)
        del path[shared:]
        path.extend(range(len(tokens), len(tokens) + len(text) - shared))
        tokens.extend(text[shared:])
        depths.extend(range(shared, len(text)))
        ends.extend([-1] * (len(text) - shared))
        first = len(prompts[number].prompt) - 1
        option = prompts[number].options[place]
        scored.extend((path[first + i], target, number, place) for i, target in enumerate(option))
        before = text
    for node in path:
        ends[node] = len(tokens)
    columns = np.array(sorted(scored), dtype=np.int64).reshape(-1, 4)
    return PrefixTree(
        tokens=np.array(tokens, dtype=np.int64),
        depths=np.array(depths, dtype=np.int64),
        ends=np.array(ends, dtype=np.int64),
        predicting=columns[:, 0].copy(),
        targets=columns[:, 1].copy(),
        prompts=columns[:, 2].copy(),
        options=columns[:, 3].copy(),
        n_prompts=len(prompts),
    )


def shared_length(left: Sequence[object], right: Sequence[object]) -> int:
    """Length of the common prefix."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))
