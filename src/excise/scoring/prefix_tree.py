"""Decoder-only engine: all prompts and options in one tree, each distinct prefix forwarded once.

The tree's nodes run through the model in preorder, a bounded number at a time, as one sequence
without padding. A token's position is its depth, and it attends along its path only
(`excise.scoring.tree_attention`). From one run to the next stays the path that goes on, so memory
does not grow with the task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt
from excise.scoring.memory import Budget, budget, out_of_memory, shrunk
from excise.scoring.reusing import Scoring, scoring
from excise.scoring.rows import log_likelihoods, only_rows
from excise.scoring.tree import PrefixTree, prefix_tree
from excise.scoring.tree_attention import Kept, step, taking, tree_attention


class PrefixTreeScorer:
    """Scores prompts that share prefixes, each distinct prefix once."""

    def __init__(
        self, loaded: LoadedModel, *, max_tokens: int = 768, max_memory_mib: int = 1024
    ) -> None:
        self._loaded = loaded
        self._budget = budget(loaded, max_tokens=max_tokens, max_memory_mib=max_memory_mib)

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> list[tuple[float, ...]]:
        """Total log-likelihood in nats of every option of every prompt."""
        tree = prefix_tree(prompts)
        result = [np.zeros(len(item.options)) for item in prompts]
        finished = tree.finished()
        limit: Budget = self._budget
        path: Kept = {}
        start = 0
        under_way = scoring(self._loaded, tree.tokens, tree.depths, tree.ends)
        with tree_attention(self._loaded.model):
            while start < len(tree):
                stop = tree.cut(start, limit.tokens, limit.rows)
                try:
                    scored, values, following = self._forward(tree, start, stop, path, under_way)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or stop - start == 1:
                        raise
                    limit = shrunk(limit, stop - start)
                    continue
                for k, value in zip(range(scored.start, scored.stop), values, strict=True):
                    result[tree.prompts[k]][tree.options[k]] += value
                done = np.searchsorted(finished, [start, stop])
                if advance and done[0] < done[1]:
                    advance(int(done[1] - done[0]))
                path, start = following, stop
        under_way.finished()
        return [tuple(float(v) for v in values) for values in result]

    def _forward(
        self, tree: PrefixTree, start: int, stop: int, path: Kept, under_way: Scoring
    ) -> tuple[slice, list[float], Kept]:
        device = self._loaded.device
        low, high = (int(k) for k in np.searchsorted(tree.predicting, [start, stop]))
        nodes, rows = np.unique(tree.predicting[low:high] - start, return_inverse=True)
        # Without anything to predict, one row: an empty head is asked of no model.
        needed = nodes if len(nodes) else np.array([0])
        current = step(tree, start, stop, path, device)
        # On whatever device the head is: that of the first layer may be another one.
        head = only_rows(self._loaded.model, torch.from_numpy(needed))
        with taking(current), under_way.forward(start, stop), head:
            logits = self._loaded.model(
                input_ids=torch.from_numpy(tree.tokens[start:stop])[None].to(device),
                position_ids=torch.from_numpy(tree.depths[start:stop])[None].to(device),
                use_cache=False,
            ).logits[0]
        values: list[float] = []
        if len(nodes):
            targets = torch.from_numpy(tree.targets[low:high]).to(device)
            at = torch.from_numpy(rows).to(device)
            values = log_likelihoods(logits, at, targets).tolist()
        return slice(low, high), values, current.kept
