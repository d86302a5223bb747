"""What measured differences mean, in plain words and no stronger than the numbers.

Estimates are the records of the `paired` block of results.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from excise.cli.tables import percent, signed

Record = Mapping[str, Any]
"""One estimate: metric, original, patched, difference, low, high, controls, ..."""

FEW_TEMPLATES = 10


def verdict(estimate: Record) -> str:
    """What the corrected test and the interval say together; without an interval, that."""
    if estimate["low"] is None or estimate["high"] is None:
        return "no interval, so no evidence of a change"
    return str(estimate["verdict"])


def interval(estimate: Record) -> str:
    """The interval of a difference."""
    if estimate["low"] is None or estimate["high"] is None:
        return "(no interval)"
    return f"({signed(estimate['low'])} to {signed(estimate['high'])})"


def meaning(label: str, paired: Mapping[str, Record], *, n: int) -> str:
    """One line: the gain, the random controls, and always the disambiguated contexts beside it.

    Args:
        label: the task's name.
        paired: metric -> estimate.
        n: number of excised neurons.
    """
    if n == 0:
        return f"{label}: nothing was excised (n = 0); original and patched are the same."
    parts = [_gain(paired.get("accuracy")), _cost(paired.get("accuracy_disambiguated"))]
    return f"{label}: {' '.join(parts)}"


def _gain(estimate: Record | None) -> str:
    if estimate is None or estimate["difference"] is None:
        return "accuracy is undefined."
    return f"accuracy {_change(estimate)}{_against_controls(estimate)}."


def _cost(estimate: Record | None) -> str:
    if estimate is None or estimate["difference"] is None:
        return "Disambiguated contexts: none was asked, so a loss there is not measured."
    return f"Disambiguated contexts, beside it: {_change(estimate)}."


def _change(estimate: Record) -> str:
    values = f"{percent(estimate['original'])} -> {percent(estimate['patched'])} %"
    level = f"{100 * estimate['level']:.0f} %"
    limits = interval(estimate)
    if estimate["low"] is not None:
        limits = limits.replace("(", f"({level} interval ", 1)
    return f"{values}, {signed(estimate['difference'])} points {limits}: {verdict(estimate)}"


def _against_controls(estimate: Record) -> str:
    drawn = [value for value in estimate["controls"] if value is not None]
    if not drawn:
        return "; not compared with random neurons"
    above = sum(estimate["patched"] > value for value in drawn)
    if above < len(drawn):
        which = f"{above} of {len(drawn)} random controls, so random neurons can do as well"
    else:
        which = f"all {len(drawn)} random controls" if above > 1 else "the one random control"
    return f"; the patched model lies above {which}"
