"""Which neurons are kept prompt by prompt: all of them, or the best where memory is short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from excise.models import Site
from excise.types import FloatArray, IntArray, Neuron


@dataclass(frozen=True)
class Candidates:
    """The neurons that are kept per prompt. M neurons, in the order of the model's modules."""

    columns: Mapping[str, IntArray]
    """Module -> indices of its neurons that are kept, ascending."""

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """[M] the neurons, in the order in which rankings break ties."""
        return tuple(Neuron(m, int(index)) for m, of in self.columns.items() for index in of)

    def __len__(self) -> int:
        return sum(map(len, self.columns.values()))

    def places(self, neurons: Sequence[Neuron]) -> IntArray:
        """[n] where the given neurons stand among the candidates.

        Raises:
            KeyError: one of them is no candidate.
        """
        place = {neuron: n for n, neuron in enumerate(self.neurons)}
        return np.array([place[neuron] for neuron in neurons], dtype=np.int64)


def every_neuron(sites: Sequence[Site]) -> Candidates:
    """All neurons compete and are kept."""
    return Candidates({site.module: np.arange(site.size) for site in sites})


def highest(
    sites: Sequence[Site],
    scores: Mapping[str, FloatArray],
    size: int,
    watched: Sequence[Neuron],
    *,
    sign: str,
) -> Candidates:
    """The first neurons of a ranking, and the watched ones.

    Args:
        sites: what competes.
        scores: module -> [neurons].
        size: how many of the ranking.
        watched: neurons that are kept wherever they rank.
        sign: the order of the ranking.
    """
    joined = np.concatenate([scores[site.module] for site in sites])
    key = {"signed": joined, "absolute": np.abs(joined), "ascending": -joined}[sign]
    kept = np.zeros(len(joined), dtype=np.bool_)
    kept[np.argsort(-key, kind="stable")[:size]] = True
    columns, start = {}, 0
    for site in sites:
        own = set(np.flatnonzero(kept[start : start + site.size]).tolist())
        own |= {neuron.index for neuron in watched if neuron.module == site.module}
        columns[site.module] = np.array(sorted(own), dtype=np.int64)
        start += site.size
    return Candidates(columns)
