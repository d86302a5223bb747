"""What kind of answers changed: accuracy can rise by abstention as well as by insight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from excise.statistics.bootstrap import pooled_difference
from excise.statistics.estimates import Pair
from excise.statistics.resampling import MetricFunction
from excise.types import BoolArray, FloatArray, Predictions

KINDS = ("stereotyped", "anti_stereotyped", "unknown", "other")
"""Answers by what they say: with the stereotype, another person, that it cannot be known, or none
of these (no option matched, or no stereotype is annotated)."""


def kind_of(predictions: Predictions) -> dict[str, BoolArray]:
    """Kind -> [I, N] which answers are of that kind; every answer is of exactly one."""
    choice = predictions.choice
    unknown = (choice == predictions.unknown) & (choice >= 0)
    stereotyped = (choice == predictions.stereotyped) & (choice >= 0) & ~unknown
    annotated = predictions.stereotyped >= 0
    against = annotated & (choice >= 0) & ~unknown & ~stereotyped
    return {
        "stereotyped": stereotyped,
        "anti_stereotyped": against,
        "unknown": unknown,
        "other": ~(unknown | stereotyped | against),
    }


def changes(
    pairs: Sequence[Pair], *, n_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """What changed between two states, in all contexts and by whether the context decides.

    Args:
        pairs: Original and patched `Predictions` of every trial on one task.
        n_resamples: Number of resamples for the intervals of net changes.
        level: Coverage of these intervals.
        seed: Start of the random numbers.

    Returns:
        Part (`all`, `ambiguous`, `disambiguated`; those without items are left out) -> `answers`,
        `changed`, `fixed` (wrong, then right), `broken` (right, then wrong), `kept_right`,
        `kept_wrong`: numbers of answers over items, instructions and trials; `fewer_stereotyped`,
        `more_anti_stereotyped`, `more_unknown`: net numbers of answers; `from_to`: kind before
        -> kind after -> number of changed answers; `net`: kind -> `difference`, `low` and `high` of
        its share among the part's answers, over templates.
    """
    found = {}
    for part in ("all", "ambiguous", "disambiguated"):
        counted = _counted(pairs, part)
        if not counted["answers"]:
            continue
        counted["net"] = {
            kind: _net(pairs, part, kind, n_resamples=n_resamples, level=level, seed=seed)
            for kind in KINDS
        }
        found[part] = counted
    return found


def _counted(pairs: Sequence[Pair], part: str) -> dict[str, Any]:
    names = ("answers", "changed", "fixed", "broken", "kept_right", "kept_wrong")
    total = dict.fromkeys(names, 0)
    moved = {before: dict.fromkeys(KINDS, 0) for before in KINDS}
    for pair in pairs:
        one, other = pair.original, pair.patched
        assert isinstance(one, Predictions)
        assert isinstance(other, Predictions)
        inside = np.broadcast_to(_inside(one, part), one.choice.shape)
        changed = inside & (one.choice != other.choice)
        before, after = one.choice == one.gold, other.choice == other.gold
        for name, marked in (
            ("answers", inside),
            ("changed", changed),
            ("fixed", inside & ~before & after),
            ("broken", inside & before & ~after),
            ("kept_right", inside & before & after),
            ("kept_wrong", inside & ~before & ~after),
        ):
            total[name] += int(marked.sum())
        first, second = kind_of(one), kind_of(other)
        for source in KINDS:
            for target in KINDS:
                moved[source][target] += int((changed & first[source] & second[target]).sum())
    return {
        **total,
        "fewer_stereotyped": -_gained(moved, "stereotyped"),
        "more_anti_stereotyped": _gained(moved, "anti_stereotyped"),
        "more_unknown": _gained(moved, "unknown"),
        "from_to": moved,
    }


def _gained(moved: Mapping[str, Mapping[str, int]], kind: str) -> int:
    """Answers that became of a kind, minus those that no longer are."""
    return sum(moved[other][kind] - moved[kind][other] for other in KINDS)


def _net(pairs: Sequence[Pair], part: str, kind: str, **options: Any) -> dict[str, float | None]:
    found = pooled_difference(_share_of(part, kind), pairs, metric_name=kind, **options)
    return {
        "original": found.original,
        "patched": found.patched,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
    }


def _share_of(part: str, kind: str) -> MetricFunction:
    def share(predictions: Predictions, weights: FloatArray) -> FloatArray:
        inside = _inside(predictions, part).astype(np.float64)
        marked = (kind_of(predictions)[kind] & (inside > 0)).astype(np.float64)
        among = (weights @ inside)[:, None]
        shares = np.full((len(weights), len(marked)), np.nan)
        np.divide(weights @ marked.T, among, out=shares, where=among > 0)
        return shares

    return share


def _inside(predictions: Predictions, part: str) -> BoolArray:
    if part == "ambiguous":
        return predictions.ambiguous
    if part == "disambiguated":
        return predictions.disambiguated
    return np.ones(len(predictions.instances), dtype=np.bool_)
