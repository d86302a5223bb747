"""The verb `diff`: two runs item by item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from excise.auditing import Difference, TaskDifference

First = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder of `excise run` or `excise evaluate`.")
]
Second = Annotated[Path, typer.Argument(metavar="RUN", help="Another one.")]
Items = Annotated[
    int, typer.Option("--items", metavar="N", min=0, help="Changed answers that are listed.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print everything, all changed answers included, as JSON.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print one line of counts for each task only.")
]


def diff(
    context: typer.Context,
    first: First,
    second: Second,
    items: Items = 5,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare two runs on the same items: changed, fixed, broken; metrics with intervals.

    Differences are second minus first. Runs that asked other items, other data or other
    instructions are refused with the reason.
    """
    from excise import auditing

    found = auditing.diff(first, second)
    if as_json:
        typer.echo(json.dumps(found.record(), indent=1, ensure_ascii=False, allow_nan=False))
        return
    _print(context.obj.out, found, 0 if quiet else items, quiet=quiet)


def _print(console: Console, found: Difference, items: int, *, quiet: bool) -> None:
    for entry in found.tasks:
        console.print(
            f"{entry.task}, {entry.state}: {entry.changed:,} of {entry.answers:,} answers changed: "
            f"{entry.fixed} fixed, {entry.broken} broken, {entry.to_unknown} to unknown, "
            f"{entry.from_unknown} from unknown",
            soft_wrap=True,
        )
        if quiet:
            continue
        _print_items(console, entry, items)
        if entry.changed:
            _print_metrics(console, entry)
    for task, reason in found.refused.items():
        console.print(f"{task}: not compared: {reason}.", soft_wrap=True)
    if quiet:
        return
    if found.neurons:
        counts = ", ".join(f"{count} {name}" for name, count in found.neurons.items())
        console.print(f"Excised neurons: {counts}")
    for title, values in (("Options", found.config), ("Environment", found.environment)):
        if values:
            console.print(f"{title} that differ:")
            for name, (one, other) in values.items():
                console.print(f"  {name}: {_short(one)} -> {_short(other)}", soft_wrap=True)
    for note in found.notes:
        console.print(f"Note: {note}")


def _print_items(console: Console, entry: TaskDifference, count: int) -> None:
    from excise.cli.tables import plain

    for item in entry.items[:count]:
        one, other = (item[f"{which}_option"] or "no option" for which in ("first", "second"))
        console.print(
            plain(
                f"  {item['instance']} (instruction {item['instruction'] + 1}): "
                f"{one} -> {other} ({item['became']})"
            ),
            soft_wrap=True,
        )
    left = len(entry.items) - count
    if count and left > 0:
        console.print(f"  and {left:,} more; --json lists them")


def _print_metrics(console: Console, entry: TaskDifference) -> None:
    from excise.cli.summary import headline
    from excise.cli.tables import Row, print_table
    from excise.cli.values import shown, shown_difference, title
    from excise.metrics import METRICS

    by_name = {estimate.metric: estimate for estimate in entry.metrics}
    rows: list[Row] = []
    for name in headline(by_name, generated="unmatched" in by_name):
        estimate = by_name[name]
        metric = METRICS[name]
        record: dict[str, Any] = {
            "metric": name,
            "difference": estimate.difference,
            "low": estimate.low,
            "high": estimate.high,
        }
        values = [shown(metric, estimate.original), shown(metric, estimate.patched)]
        rows.append([title(name), *values, shown_difference(record)])
    if rows:
        print_table(
            console,
            f"{entry.task}, {entry.state} (differences second - first; 95 % intervals)",
            ["metric", "first", "second", "difference"],
            rows,
        )
        console.print()


def _short(value: object) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
