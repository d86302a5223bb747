"""Where the excised neurons lie, beside where random ones would."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from scipy.stats import hypergeom

from excise.models import Site
from excise.types import Neuron


def where(sites: Sequence[Site], neurons: Sequence[Neuron]) -> dict[str, Any]:
    """The map of layers and modules, as JSON values.

    Args:
        sites: the linear maps whose neurons compete.
        neurons: the excised ones; those outside of `sites` are counted as `elsewhere`.

    Returns:
        `cells`: for every linear map its stack, layer, sublayer and kind, `excised` of its
        `neurons` and their `share`, the `expected` number if as many neurons were drawn at random,
        and the probability `p_value` that such a draw has as many there or more (not corrected for
        the number of cells). `sublayers` and `layers`: the same, summed.
    """
    counted = Counter(neuron.module for neuron in neurons)
    known = {site.module for site in sites}
    inside = sum(count for module, count in counted.items() if module in known)
    total = sum(site.size for site in sites)
    stacks = _stacks(sites)

    def row(members: Sequence[Site], **names: Any) -> dict[str, Any]:
        size = sum(site.size for site in members)
        count = sum(counted[site.module] for site in members)
        return {
            **names,
            "neurons": size,
            "excised": count,
            "share": count / size,
            "expected": inside * size / total,
            "p_value": float(hypergeom.sf(count - 1, total, inside, size)),
        }

    by_sublayer: dict[str, list[Site]] = {}
    by_layer: dict[tuple[str, int], list[Site]] = {}
    for site in sites:
        by_sublayer.setdefault(site.sublayer, []).append(site)
        by_layer.setdefault((stacks[site.module], site.layer), []).append(site)
    return {
        "n": len(neurons),
        "competing": total,
        "elsewhere": len(neurons) - inside,
        "cells": [
            row(
                [site],
                module=site.module,
                stack=stacks[site.module],
                layer=site.layer,
                sublayer=site.sublayer,
                kind=kind_of(site.module),
            )
            for site in sites
        ],
        "sublayers": [row(own, sublayer=name) for name, own in by_sublayer.items()],
        "layers": [row(own, stack=s, layer=number) for (s, number), own in by_layer.items()],
    }


def kind_of(module: str) -> str:
    """The linear map's name within its layer, the same in every layer: `mlp.down_proj`."""
    return re.split(r"\.\d+\.", module)[-1]


def _stacks(sites: Sequence[Site]) -> dict[str, str]:
    """Module -> `encoder` or `decoder`; empty where a model has one stack only."""
    found = {}
    for site in sites:
        match = re.search(r"(?:^|\.)(encoder|decoder)\.", site.module)
        found[site.module] = match.group(1) if match else ""
    return found if len(set(found.values())) > 1 else dict.fromkeys(found, "")
