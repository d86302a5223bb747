"""Attention along the paths of a prefix tree, in place of a model's own kernel.

A run of nodes (see `excise.scoring.tree`) is one sequence for every linear map, norm and head of
the model. Only attention knows of the tree: a block of the run attends to the path above its first
node and to itself, so a step costs what the depth of the tree asks for, whatever the run's length.
The keys and values of the path that the next run needs are kept, one copy a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from excise.errors import ModelError
from excise.models.kernels import attending
from excise.scoring.tree import PrefixTree

_NAME = "excise_prefix_tree"
_BLOCK = 64
"""Query tokens at once on CPUs; measured: more attend to more that is not on their path."""

Kept = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Layer -> keys and values of a path, each [heads of keys, depth, size]."""


@dataclass
class _Block:
    """Consecutive queries of a run with what they attend to. q queries, k keys."""

    start: int
    stop: int
    places: torch.Tensor
    """[k] places of the keys among the run's: the path before the run, then the run."""
    visible: torch.Tensor
    """[q, k] whether the key is the query's token or one of its ancestors."""
    distance: torch.Tensor
    """[q, k] tokens from the key to the query, for sliding windows."""
    masks: dict[tuple[int | None, int, torch.dtype], torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> _Block:
        """A copy on another device."""
        places, visible, distance = (
            part.to(device) for part in (self.places, self.visible, self.distance)
        )
        return _Block(self.start, self.stop, places, visible, distance)

    def mask(self, window: int | None, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """[groups * q, k] what is added to the attention logits."""
        key = (window, groups, dtype)
        if key not in self.masks:
            allowed = self.visible if window is None else self.visible & (self.distance < window)
            added = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
            self.masks[key] = added.masked_fill_(~allowed, -torch.inf).repeat(groups, 1)
        return self.masks[key]


@dataclass
class Step:
    """One run of nodes on its way through the layers."""

    blocks: list[_Block]
    keep: torch.Tensor
    """[depth of the next run's first node] places of its path among this run's keys."""
    path: Kept
    """What the run before left."""
    kept: Kept = field(default_factory=dict)
    """What this run leaves."""
    _elsewhere: dict[torch.device, Step] = field(default_factory=dict)

    def on(self, device: torch.device) -> Step:
        """The same run for the layers of another device; what it leaves is shared."""
        if device == self.keep.device:
            return self
        if device not in self._elsewhere:
            blocks = [block.to(device) for block in self.blocks]
            self._elsewhere[device] = Step(blocks, self.keep.to(device), self.path, self.kept)
        return self._elsewhere[device]


def step(
    tree: PrefixTree, start: int, stop: int, path: Kept, device: torch.device, block: int = 0
) -> Step:
    """The attention of nodes `start` to `stop` (exclusive).

    Args:
        tree: the prefix tree.
        start: first node; the runs before it are done.
        stop: node after the last.
        path: what the run before left, empty for the first.
        device: where the model computes.
        block: query tokens at once; by default what suits the device.
    """
    block = block or (_BLOCK if device.type == "cpu" else stop - start)
    before = int(tree.depths[start])
    # Where the key of the current path's token at each depth lies.
    places = np.zeros(int(tree.depths[start:stop].max()) + 1, dtype=np.int64)
    places[:before] = np.arange(before)
    blocks = []
    for low in range(start, stop, block):
        high = min(low + block, stop)
        above = int(tree.depths[low])
        nodes = np.arange(low, high)
        depths = tree.depths[low:high]
        own = before + nodes - start
        # A path token is an ancestor as long as the walk has not gone up beyond it.
        on_path = np.arange(above)[None] < np.minimum.accumulate(depths)[:, None]
        inside = (nodes[None] <= nodes[:, None]) & (nodes[:, None] < tree.ends[low:high][None])
        key_depths = np.concatenate([np.arange(above), depths])
        blocks.append(
            _Block(
                low - start,
                high - start,
                torch.from_numpy(np.concatenate([places[:above], own])).to(device),
                torch.from_numpy(np.concatenate([on_path, inside], axis=1)).to(device),
                torch.from_numpy(depths[:, None] - key_depths[None]).to(device),
            )
        )
        for place, depth in zip(own.tolist(), depths.tolist(), strict=True):
            places[depth] = place
    following = int(tree.depths[stop]) if stop < len(tree) else 0
    return Step(blocks, torch.from_numpy(places[:following].copy()).to(device), path)


_current: Step | None = None


def tree_attention(model: Any) -> AbstractContextManager[None]:
    """Let a model attend along a tree; its own kernel comes back after the `with` block."""
    return attending(model, _NAME, _attend)


@contextmanager
def taking(current: Step) -> Iterator[None]:
    """Inside `tree_attention`: the model's next forward pass is of this run."""
    global _current
    _current = current
    try:
        yield
    finally:
        _current = None


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer; [1, heads, n, size] of queries, as transformers calls it."""
    assert _current is not None, "a forward pass outside `taking`"
    now = _current.on(query.device)
    assert attention_mask is None, "the tree decides what is visible"
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ModelError(f"attention with {name!r} cannot be scored in a prefix tree.")
    keys, values = key[0], value[0]
    if module.layer_idx in now.path:
        before = now.path[module.layer_idx]
        keys, values = torch.cat([before[0], keys], 1), torch.cat([before[1], values], 1)
    if len(now.keep):
        now.kept[module.layer_idx] = (
            keys.index_select(1, now.keep),
            values.index_select(1, now.keep),
        )
    heads, size = query.shape[1], query.shape[-1]
    groups = heads // len(keys)
    output = query.new_empty(1, query.shape[2], heads, values.shape[-1])
    for block in now.blocks:
        n = block.stop - block.start
        # Queries that share keys are one matrix: keys are never repeated.
        asked = query[0, :, block.start : block.stop].reshape(len(keys), groups * n, size)
        answer = torch.nn.functional.scaled_dot_product_attention(
            asked[None],
            keys.index_select(1, block.places)[None],
            values.index_select(1, block.places)[None],
            attn_mask=block.mask(sliding_window, groups, query.dtype)[None, None],
            scale=scaling,
        )
        output[0, block.start : block.stop] = answer[0].reshape(heads, n, -1).transpose(0, 1)
    return output, None
