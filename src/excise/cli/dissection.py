"""What `dissect` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from excise.cli.tables import UNDEFINED, Row, counted, percent, print_table, signed

Record = Mapping[str, Any]

_LISTED = 12
"""Neurons printed of each task; evidence.json holds all of them."""
_UNSTABLE = 0.5


def print_dissection(console: Console, record: Record) -> None:
    """Print what was found about each task's neurons.

    Args:
        console: where to.
        record: evidence.json.
    """
    names = {
        cell["module"]: f"{cell['stack']} {cell['layer']} {cell['kind']}".strip()
        for cell in record["where"]["cells"]
    }
    for task, facts in record["tasks"].items():
        if not facts["neurons"]:
            console.print(f"{task}: no neuron is excised, nothing to dissect.\n")
            continue
        rows = [row for row in record["neurons"] if row["task"] == task]
        unit = "nats" if record["minimal"]["tasks"][task]["objective"] == "log_share" else "points"
        shown = _plain if unit == "nats" else signed
        print_table(
            console,
            f"{task}: {counted(facts['neurons'], 'excised neuron')}, the first "
            f"{min(_LISTED, len(rows))}\n(selected: in per cent of resamples; without it, alone: "
            f"change on the tune split, in {unit})",
            ["neuron", "selected", "without", "alone", "token"],
            [_row(row, shown, names) for row in rows[:_LISTED]],
        )
        console.print()
        for line in (
            _stable(record["stability"][task]),
            _minimal(record["minimal"]["tasks"][task], shown),
        ):
            console.print(f"{task}: {line}", soft_wrap=True)
        console.print()
    for title, overlap in _overlaps(record["overlap"]):
        console.print(f"{title}: {_overlap(overlap)}", soft_wrap=True)
    console.print(_where(record["where"]), soft_wrap=True)
    cost = record["cost"]
    console.print(
        f"Cost: {cost['prompts_attributed']:,} prompts attributed, {cost['sets_measured']:,} sets "
        f"of neurons measured with {cost['prompts_scored']:,} prompts, {cost['seconds']:.0f} s. "
        "The test split decides nothing.",
        soft_wrap=True,
    )


def _row(row: Record, shown: Callable[[float], str], names: Mapping[str, str]) -> Row:
    name = names.get(row["module"], row["module"])
    return [
        f"{name}[{row['index']}]" + (" *" if row["minimal"] else ""),
        percent(row["stability"]),
        UNDEFINED if row["leave_one_out"] is None else shown(row["leave_one_out"]),
        UNDEFINED if row["alone"] is None else shown(row["alone"]),
        # Out of a dataset: `repr` leaves nothing that a terminal would obey.
        repr(row["tokens"][0]) if row["tokens"] else "",
    ]


def _stable(found: Record) -> str:
    often = sum(row["frequency"] >= _UNSTABLE for row in found["neurons"])
    jaccard, templates = found["jaccard"]["instance"], found["jaccard"]["template"]
    text = (
        f"{often} of {found['n']} neurons are selected in at least half of the "
        f"{found['resamples']} resamples of find instances; overlap with the excised set "
        f"{percent(jaccard['mean'])} % ({percent(jaccard['low'])} to {percent(jaccard['high'])}), "
        f"over question templates {percent(templates['mean'])} %, of random sets "
        f"{percent(found['expected_jaccard'])} %."
    )
    if found["reproduced"] is not None and found["reproduced"] < 1:
        text += (
            f" Only {percent(found['reproduced'])} % of the set are the first of CRISPR's ranking "
            "here: the method chose otherwise, and its own stability is not what this says."
        )
    return text


def _minimal(found: Record, shown: Callable[[float], str]) -> str:
    before, full, left = (found[k]["objective"] for k in ("original", "patched", "minimal"))
    aim = "accuracy" if found["objective"] == "accuracy" else "mean log share of the gold option"
    text = (
        f"{found['n']} of {found['of']} neurons (*) keep the effect on the tune split "
        f"({aim} {shown(full - before)} with all, {shown(left - before)} with these; may lose "
        f"{shown(found['tolerance']).lstrip('+')}), found with {found['sets_tried']} sets."
    )
    return text if found["complete"] else text + " The search stopped at its limit."


def _overlaps(overlap: Record) -> list[tuple[str, Record]]:
    found = [(f"{task}, trials", of) for task, of in overlap["trials"].items()]
    return [*found, ("Tasks", overlap["tasks"])] if overlap["tasks"] else found


def _overlap(of: Record) -> str:
    return (
        f"mean overlap of {counted(len(of['pairs']), 'pair')} of sets {percent(of['jaccard'])} %; "
        f"of random sets {percent(of['expected'])} %, of random sets in the same modules "
        f"{percent(of['expected_same_modules'])} %."
    )


def _where(found: Record) -> str:
    cells: Sequence[Record] = sorted(found["cells"], key=lambda cell: -cell["excised"])
    most = [
        f"{cell['excised']} in {cell['module']} (by chance {cell['expected']:.2f})"
        for cell in cells[:3]
        if cell["excised"]
    ]
    return f"Where: of {found['n']} neurons, {', '.join(most)}."


def _plain(value: float) -> str:
    return f"{value:+.3f}"
