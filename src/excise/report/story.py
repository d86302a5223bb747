"""What a run found, told verdict first: what improved, what it cost, what nothing is known about.

The terminal and report.html tell the same story; both take it from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from excise.metrics import CHOICE, METRICS
from excise.report.numbers import (
    Row,
    drawn,
    level,
    scaled,
    shown,
    shown_change,
    shown_interval,
    title,
    unit,
)
from excise.results import HEADLINE

Kind = Literal["improved", "worse", "spared", "unclear"]

SYMBOLS: dict[Kind, str] = {"improved": "▲", "worse": "▼", "spared": "=", "unclear": "○"}
"""A sign for each verdict, so that no meaning rests on colour."""
LABELS: dict[Kind, str] = {
    "improved": "improved",
    "worse": "worse",
    "spared": "not worse",
    "unclear": "no evidence",
}

_PHRASES = {
    "accuracy": "right answers in all contexts",
    "accuracy_ambiguous": "right answers in ambiguous contexts",
    "accuracy_disambiguated": "right answers in disambiguated contexts",
    "s_amb": "bias score in ambiguous contexts",
    "s_dis": "bias score in disambiguated contexts",
    "nonalignment_cost": "gap in accuracy where the right answer goes against the stereotype",
    "unknown_ambiguous": "“unknown” in ambiguous contexts",
    "unknown_disambiguated": "“unknown” in disambiguated contexts",
    "gold_probability_ambiguous": "probability of the right text in ambiguous contexts",
    "gold_probability_disambiguated": "probability of the right text in disambiguated contexts",
}
CONTEXTS = (
    "Ambiguous: the context leaves the question open, so “unknown” is right. Disambiguated: the "
    "context holds the answer."
)
"""What the two kinds of context are."""
_LEADING_GAIN = ("accuracy_ambiguous", "s_amb", "accuracy")
_LEADING_COST = ("accuracy_disambiguated", "unknown_disambiguated", "accuracy")
_SAME = {"unknown_ambiguous": "accuracy_ambiguous"}
"""Metrics that repeat another one wherever "unknown" is the right answer of open contexts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric with its verdict in words."""

    row: Row
    """The estimate it rests on."""
    kind: Kind
    title: str
    phrase: str
    """The metric in words that need no table."""
    values: str
    """Original and patched, with their unit."""
    sentence: str
    """What changed from what to what, with the interval."""
    beside: str
    """How the random controls did, or what loss is excluded; empty for other verdicts."""
    verdict: str
    """The verdict in the run's own words, or in those of its kind."""


@dataclass(frozen=True, slots=True)
class Story:
    """The findings of one task, or of all tasks together."""

    label: str
    findings: tuple[Finding, ...]
    headline: str
    """The leading gain and the leading cost, in a sentence or two."""
    summary: str
    """How many measures improved, got worse, and show nothing."""
    undefined: tuple[str, ...] = ()
    """Titles of metrics of the table that these answers leave undefined."""

    def of(self, *kinds: Kind) -> tuple[Finding, ...]:
        """Findings of some kinds, without those that repeat another metric."""
        values = {f.row["metric"]: (f.row["original"], f.row["patched"]) for f in self.findings}
        return tuple(
            finding
            for finding in self.findings
            if finding.kind in kinds and not _repeats(finding.row["metric"], values)
        )


def tell(label: str, rows: Sequence[Row], *, n_excised: int | None = None) -> Story:
    """The story of one entry of the `paired` block.

    Args:
        label: the task, or what stands for all of them.
        rows: its estimates.
        n_excised: number of excised neurons, if known.

    Returns:
        Findings in the order of the rows, for the metrics of tables.
    """
    findings = tuple(_finding(row) for row in telling(rows))
    present = {row["metric"] for row in rows}
    missing = () if present.isdisjoint(HEADLINE) else set(HEADLINE) - present
    undefined = tuple(title(name) for name in HEADLINE if name in missing)
    return Story(label, findings, _headline(findings, n_excised), _summary(findings), undefined)


def telling(rows: Iterable[Row]) -> list[Row]:
    """The rows of printed tables.

    Of the many metrics of a choice between options the most telling ones; answers that match no
    option where there are any.
    """
    hidden = set(CHOICE) - set(HEADLINE)
    return [row for row in rows if row["metric"] not in hidden or _unmatched(row)]


def kind_of(row: Row) -> Kind:
    """The kind of a row's verdict: as the run states it, else whether the interval excludes 0."""
    stated = str(row.get("verdict") or "").lower()
    if stated.startswith("improved"):
        return "improved"
    if stated.startswith("worse"):
        return "worse"
    if stated.startswith("not worse"):
        return "spared"
    if stated:
        return "unclear"
    better = _better(row)
    return "unclear" if better is None else "improved" if better else "worse"


def above(row: Row) -> tuple[int, int]:
    """How many random controls the patched model is better than, and how many there are."""
    values = drawn(row)
    patched = row.get("patched")
    if patched is None or row["metric"] not in METRICS:
        return 0, len(values)
    ideal: Any = METRICS[row["metric"]].ideal

    def distance(value: float) -> float:
        return -value if ideal == "max" else value if ideal == "min" else abs(value - ideal)

    return sum(distance(patched) < distance(value) for value in values), len(values)


def _finding(row: Row) -> Finding:
    name, kind = row["metric"], kind_of(row)
    phrase = _PHRASES.get(name, title(name))
    values = f"{shown(name, row['original'])} to {shown(name, row['patched'])}{unit(name)}"
    points = " points" if scaled(name) else ""
    change = f"{shown_change(name, row['difference'])}{points}"
    limits = shown_interval(row)
    if limits != "no interval":
        limits = f"{level(row)} interval {limits}"
    sentence = f"{_capital(phrase)}: {values} ({change}; {limits})."
    stated = str(row.get("verdict_text") or row.get("verdict") or LABELS[kind])
    return Finding(row, kind, title(name), phrase, values, sentence, _beside(row, kind), stated)


def _beside(row: Row, kind: Kind) -> str:
    if kind == "spared":
        return f"{_capital(str(row['verdict']))}."
    if kind != "improved":
        return ""
    better, total = above(row)
    if not total:
        return "Not compared with random neurons, so chance is not ruled out."
    if better == total:
        which = "the one random control" if total == 1 else f"all {total} random controls"
        return f"Better than {which}."
    return f"Better than only {better} of {total} random controls: random neurons can do as well."


def _headline(findings: Sequence[Finding], n_excised: int | None) -> str:
    if n_excised == 0:
        return "Nothing was excised, so original and patched are the same model."
    gain, cost = (
        _first(findings, "improved", _LEADING_GAIN),
        _first(findings, "worse", _LEADING_COST),
    )
    if gain is None and cost is None:
        return "There is no evidence that anything improved or got worse."
    gained = "Nothing improved." if gain is None else f"Gained: {gain.phrase}, {gain.values}."
    if gain is not None and above(gain.row)[0] < above(gain.row)[1]:
        gained = f"{gained[:-1]}, but random neurons can do as well."
    paid = "No measure got worse." if cost is None else f"Paid for: {cost.phrase}, {cost.values}."
    return f"{gained} {paid}"


def _first(findings: Sequence[Finding], kind: Kind, leading: Sequence[str]) -> Finding | None:
    """The finding of a kind that says most."""
    order = {name: number for number, name in enumerate(leading)}
    of_kind = [finding for finding in findings if finding.kind == kind]
    return min(of_kind, key=lambda f: order.get(f.row["metric"], len(order)), default=None)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _summary(findings: Sequence[Finding]) -> str:
    counts = {kind: sum(f.kind == kind for f in findings) for kind in LABELS}
    spared = f", {counts['spared']} not worse by more than the margin" if counts["spared"] else ""
    return (
        f"Of {len(findings)} measures {counts['improved']} improved, {counts['worse']} got worse"
        f"{spared}, and {counts['unclear']} show no evidence of a change."
        f"{_controlled([f.row for f in findings if f.kind == 'improved'])}"
    )


def _controlled(gains: Sequence[Row]) -> str:
    """What the random controls say about all gains together."""
    if not gains:
        return ""
    beaten = [above(row) for row in gains]
    most = max(total for _, total in beaten)
    if most == 0:
        return " The gains were not compared with random neurons."
    matched = sum(better < total for better, total in beaten)
    if not matched:
        return f" No gain is matched by any of {most} random controls."
    return f" In {matched} of {len(gains)} gains random neurons do as well."


def _better(row: Row) -> bool | None:
    """Whether patched is better by more than chance; None without evidence.

    Where the ideal is a number, better means closer to it.
    """
    low, high = row.get("low"), row.get("high")
    if low is None or high is None or low <= 0 <= high or row["metric"] not in METRICS:
        return None
    ideal: Any = METRICS[row["metric"]].ideal
    if ideal == "max":
        return bool(low > 0)
    if ideal == "min":
        return bool(high < 0)
    return bool(abs(row["patched"] - ideal) < abs(row["original"] - ideal))


def _repeats(name: str, values: dict[str, tuple[Any, Any]]) -> bool:
    return name in _SAME and values.get(_SAME[name]) == values[name]


def _unmatched(row: Row) -> bool:
    return row["metric"] == "unmatched" and bool(row["original"] or row["patched"])
