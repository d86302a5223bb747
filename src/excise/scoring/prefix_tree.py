"""Decoder-only engine: prompts and options in one tree, each distinct prefix forwarded about once.

Prompts are sorted, so that neighbours share long prefixes, and packed into trees of a bounded
number of tokens. A tree is one sequence: a token's position is its depth, and it attends to its
ancestors only. What all prompts of a tree and of the next one share, the trunk (system prompt,
instruction), is kept as a key-value cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from transformers import DynamicCache

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt

_MIN_TRUNK = 16
"""Shared tokens below which a cached trunk is not worth its own forward pass."""


@dataclass
class _Tree:
    """Tokens behind a trunk, as parents and depths."""

    trunk: tuple[int, ...]
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    scored: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(node that predicts, target token, prompt, option)."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, number: int, item: EncodedPrompt) -> None:
        last = self._walk(-1, item.prompt[len(self.trunk) :], len(self.trunk))
        for option, target in enumerate(item.options):
            node = last
            for place, token in enumerate(target):
                self.scored.append((node, token, number, option))
                if place < len(target) - 1:
                    node = self._walk(node, (token,), len(item.prompt) + place)

        # A prompt that ends inside the trunk would have no predicting node here.
        assert last >= 0

    def _walk(self, node: int, tokens: Sequence[int], depth: int) -> int:
        for offset, token in enumerate(tokens):
            key = (node, token)
            if key not in self._children:
                self._children[key] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(depth + offset)
            node = self._children[key]
        return node

    def ancestors(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """[n, n] whether column is the row's token or one of its ancestors."""
        seen = np.zeros((len(self.tokens), len(self.tokens)), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] = seen[parent]
            seen[node, node] = True
        return seen


class PrefixTreeScorer:
    """Scores prompts that share prefixes, each distinct prefix about once."""

    def __init__(self, loaded: LoadedModel, *, max_tokens: int = 512) -> None:
        self._loaded = loaded
        self._max_tokens = max_tokens
        self._trunk: tuple[int, ...] = ()
        self._cache: DynamicCache | None = None

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> list[tuple[float, ...]]:
        """Total log-likelihood in nats of every option of every prompt."""
        result = [np.zeros(len(item.options)) for item in prompts]
        self._trunk, self._cache = (), None
        for group, trunk in self._groups(prompts):
            tree = _Tree(trunk)
            for i in group:
                tree.add(i, prompts[i])
            for (_, _, i, o), value in zip(tree.scored, self._forward(tree), strict=True):
                result[i][o] += value
            if advance:
                advance(len(group))
        return [tuple(float(v) for v in values) for values in result]

    def _groups(
        self, prompts: Sequence[EncodedPrompt]
    ) -> Iterator[tuple[list[int], tuple[int, ...]]]:
        """Neighbouring prompts that fill one tree, each with the trunk they share."""
        order = sorted(range(len(prompts)), key=lambda i: prompts[i].prompt)
        groups: list[list[int]] = [[]]
        used = 0
        for i in order:
            item = prompts[i]
            new = sum(len(option) - 1 for option in item.options) + len(item.prompt)
            if groups[-1]:
                new -= _shared(prompts[groups[-1][-1]].prompt, item.prompt)
                if used + new > self._max_tokens:
                    groups.append([])
                    used = 0
            groups[-1].append(i)
            used += new
        trunk: tuple[int, ...] = ()
        followers = [*groups[1:], []]
        for group, follower in zip(groups, followers, strict=True):
            if not group:
                continue
            own = _common([prompts[i].prompt for i in (group[0], group[-1])])
            if not trunk or own[: len(trunk)] != trunk:
                # Sorted order: what the first and the last share, all between them share.
                both = [prompts[i].prompt for i in (group[0], (follower or group)[-1])]
                trunk = _common(both) if follower else ()
                if len(trunk) < _MIN_TRUNK:
                    trunk = ()
            # At least the last prompt token stays in the tree: it predicts the options.
            shortest = min(len(prompts[i].prompt) for i in group)
            yield group, trunk if len(trunk) < shortest else trunk[: shortest - 1]

    def _forward(self, tree: _Tree) -> list[float]:
        device = self._loaded.device
        cache = self._trunk_cache(tree.trunk)
        size, shared = len(tree.tokens), len(tree.trunk)
        mask = torch.ones(size, shared + size, dtype=torch.bool)
        mask[:, shared:] = torch.from_numpy(tree.ancestors())
        nodes = sorted({node for node, *_ in tree.scored})
        place = {node: k for k, node in enumerate(nodes)}
        logits = self._loaded.model(
            input_ids=torch.tensor([tree.tokens], device=device),
            position_ids=torch.tensor([tree.depths], device=device),
            attention_mask=mask[None, None].to(device),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=torch.tensor(nodes, device=device),
        ).logits[0]
        if cache is not None:
            cache.crop(-size)
        normaliser = logits.float().logsumexp(-1)
        rows = torch.tensor([place[node] for node, *_ in tree.scored], device=device)
        targets = torch.tensor([target for _, target, *_ in tree.scored], device=device)
        values: list[float] = (logits[rows, targets].float() - normaliser[rows]).double().tolist()
        return values

    def _trunk_cache(self, trunk: tuple[int, ...]) -> DynamicCache | None:
        if not trunk:
            return None
        if trunk != self._trunk or self._cache is None:
            model = self._loaded.model
            self._cache = DynamicCache(config=model.config)
            model(
                input_ids=torch.tensor([trunk], device=self._loaded.device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self._trunk = trunk
        return self._cache


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))


def _common(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Common prefix of all rows."""
    length = min((_shared(a, b) for a, b in pairwise(rows)), default=len(rows[0]))
    return rows[0][:length]
