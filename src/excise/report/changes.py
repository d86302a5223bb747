"""The answers that changed, as a run counts them: accuracy can rise by abstention alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from excise.report.numbers import percent, signed

_COUNTS = {
    "answers": "Answers given",
    "changed": "Changed",
    "fixed": "Fixed: wrong, then right",
    "broken": "Broken: right, then wrong",
    "kept_right": "Right before and after",
    "kept_wrong": "Wrong before and after",
    "fewer_stereotyped": "Fewer stereotyped answers, net",
    "more_anti_stereotyped": "More anti-stereotyped answers, net",
    "more_unknown": "More “unknown” answers, net",
}
_NET = {
    "stereotyped": "Stereotyped",
    "anti_stereotyped": "Anti-stereotyped",
    "unknown": "“Unknown”",
}
_PARTS = {
    "all": "all contexts",
    "ambiguous": "ambiguous",
    "disambiguated": "disambiguated",
}


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed, by whether the context decides."""

    parts: tuple[str, ...]
    counts: tuple[tuple[str, tuple[str, ...]], ...]
    """Kind of change -> number of answers in each part."""
    net: tuple[tuple[str, tuple[str, ...]], ...]
    """Kind of answer -> change of its share in points, with the interval, in each part."""
    abstention: str
    """What happened where the context decides and "unknown" is wrong; may be empty."""


def changes(block: Any) -> Changes | None:
    """One entry of the `changes` block of results.json; None where there is none.

    Args:
        block: part -> counts and net changes.
    """
    if not isinstance(block, Mapping):
        return None
    parts = {name: block[name] for name in _PARTS if isinstance(block.get(name), Mapping)}
    if not parts:
        return None
    counts = tuple(
        (title, tuple(_count(part.get(name)) for part in parts.values()))
        for name, title in _COUNTS.items()
        if any(name in part for part in parts.values())
    )
    nets = {name: part.get("net") or {} for name, part in parts.items()}
    net = tuple(
        (title, tuple(_net(of.get(kind)) for of in nets.values()))
        for kind, title in _NET.items()
        if any(kind in of for of in nets.values())
    )
    abstention = _abstention((nets.get("disambiguated") or {}).get("unknown"))
    return Changes(tuple(_PARTS[name] for name in parts), counts, net, abstention)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _net(value: Any) -> str:
    if not isinstance(value, Mapping) or value.get("difference") is None:
        return "–"
    low, high = value.get("low"), value.get("high")
    between = "" if low is None or high is None else f" ({signed(low)} to {signed(high)})"
    return f"{signed(value['difference'])}{between}"


def _abstention(value: Any) -> str:
    if not isinstance(value, Mapping) or value.get("low") is None or value.get("high") is None:
        return ""
    shares = f"{percent(value.get('original'))} to {percent(value.get('patched'))} % of the answers"
    if value["low"] > 0:
        return f"Over-abstention: where the context decides, “unknown” rose from {shares}."
    if value["high"] < 0:
        return f"Less over-abstention: where the context decides, “unknown” fell from {shares}."
    return (
        f"No evidence of over-abstention: where the context decides, “unknown” went from {shares}."
    )
