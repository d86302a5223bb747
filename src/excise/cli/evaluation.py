"""What `evaluate` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from excise.cli.summary import by_metric, headline, units
from excise.cli.tables import UNDEFINED, Cell, Row, counted, print_table
from excise.cli.values import better, shown, shown_difference, shown_interval, title
from excise.cli.words import FEW_TEMPLATES, Record, meaning
from excise.measuring import Deviation, Measured
from excise.metrics import METRICS, Metric, metrics_of
from excise.types import PromptTask

_GROUP_METRICS = 3
_MOST_GROUPS = 24


def print_evaluation(
    console: Console, measured: Sequence[Measured], document: Mapping[str, Any]
) -> None:
    """Print a table for each task, its groups, and what differences mean."""
    for entry in measured:
        name = entry.task.name
        row = document["results"][name]
        paired = by_metric(document["paired"].get(name, ()))
        told = headline(
            (metric.name for metric in metrics_of(entry.task)),
            generated=document["config"]["scoring"]["mode"] == "generation",
        )
        metrics = [METRICS[m] for m in told if f"{m},original" in row]
        if not metrics:
            console.print(f"{name}: no metric has a value.")
        else:
            _print_metrics(console, entry, document, metrics, paired)
            _print_groups(console, entry, document, metrics)
        # A judge measures what it was made for; the metrics of other judges are no finding.
        if not isinstance(entry.task, PromptTask):
            for metric, reason in document["undefined"].get(name, {}).items():
                if metric in told:
                    console.print(f"Note: {METRICS[metric].title}: undefined: {reason}.")
        for note in _notes(entry, {m: paired[m] for m in told if m in paired}):
            console.print(note)


def print_precision(console: Console, found: Sequence[Deviation]) -> None:
    """Print a line for each task and state: what differs from another precision."""
    for one in found:
        parts = []
        if one.answers:
            what = "choices" if one.largest_nats is not None else "answers"
            parts.append(f"{one.differ:,} of {one.answers:,} {what} differ")
        if one.largest_nats is not None:
            parts.append(f"log-likelihoods by up to {one.largest_nats:.2g} nats")
        console.print(
            f"{one.task}, {one.state}, {one.dtype} against {one.other}: {'; '.join(parts)}.",
            soft_wrap=True,
        )


def _print_metrics(
    console: Console,
    entry: Measured,
    document: Mapping[str, Any],
    metrics: Sequence[Metric],
    paired: Mapping[str, Record],
) -> None:
    name = entry.task.name
    row, sizes = document["results"][name], document["n-samples"][name]
    asked = [f"{sizes['effective']:,} of {sizes['original']:,} items"]
    if entry.original.instructions != ("",):
        asked.append(counted(len(entry.original.instructions), "instruction"))
    if variant := document["variants"].get(name):
        asked.append(str(variant))
    header: list[Cell | str] = ["metric", *entry.states]
    if entry.patch is not None:
        header.append("difference")
    several = entry.patch is not None and len(entry.original.instructions) > 1
    told = units(document["config"]) + ("; sd over instructions" if several else "")
    print_table(
        console,
        f"{name}: {', '.join(asked)}\n({told})",
        header,
        [_cells(entry, metric, row, paired) for metric in metrics],
    )
    console.print()


def _cells(
    entry: Measured, metric: Metric, row: Mapping[str, Any], paired: Mapping[str, Record]
) -> Row:
    cells: list[Cell | str] = [_titled(metric)]
    for state in entry.states:
        key = f"{metric.name},{state}"
        between = shown_interval(metric, row.get(f"{key}_low"), row.get(f"{key}_high"))
        deviation = row.get(f"{key}_std_over_instructions")
        # Beside a difference with its interval, two more intervals would only crowd the table.
        spread = "" if deviation is None else f"(sd {shown(metric, deviation)})"
        detail = between if entry.patch is None else spread
        cells.append(Cell(shown(metric, row.get(key)), detail))
    if entry.patch is not None:
        found = paired.get(metric.name)
        cells.append(UNDEFINED if found is None else shown_difference(found))
    return cells


def _print_groups(
    console: Console, entry: Measured, document: Mapping[str, Any], metrics: Sequence[Metric]
) -> None:
    groups = document["groups"].get(entry.task.name, {})
    chosen = [
        metric
        for metric in metrics
        if any(f"{metric.name},original" in row for row in groups.values())
    ][:_GROUP_METRICS]
    if not groups or not chosen:
        return
    shown_groups = list(groups.items())[:_MOST_GROUPS]
    header: list[Cell | str] = ["group", "items", *(_titled(metric) for metric in chosen)]
    rows: list[Row] = [
        [
            group,
            f"{row['n']:,}",
            *(
                " -> ".join(shown(metric, row.get(f"{metric.name},{s}")) for s in entry.states)
                for metric in chosen
            ),
        ]
        for group, row in shown_groups
    ]
    arrow = "; original -> patched" if entry.patch is not None else ""
    more = len(groups) - len(shown_groups)
    rest = f"; {more} more groups in results.json" if more else ""
    print_table(console, f"{entry.task.name} by group{arrow}{rest}", header, rows)
    console.print()


def _notes(entry: Measured, paired: Mapping[str, Record]) -> list[str]:
    if entry.patch is None:
        return []
    name, found = entry.task.name, []
    if entry.weights_unchanged:
        return [
            "Note: weights unchanged: the patch changes nothing, so there is one model and "
            "nothing to compare."
        ]
    if "accuracy_disambiguated" in paired:
        found.append(meaning(name, paired, n=len(entry.patch)))
    else:
        found.append(_verdicts(name, paired))
    if entry.found_on_this_task:
        found.append(
            f"Note: the patch was found on data of {name}; these items include those that it was "
            "found on, so the difference is too optimistic. `excise run` reports on held-out "
            "templates."
        )
    clusters = max((e["n_clusters"] for e in paired.values()), default=0)
    if clusters < FEW_TEMPLATES:
        found.append(f"Note: the intervals rest on {counted(clusters, 'template')} only.")
    return found


def _verdicts(name: str, paired: Mapping[str, Record]) -> str:
    """Metrics that became better or worse by more than chance, in one line."""
    said = {True: "better", False: "worse", None: "no evidence of a change"}
    parts = []
    for verdict, words in said.items():
        titles = [METRICS[m].title for m, e in paired.items() if better(e) is verdict]
        if titles:
            parts.append(f"{words}: {'; '.join(titles)}")
    return f"{name}: {'. '.join(parts) or 'nothing could be compared'}."


def _titled(metric: Metric) -> Cell:
    cell = title(metric.name)
    if metric.unit in ("nats", "bits"):
        return Cell(cell.main, f"{cell.detail} ({metric.unit})".strip())
    return cell
