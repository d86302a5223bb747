"""What `compare` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from excise.cli.tables import Cell, Row, counted, print_table
from excise.cli.values import title
from excise.comparing.record import POOLED
from excise.comparing.tables import columns, measured, number, retained, rows_of, table_names
from excise.metrics import METRICS
from excise.report.numbers import level


def print_comparison(console: Console, document: Mapping[str, Any]) -> None:
    """Print a table for each task, the retention tasks, the cost, and what to know."""
    for task in table_names(document):
        _print_task(console, document, task)
        console.print()
    if document["retention_tasks"]:
        _print_retention(console, document)
        console.print()
    _print_cost(console, document)
    for row in document["cost"]:
        if row["method"] != "original" and row["weights_unchanged"]:
            console.print(f"Note: {row['method']}: weights unchanged.")


def _print_task(console: Console, document: Mapping[str, Any], task: str) -> None:
    names = columns(document, task)
    first = names[0]
    header: Row = ["method", *(title(name) for name in names), Cell("difference,", "first")]
    rows: list[Row] = []
    for method, found in rows_of(document, task).items():
        cells: list[Cell | str] = [method]
        for name in names:
            row = found.get(name)
            if row is None:
                cells.append("-")
                continue
            deviation = row["std_over_trials"]
            detail = "" if deviation is None else f"(sd {number(name, deviation)})"
            cells.append(Cell(number(name, row["value"]), detail))
        row = found.get(first)
        if method == "original" or row is None:
            cells.append("")
        else:
            low, high = (number(first, row[end], signed=True) for end in ("low", "high"))
            change = number(first, row["difference"], signed=True)
            cells.append(Cell(change, f"({low} to {high})" if row["low"] is not None else ""))
        rows.append(cells)
    name = "all tasks" if task == POOLED else task
    items = document["n-samples"].get(task)
    asked = "" if items is None else f"{items:,} test items, "
    trials = counted(document["config"]["trials"], "trial")
    told = level(document["config"]["statistics"])
    print_table(
        console,
        f"{name}: {asked}{trials}\n(in per cent; sd over trials; {told} interval of the "
        f"difference in {METRICS[first].title.lower()})",
        header,
        rows,
    )


def _print_retention(console: Console, document: Mapping[str, Any]) -> None:
    names = measured(document)
    rows: list[Row] = []
    for method, found in retained(document).items():
        cells: list[Cell | str] = [method]
        for name in names:
            row = found[name]
            worst = (
                ""
                if method == "original"
                else (f"(worst {number(row['metric'], row['worst'], signed=True)})")
            )
            cells.append(Cell(number(row["metric"], row["value"]), worst))
        rows.append(cells)
    header: Row = [
        "method",
        *(Cell(f"{task},", METRICS[metric].title.lower()) for task, metric in names),
    ]
    print_table(
        console,
        "Retention: tasks that no method was fitted on\n"
        "(mean over tasks and trials; worst difference to the original)",
        header,
        rows,
    )


def _print_cost(console: Console, document: Mapping[str, Any]) -> None:
    rows: list[Row] = [
        [
            row["method"],
            "-" if row["neurons"] is None else f"{row['neurons']:.1f}",
            f"{row['fit_seconds']:.0f}",
            f"{row['fit_work']:,.0f}",
        ]
        for row in document["cost"]
    ]
    print_table(
        console,
        "Cost of fitting (means over tasks and trials)",
        ["method", "neurons", "seconds", "prompts' worth"],
        rows,
    )
