"""The comparison as tables: one for each task, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from excise.comparing.record import POOLED
from excise.comparing.retention import DIVERGENCE
from excise.metrics import METRICS

COLUMNS = (
    "accuracy",
    "accuracy_ambiguous",
    "accuracy_disambiguated",
    "s_amb",
    "gold_probability_disambiguated",
)
"""Metrics of the tables where they apply; all others stand in the JSON and CSV files."""

_IMPLIED = ("accuracy", "perplexity")
"""Metrics of retention tasks that need no name in the heads of tables."""

_LARGE = 100_000
"""From here on values are written with an exponent: the perplexity of a wrecked model."""

Document = Mapping[str, Any]
Numbers = Mapping[str, Any]
Measured = tuple[str, str]
"""A retention task and a metric of it."""


def columns(document: Document, task: str) -> tuple[str, ...]:
    """The metrics of a task's table: the usual ones, or all that it has."""
    there = dict.fromkeys(row["metric"] for row in document["metrics"] if row["task"] == task)
    usual = tuple(name for name in COLUMNS if name in there)
    return usual if len(usual) > 1 else tuple(there)[:5]


def table_names(document: Document) -> tuple[str, ...]:
    """The tasks, and all of them together where there are several."""
    return tuple(dict.fromkeys(row["task"] for row in document["metrics"]))


def rows_of(document: Document, task: str) -> dict[str, dict[str, Numbers]]:
    """Method -> metric -> row, in the order of the comparison."""
    found: dict[str, dict[str, Numbers]] = {method: {} for method in document["methods"]}
    for row in document["metrics"]:
        if row["task"] == task:
            found[row["method"]][row["metric"]] = row
    return found


def retained(document: Document) -> dict[str, dict[Measured, Numbers]]:
    """Method -> (retention task, metric) -> row, in the order of the comparison."""
    found: dict[str, dict[Measured, Numbers]] = {method: {} for method in document["methods"]}
    for row in document["retention"]:
        found[row["method"]][row["task"], row["metric"]] = row
    return found


def measured(document: Document) -> tuple[Measured, ...]:
    """The columns of retention."""
    return tuple(dict.fromkeys((row["task"], row["metric"]) for row in document["retention"]))


def number(metric: str, value: float | None, *, signed: bool = False) -> str:
    """A value as the field reads it: shares and scores times 100."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    if METRICS[metric].unit in ("%", "points"):
        text = f"{100 * value:{sign}.1f}"
    else:
        text = f"{value:{sign}.2f}" if abs(value) < _LARGE else f"{value:{sign}.1e}"
    return text.lstrip("+-") if not float(text) else text


def markdown(document: Document) -> str:
    """All tables as GitHub Markdown."""
    parts = []
    for task in table_names(document):
        parts += [f"## {_caption(document, task)}", "", _table(document, task, "github"), ""]
    parts += ["## Cost", "", _cost(document, "github"), ""]
    return "\n".join(parts)


def latex(document: Document) -> str:
    """All tables as LaTeX with booktabs rules."""
    parts = ["% \\usepackage{booktabs}"]
    for task in table_names(document):
        parts += [f"% {_caption(document, task)}", _table(document, task, "latex_booktabs"), ""]
    parts += ["% Cost", _cost(document, "latex_booktabs"), ""]
    return "\n".join(parts)


def csv_text(document: Document) -> str:
    """Every number, one row for each method, task and metric."""
    text = io.StringIO(newline="")
    names = [*("part", "task", "method", "metric", "value", "std_over_trials")]
    names += ["std_over_instructions", "difference", "low", "high"]
    names += ["p_value", "p_adjusted", "verdict"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for part in ("metrics", "retention"):
        for row in document[part]:
            writer.writerow({"part": part, **row})
    return text.getvalue()


def _caption(document: Document, task: str) -> str:
    name = "all tasks" if task == POOLED else task
    trials = document["config"]["trials"]
    return f"{name} ({trials} trial{'s' if trials > 1 else ''}; mean ± sd over trials)"


def _table(document: Document, task: str, style: str) -> str:
    names = columns(document, task)
    header = ["method", *(METRICS[name].title for name in names), "difference in first", "verdict"]
    body = []
    for method, row in rows_of(document, task).items():
        cells = [method, *(_mean(row.get(name)) for name in names)]
        first = row.get(names[0])
        cells.append(_difference(first) if method != "original" else "")
        cells.append((first or {}).get("verdict") or "")
        body.append(cells)
    return str(tabulate(body, header, tablefmt=style, disable_numparse=True))


def _cost(document: Document, style: str) -> str:
    kept, names = retained(document), measured(document)
    titles = [task if metric in _IMPLIED else METRICS[metric].title for task, metric in names]
    header = ["method", "neurons", "seconds", "prompts", *titles]
    body = []
    for row in document["cost"]:
        method = row["method"]
        unchanged = row["weights_unchanged"] and method != "original"
        body.append(
            [
                method + (" (weights unchanged)" if unchanged else ""),
                "-" if row["neurons"] is None else f"{row['neurons']:.0f}",
                f"{row['fit_seconds']:.0f}",
                f"{row['fit_work']:.0f}",
                *(_kept(kept[method][name], method) for name in names),
            ]
        )
    return str(tabulate(body, header, tablefmt=style, disable_numparse=True))


def _kept(row: Numbers, method: str) -> str:
    """A retention value, with the largest loss over tasks and trials."""
    text = _mean(row)
    if method == "original":
        return text
    if row["metric"] == DIVERGENCE:
        return f"{text} (worst {number(row['metric'], row['worst'])})"
    return f"{text} (worst {number(row['metric'], row['worst'], signed=True)})"


def _mean(row: Numbers | None) -> str:
    if row is None or row["value"] is None:
        return "-"
    deviation = row.get("std_over_trials")
    text = number(row["metric"], row["value"])
    return text if deviation is None else f"{text} ± {number(row['metric'], deviation)}"


def _difference(row: Numbers | None) -> str:
    if row is None:
        return "-"
    metric = row["metric"]
    change = number(metric, row["difference"], signed=True)
    if row["low"] is None:
        return f"{change} (no interval)"
    low, high = (number(metric, row[end], signed=True) for end in ("low", "high"))
    return f"{change} ({low} to {high})"
