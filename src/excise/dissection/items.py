"""Which tokens of asked items drive the excised neurons; nothing is decided by them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from excise.dissection.candidates import highest
from excise.dissection.contributions import contributions
from excise.dissection.peaks import token_text
from excise.dissection.subjects import Subject
from excise.models import LoadedModel, Site
from excise.types import Neuron

TOKENS = 8
"""Tokens listed for an item."""


def item_tokens(
    loaded: LoadedModel,
    entry: Subject,
    sites: Sequence[Site],
    watched: Sequence[Neuron],
    advance: Callable[[int], None],
) -> dict[str, list[list[Any]]]:
    """The tokens at which the excised neurons speak for the biased option of each asked item.

    Every neuron has one token an item: that with its highest bias attribution (equations 1 to 5 of
    Yang et al., ACL 2024), whose value is the item's term of its score. Values at the same text are
    summed over the neurons. The unpatched model answers under the first instruction.

    Args:
        loaded: the unpatched model.
        entry: with the items to look at.
        sites: what competes.
        watched: the excised neurons, each in one of the sites.
        advance: called with the number of prompts just finished.

    Returns:
        Instance -> [[token, weight], ...], at most eight, the heaviest first. Weights are shares of
        the item's sum of absolute values, in [-1, 1]. Items that attribution skips are left out.

    Raises:
        NonFiniteError: NaN or infinity; names the instance.
    """
    if not entry.shown or not watched:
        return {}
    empty = {site.module: np.zeros(site.size) for site in sites}
    found = contributions(
        loaded,
        entry.task,
        entry.shown,
        entry.instructions[:1],
        entry.config.attribution,
        sites=sites,
        candidates=highest(sites, empty, 0, watched, sign="signed"),
        watched=watched,
        end_token=entry.config.scoring.end_token,
        advance=advance,
    )
    over_input = frozenset(site.module for site in sites if site.over_input)
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for peak in found.peaks:
        text = token_text(loaded, peak, over_input)
        sums[entry.shown[peak.instance].id][text] += peak.value
    return {instance: shares for instance, own in sums.items() if (shares := _shares(own))}


def _shares(sums: Mapping[str, float]) -> list[list[Any]]:
    whole = sum(map(abs, sums.values()))
    if not whole:
        return []
    order = sorted(sums.items(), key=lambda pair: (-abs(pair[1]), pair[0]))[:TOKENS]
    shares = [[text, round(value / whole, 4)] for text, value in order]
    return [pair for pair in shares if pair[1]]
