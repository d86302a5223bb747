"""Questions with a common beginning in one row, for gradients that all of them share.

A block asks two questions about two contexts, one of which begins like the other, so its prompts
and options have less than half as many distinct prefixes as tokens. Here each prefix is forwarded
once and the graph kept. What reaches a hidden state is then the sum over the questions behind it:
right for a factor that all questions share, and no attribution of any one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from excise.attribution.layouts import layout_for, stacked, takes_masks
from excise.config import AttributionConfig
from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt
from excise.scoring.rows import only_rows, widened
from excise.scoring.tree import PrefixTree, prefix_tree

_EVERY_TOKEN = AttributionConfig(tokens="sum", skip_first_token=False)
"""The layouts' share of the attribution's options does not matter here."""


def shared_log_likelihoods(
    loaded: LoadedModel, batch: Sequence[EncodedPrompt]
) -> list[torch.Tensor]:
    """Token log-likelihoods of all options, with their graph, each distinct prefix forwarded once.

    Models that take no mask of ours, and encoder-decoder models, forward the prompts row by row.

    Args:
        loaded: the model, in the state that is differentiated.
        batch: prompts of one step, best those of a block: attention takes time and a mask of the
            square of their distinct prefixes, also where they share nothing.

    Returns:
        Per prompt [options, longest option], in nats, zero where an option has no token; the same
        as `layout_for(...).log_likelihoods()` up to rounding.
    """
    if loaded.encoder_decoder or not (loaded.branches and takes_masks(loaded)):
        return layout_for(loaded, batch, _EVERY_TOKEN).log_likelihoods()
    tree = prefix_tree(batch)
    device = loaded.device
    nodes, rows = np.unique(tree.predicting, return_inverse=True)
    with only_rows(loaded.model, torch.from_numpy(nodes)):
        logits = loaded.model(
            input_ids=torch.from_numpy(tree.tokens)[None].to(device),
            position_ids=torch.from_numpy(tree.depths)[None].to(device),
            attention_mask=_paths(tree)[None, None].to(device),
            use_cache=False,
        ).logits[0]
    scored = widened(logits).log_softmax(-1)
    values = scored[torch.from_numpy(rows), torch.from_numpy(tree.targets)]
    return [
        stacked([values[_places(tree, number, place)] for place in range(len(item.options))])
        for number, item in enumerate(batch)
    ]


def _paths(tree: PrefixTree) -> torch.Tensor:
    """[n, n] True where a node (row) has another (column) on its path, itself among them."""
    nodes = np.arange(len(tree))
    return torch.from_numpy((nodes <= nodes[:, None]) & (nodes[:, None] < tree.ends))


def _places(tree: PrefixTree, number: int, place: int) -> torch.Tensor:
    """Where an option's tokens stand among the scored ones, in their order."""
    found = np.flatnonzero((tree.prompts == number) & (tree.options == place))
    # A path runs through nodes in ascending order, as what is scored does.
    return torch.from_numpy(found)
