"""What `run` prints at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from excise.cli.places import print_places
from excise.cli.tables import UNDEFINED, Cell, Row, counted, percent, print_table
from excise.cli.values import shown, shown_difference, title
from excise.cli.words import FEW_TEMPLATES, Record, damage, meaning
from excise.metrics import CHOICE, METRICS, Metric
from excise.results import HEADLINE, RunResult

POOLED = "(all tasks)"
HEADER = ("metric", "original", "patched", "random control", "difference")
UNITS = "in per cent; bias scores and differences in points; 95 % intervals"


def print_run(console: Console, result: RunResult, record: Mapping[str, Any]) -> None:
    """Print tables, places, meaning and caveats of a run.

    Args:
        console: where to.
        result: the run.
        record: its results.json.
    """
    paired = {name: by_metric(entries) for name, entries in record["paired"].items()}
    generated = result.config.scoring.mode == "generation"
    for task in result.tasks:
        first = task.trials[0].original
        n_templates = max((e["n_clusters"] for e in paired[task.task].values()), default=0)
        title = (
            f"{task.task}: {counted(len(first.instances), 'test instance')} of "
            f"{counted(n_templates, 'template')}, "
            f"{counted(len(first.instructions), 'instruction')}, "
            f"{counted(len(task.trials), 'trial')}\n({UNITS})"
        )
        print_table(
            console,
            title,
            HEADER,
            rows(paired[task.task], headline(task.metrics, generated=generated)),
        )
        console.print()
    if POOLED in paired:
        title = f"All {len(result.tasks)} tasks, each with its own patch\n({UNITS})"
        names = dict.fromkeys(name for task in result.tasks for name in task.metrics)
        print_table(
            console, title, HEADER, rows(paired[POOLED], headline(names, generated=generated))
        )
        console.print()
    print_places(console, result.patch, result.n_neurons)
    console.print()
    sizes = {task.task: max(len(trial.patch) for trial in task.trials) for task in result.tasks}
    for name, n in sizes.items():
        console.print(meaning(name, paired[name], n=n))
    if POOLED in paired:
        console.print(meaning("all tasks", paired[POOLED], n=max(sizes.values())))
    for note in notes(result, record, paired):
        console.print(f"Note: {note}")


def by_metric(entries: Sequence[Record]) -> dict[str, Record]:
    """Estimates by the name of their metric."""
    return {entry["metric"]: entry for entry in entries}


def headline(names: Iterable[str], *, generated: bool) -> tuple[str, ...]:
    """The metrics of printed tables, out of those that apply.

    Of the many metrics of a choice between options the most telling ones; generated answers may
    also match no option.
    """
    hidden = set(CHOICE) - set(HEADLINE) - ({"unmatched"} if generated else set())
    return tuple(name for name in names if name not in hidden)


def rows(paired: Mapping[str, Record], names: Sequence[str]) -> list[Row]:
    """Rows of the table original | patched | random control | difference."""
    return [[title(name), *_cells(paired.get(name))] for name in names]


def _cells(estimate: Record | None) -> list[Cell]:
    if estimate is None:
        return [Cell(UNDEFINED)] * (len(HEADER) - 1)
    metric = METRICS[estimate["metric"]]
    return [
        Cell(shown(metric, estimate["original"])),
        Cell(shown(metric, estimate["patched"])),
        _controls(metric, estimate["controls"]),
        shown_difference(estimate),
    ]


def _controls(metric: Metric, values: Sequence[float | None]) -> Cell:
    if not values:
        return Cell("not drawn")
    defined = [value for value in values if value is not None]
    if not defined:
        return Cell(UNDEFINED)
    mean = shown(metric, sum(defined) / len(defined))
    if len(defined) == 1:
        return Cell(mean, "(one draw)")
    return Cell(mean, f"({shown(metric, min(defined))} to {shown(metric, max(defined))})")


def notes(
    result: RunResult, record: Mapping[str, Any], paired: Mapping[str, Mapping[str, Record]]
) -> list[str]:
    """What a reader must know to judge the numbers."""
    found = []
    if result.config.split_by == "example":
        found.append(
            "--split-by example leaks: near-copies of test items were used to find neurons and to "
            "choose n, so the difference is too optimistic. Use --split-by template."
        )
    for task in result.tasks:
        clusters = [e["n_clusters"] for e in paired[task.task].values()]
        if clusters and max(clusters) < FEW_TEMPLATES:
            found.append(
                f"{task.task}: the intervals rest on {counted(max(clusters), 'question template')} "
                "only; they tell little about other questions."
            )
        if warning := damage(task.task, paired[task.task]):
            found.append(warning)
        sizes = record["n-samples"][task.task]
        if sizes["effective"] < sizes["original"]:
            found.append(
                f"{task.task}: {sizes['effective']} of {sizes['original']} test instances were "
                "asked (--limit)."
            )
        if result.config.selection.n == "auto" and any(not t.patch for t in task.trials):
            found.append(
                f"{task.task}: on the tune split no number of neurons did better than none"
                + (", in some trials." if any(t.patch for t in task.trials) else ".")
            )
        if len(task.trials) > 1:
            found.append(
                f"{task.task}: values are means over {len(task.trials)} trials; the patch kept is "
                f"that of trial {task.best.number + 1}, best on its tune split."
            )
    if result.config.controls == 0:
        found.append("no random controls were drawn, so chance is not ruled out.")
    if len(result.tasks) > 1:
        found.append(_union(result, record))
    return found


def _union(result: RunResult, record: Mapping[str, Any]) -> str:
    parts = []
    for task in result.tasks:
        row = record["results"][task.task]
        values = [row.get(f"{name},union") for name in ("accuracy", "accuracy_disambiguated")]
        parts.append(f"{task.task} {percent(values[0])} (disambiguated {percent(values[1])})")
    return (
        f"patch/ joins the tasks' patches ({len(result.patch)} neurons); accuracy under this "
        f"union: {', '.join(parts)}."
    )
