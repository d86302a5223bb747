"""Measured values in a model card: the table for readers, and the Hub's structured results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from excise.evidence import StoredRun
from excise.metrics import METRICS
from excise.patches import Patch
from excise.publishing.text import code, escaped
from excise.report.notes import POOLED
from excise.report.numbers import Row, controls, shown, shown_change, shown_interval, title
from excise.report.story import telling

_HEADER = ("task", "metric", "original", "patched", "random control", "difference (interval)")


def results_table(run: StoredRun, patch: Patch) -> str:
    """Original | patched | random control, with the interval of the difference, in Markdown.

    Args:
        run: the run folder.
        patch: its patch; where the run has several trials or tasks, its own values get a column.
    """
    own = _own_values(patch)
    several = len(run.tasks) > 1 or any(len(t.get("trials", ())) > 1 for t in _entries(run))
    paired: Mapping[str, list[Row]] = run.results["paired"]
    verdicts = any("verdict" in row for rows in paired.values() for row in rows)
    header = [*_HEADER, *(["verdict"] if verdicts else []), *(["this patch"] if several else [])]
    lines = [_line(header), _line(["---"] * len(header))]
    for task, rows in paired.items():
        for row in telling(rows):
            cells = [code(task) if task != POOLED else "all tasks", *_cells(row)]
            if verdicts:
                cells.append(escaped(str(row.get("verdict", ""))))
            if several:
                value = own.get(task, {}).get(row["metric"])
                cells.append("" if value is None else shown(row["metric"], value))
            lines.append(_line(cells))
    level = next((row["level"] for rows in paired.values() for row in rows), 0.95)
    return (
        "On the test split, which neither locating nor choosing has seen. Shares are in per cent, "
        "bias scores in points. *Random control* is as many random neurons of the same linear "
        f"maps: their mean, and the range over draws. Intervals are {100 * level:g} %, by "
        "bootstrap over question templates.\n\n" + "\n".join(lines)
    )


def eval_results(patch: Patch) -> list[EvalResult]:
    """The patch's own values on the test split, for the Hub's model index.

    Shares are 0..1, as the metrics define them; undefined values are left out.
    """
    return [
        EvalResult(
            task_type="question-answering",
            dataset_type=task,
            dataset_name=task,
            dataset_split="test",
            metric_type=name,
            metric_name=METRICS[name].title if name in METRICS else name,
            metric_value=round(value, 6),
        )
        for task, values in _own_values(patch).items()
        for name, value in values.items()
    ]


def _own_values(patch: Patch) -> dict[str, dict[str, float]]:
    measured: Mapping[str, Mapping[str, Any]] = patch.provenance.get("test_metrics") or {}
    return {
        task: {
            name: float(value)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        for task, values in measured.items()
    }


def _cells(row: Row) -> list[str]:
    name = row["metric"]
    mean, spread = controls(row)
    interval = shown_interval(row).replace("no interval", "")
    change = shown_change(name, row["difference"])
    return [
        escaped(title(name)),
        shown(name, row["original"]),
        shown(name, row["patched"]),
        f"{mean} ({spread})" if spread else mean,
        f"{change} ({interval})" if interval else change,
    ]


def _entries(run: StoredRun) -> list[Mapping[str, Any]]:
    return [run.run["tasks"][task] for task in run.tasks]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
