"""Ranking of neurons, random controls, and the choice of how many to excise.

Source: CRISPR (Yang et al., ACL 2024), section 3.4: the neurons of all layers are ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, sqrt
from typing import Literal

import numpy as np

from excise.errors import ConfigError, NonFiniteError
from excise.types import FloatArray, Neuron

Scores = Mapping[str, FloatArray]
"""Module -> [n_outputs] score of each neuron."""

Sign = Literal["signed", "absolute", "ascending"]
"""Order of a ranking: largest first, largest magnitude first, or smallest first."""

_GOLDEN_RATIO = (sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, slots=True)
class RankedNeuron:
    """A neuron with its score, whatever the order of the ranking."""

    neuron: Neuron
    score: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What excising the first n neurons does on the tune split."""

    n: int
    objective: float
    """What is maximised."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Further metrics by name, for the report."""


def rank(
    scores: Scores, *, sign: Sign = "signed", limit: int | None = None
) -> tuple[RankedNeuron, ...]:
    """All neurons ranked together over the modules.

    Args:
        scores: Module -> [n_outputs] score of each neuron.
        sign: "signed" puts the largest score first, "absolute" the largest magnitude, "ascending"
            the smallest (anti-bias neurons, for controls).
        limit: At most this many, at least 0; None for all.

    Returns:
        The ranking. Ties follow the order of the modules in the mapping, then the index.

    Raises:
        NonFiniteError: A score is NaN or infinite; names the module.
        ValueError: The limit is negative.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be at least 0, not {limit}")
    for module, values in scores.items():
        if not np.isfinite(values).all():
            raise NonFiniteError(f"module {module!r} has a non-finite score; attribute in fp32")
    modules = list(scores)
    first = np.cumsum([0, *(len(values) for values in scores.values())])
    joined = np.concatenate([np.zeros(0), *scores.values()])
    key = {"signed": -joined, "absolute": -np.abs(joined), "ascending": joined}[sign]
    # A stable sort keeps equal keys in the order of the modules and indices.
    order = np.argsort(key, kind="stable")[:limit]
    owner = np.searchsorted(first, order, side="right") - 1
    return tuple(
        RankedNeuron(Neuron(modules[module], int(place - first[module])), float(joined[place]))
        for module, place in zip(owner, order, strict=True)
    )


def top(scores: Scores, n: int, *, sign: Sign = "signed") -> tuple[RankedNeuron, ...]:
    """The first n neurons of the ranking.

    Args:
        scores: Module -> [n_outputs] score of each neuron.
        n: How many, from 0 to the number of neurons.
        sign: Order of the ranking, see `rank`.

    Returns:
        Exactly n neurons.

    Raises:
        ConfigError: There are fewer than n neurons, or n is negative.
        NonFiniteError: A score is NaN or infinite.
    """
    available = sum(len(values) for values in scores.values())
    if not 0 <= n <= available:
        raise ConfigError(f"cannot take {n} neurons: choose a number from 0 to {available}")
    return rank(scores, sign=sign, limit=n)


def random_control(
    scores_or_sizes: Mapping[str, int] | Scores,
    neurons: Sequence[Neuron],
    *,
    seed: int,
    exclude: bool = True,
) -> tuple[Neuron, ...]:
    """As many random neurons per module as the given ones: a control of the same kind.

    Args:
        scores_or_sizes: Module -> number of neurons, or their scores.
        neurons: The neurons to match; a repeated one counts once.
        seed: Start of the random numbers; another seed gives another control.
        exclude: Leave out the neurons themselves. Where a module has too few others, all of these
            are taken and the rest comes from the neurons themselves.

    Returns:
        Distinct neurons in the order of the modules, then of the index, whatever the order of
        `neurons`.

    Raises:
        ConfigError: A neuron lies in no module, or outside its module.
    """
    sizes = {m: len(v) if isinstance(v, np.ndarray) else v for m, v in scores_or_sizes.items()}
    taken: dict[str, set[int]] = {module: set() for module in sizes}
    for neuron in neurons:
        if not 0 <= neuron.index < sizes.get(neuron.module, 0):
            raise ConfigError(f"neuron {neuron.index} of {neuron.module!r} is not in the model")
        taken[neuron.module].add(neuron.index)
    generator = np.random.default_rng(seed)
    control: list[Neuron] = []
    for module, indices in taken.items():
        if not indices:
            continue
        order = generator.permutation(sizes[module])
        if exclude:
            # False sorts before True: the others come first, both parts stay in random order.
            order = order[np.argsort(np.isin(order, list(indices)), kind="stable")]
        control += [Neuron(module, int(i)) for i in sorted(order[: len(indices)])]
    return tuple(control)


def choose(curve: Sequence[CurvePoint], *, tolerance: float = 0.0) -> CurvePoint:
    """The smallest n whose objective is the best, or as good up to a tolerance.

    Args:
        curve: Points in any order.
        tolerance: How far below the best objective still counts as a tie, at least 0.

    Returns:
        The chosen point.

    Raises:
        ValueError: The curve is empty, or the tolerance is negative.
        NonFiniteError: An objective is NaN.
    """
    if tolerance < 0.0:
        raise ValueError(f"tolerance must be at least 0, not {tolerance}")
    best = _best_objective(curve)
    return min((p for p in curve if p.objective >= best - tolerance), key=lambda p: p.n)


def golden_section(
    function: Callable[[int], float], low: int, high: int, tolerance: int
) -> tuple[CurvePoint, ...]:
    """Search for the n that maximises a function, as the authors of CRISPR do.

    Narrows [low, high] by the golden section until its width is at most `tolerance`, then tries
    every n that is left. Finds the maximum of a function that rises and then falls; nothing
    promises that accuracy does (a grid and `choose` need no such promise). The authors search
    [0, 500] with a tolerance of 4 on accuracy in per cent rounded to two decimals.

    Args:
        function: Objective of n; called once for each n.
        low: Smallest n.
        high: Largest n, not below `low`.
        tolerance: Width of the interval that is tried in full, at least 1. Widths up to 4 always
            are, since both probes can fall on the same n there.

    Returns:
        All points tried, in the order of evaluation, without metrics; see `first_best`.

    Raises:
        ConfigError: The interval is empty or the tolerance is below 1.
        NonFiniteError: The function returned NaN.
    """
    if low > high or tolerance < 1:
        raise ConfigError(f"cannot search from {low} to {high} with a tolerance of {tolerance}")
    tried: dict[int, CurvePoint] = {}

    def objective(n: int) -> float:
        if n not in tried:
            point = CurvePoint(n, function(n))
            _best_objective([point])
            tried[n] = point
        return tried[n].objective

    while high - low > max(tolerance, 4):
        step = round(_GOLDEN_RATIO * (high - low))
        left, right = high - step, low + step
        if objective(left) < objective(right):
            low = left
        else:
            high = right
    for n in range(low, high + 1):
        objective(n)
    return tuple(tried.values())


def first_best(points: Sequence[CurvePoint]) -> CurvePoint:
    """The first point with the highest objective: ties follow the order of evaluation.

    Args:
        points: Points in the order of evaluation.

    Returns:
        The best point.

    Raises:
        ValueError: There are no points.
        NonFiniteError: An objective is NaN.
    """
    best = _best_objective(points)
    return next(point for point in points if point.objective == best)


def _best_objective(points: Sequence[CurvePoint]) -> float:
    if not points:
        raise ValueError("there is no point to choose from")
    for point in points:
        if isnan(point.objective):
            raise NonFiniteError(f"the objective with {point.n} neurons is not a number")
    return max(point.objective for point in points)
