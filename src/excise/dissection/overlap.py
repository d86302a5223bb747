"""How much sets of neurons have in common, and how much random sets would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from excise.types import FloatArray, Neuron


@dataclass(frozen=True)
class Chance:
    """The number of neurons that two random sets share."""

    probability: FloatArray
    """[k] of sharing 0, 1, ... neurons."""
    size: int
    """Of both sets together, shared ones counted twice."""

    @classmethod
    def of(cls, strata: Mapping[str, tuple[int, int, int]]) -> Chance:
        """Two sets drawn independently, without replacement, within every stratum.

        Args:
            strata: name -> number of neurons, and how many of them either set draws. One stratum
                is a draw from all neurons; modules as strata keep the sets' places.
        """
        probability = np.ones(1)
        for population, first, second in strata.values():
            shared = np.arange(min(first, second) + 1)
            own = hypergeom.pmf(shared, population, first, second)
            probability = np.convolve(probability, own)
        size = sum(first + second for _, first, second in strata.values())
        return cls(probability, size)

    @property
    def jaccard(self) -> float | None:
        """Expected Jaccard overlap, 0..1; None for two empty sets."""
        if not self.size:
            return None
        shared = np.arange(len(self.probability))
        return float((self.probability * shared / (self.size - shared)).sum())

    def at_least(self, shared: int) -> float:
        """Probability of sharing as many or more, 0..1."""
        return float(min(self.probability[shared:].sum(), 1.0))


def compared(
    first: Sequence[Neuron], second: Sequence[Neuron], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Two sets beside random ones of their sizes, as JSON values.

    Args:
        first: a set of neurons.
        second: another.
        sizes: module -> number of neurons, for all modules that compete.

    Returns:
        `jaccard`: shared neurons by neurons of either. `expected`, `p_value`: of sets drawn from
        all neurons (hypergeometric), and the probability of sharing as many or more.
        `expected_same_modules`, `p_value_same_modules`: of sets with as many neurons in each module
        as these, which asks for more than that both methods like the same modules.
    """
    shared = len(set(first) & set(second))
    either = len(set(first) | set(second))
    anywhere = Chance.of({"": (sum(sizes.values()), len(first), len(second))})
    of_first = Counter(neuron.module for neuron in first)
    of_second = Counter(neuron.module for neuron in second)
    there = Chance.of({m: (size, of_first[m], of_second[m]) for m, size in sizes.items()})
    return {
        "sizes": [len(first), len(second)],
        "shared": shared,
        "jaccard": shared / either if either else None,
        "expected": anywhere.jaccard,
        "p_value": anywhere.at_least(shared),
        "expected_same_modules": there.jaccard,
        "p_value_same_modules": there.at_least(shared),
    }


def all_pairs(sets: Mapping[str, Sequence[Neuron]], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Every pair of named sets, as JSON values.

    Returns:
        `pairs`, their mean `jaccard` and `expected` ones (None without pairs), and `neurons`:
        those in more than one set, with the names of these.
    """
    pairs = [
        {"first": a, "second": b, **compared(sets[a], sets[b], sizes)}
        for a, b in combinations(sets, 2)
    ]
    holders: dict[Neuron, list[str]] = {}
    for name, neurons in sets.items():
        for neuron in neurons:
            holders.setdefault(neuron, []).append(name)
    common = sorted(
        ((neuron, names) for neuron, names in holders.items() if len(names) > 1),
        key=lambda entry: -len(entry[1]),
    )
    return {
        "sets": {name: len(neurons) for name, neurons in sets.items()},
        "pairs": pairs,
        **{
            key: _mean([pair[key] for pair in pairs])
            for key in ("jaccard", "expected", "expected_same_modules")
        },
        "neurons": [
            {"module": neuron.module, "index": neuron.index, "in": names}
            for neuron, names in common
        ],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
