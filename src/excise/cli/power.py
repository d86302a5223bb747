"""The verb `power`: how many items and templates a margin needs, and what a task can show."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options
from excise.cli.planning import Observed, Size, opened
from excise.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from excise.metrics import Metric

Name = Annotated[
    str | None,
    typer.Option(
        "--task",
        "-t",
        metavar="NAME",
        help="A name of `excise ls tasks`, or your own file; the first task of the baseline if "
        "left out.",
        show_default=False,
    ),
]
Margin = Annotated[
    float,
    typer.Option(
        metavar="D", help="Difference to show, or to exclude: 0.05 is five points.", min=0.0
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="See `excise ls metrics`; the task's first by default.",
        show_default=False,
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A folder of `excise run`, or of `excise evaluate --patch --out`, whose templates "
        "show how much they vary.",
        show_default=False,
    ),
]
Changed = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Without a baseline: share of the outcomes that change, either way.",
        min=0.0,
        max=1.0,
    ),
]
Correlation = Annotated[
    float,
    typer.Option(
        metavar="R",
        help="Without a baseline: correlation between changes within a template.",
        min=0.0,
        max=1.0,
    ),
]
Level = Annotated[float, typer.Option(metavar="P", help="Coverage of the interval.")]
Probability = Annotated[
    float, typer.Option("--power", metavar="P", help="Probability of showing the difference.")
]
Tests = Annotated[
    int, typer.Option(metavar="N", help="Tests that p-values are corrected for.", min=1)
]


def power(
    context: typer.Context,
    task: Name = None,
    margin: Margin = 0.02,
    metric: MetricName = None,
    baseline: Baseline = None,
    changed: Changed = 0.2,
    correlation: Correlation = 0.2,
    level: Level = 0.95,
    probability: Probability = 0.8,
    tests: Tests = 1,
    limit: options.Limit = None,
    data_dir: options.DataDir = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say how many items and question templates a margin needs, and which margin a task can show.

    How much templates differ is taken from a run, or assumed; docs/statistics.md has the formulas.
    No model is loaded.
    """
    _check(margin, level, probability)
    from excise.statistics.power import assumed_deviation, plan

    run = None if baseline is None else opened(baseline)
    if task is None and run is None:
        raise ConfigError("no task is given; name one with --task, or a run with --baseline.")
    size = Size.of(task or run.tasks[0], metric, limit, data_dir)  # type: ignore[union-attr]
    observed = None if run is None else Observed.of(run, size.task, size.metric)
    if observed is None:
        deviation = assumed_deviation(changed, correlation, size.items / size.templates)
        source: dict[str, Any] = {"changed": changed, "correlation": correlation}
    else:
        deviation = observed.deviation
        source = {
            "baseline": str(baseline),
            "templates": observed.templates,
            "items_per_template": observed.items / observed.templates,
            "difference": observed.difference,
        }
    if deviation <= 0:
        raise ConfigError("nothing changes under these assumptions; raise --changed.")
    try:
        found = plan(
            margin,
            deviation,
            size.templates,
            size.items,
            level=level,
            power=probability,
            n_tests=tests,
        )
    except ValueError as error:
        raise ConfigError(f"--margin {margin:g}: {error}; choose a larger one.") from error
    document = {
        "task": size.task,
        "metric": size.metric.name,
        "level": level,
        "power": probability,
        "n_tests": tests,
        **asdict(found),
        "split": size.split,
        "task_templates": size.all_templates,
        "task_items": size.all_items,
        "needed_task_templates": found.needed_templates * (2 if size.split else 1),
        "needed_task_items": found.needed_items * (2 if size.split else 1),
        "deviation_from": source,
    }
    if as_json:
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
    elif quiet:
        typer.echo(_answer(document, size.metric))
    else:
        _print(context.obj.out, document, size.metric)


def _check(margin: float, level: float, probability: float) -> None:
    if margin <= 0:
        raise ConfigError(f"--margin must be above 0, not {margin:g}.")
    if not 0.5 < level < 1:
        raise ConfigError(f"--level must lie between 0.5 and 1, not {level:g}.")
    if not 0.5 <= probability < 1:
        raise ConfigError(f"--power must lie between 0.5 and 1, not {probability:g}.")


def _answer(document: dict[str, Any], metric: Metric) -> str:
    margin = _amount(metric, document["margin"])
    verb = "is enough" if document["enough"] else "is not enough"
    detectable = document["detectable"]
    shows = "no interval" if detectable is None else f"shows {_amount(metric, detectable)}"
    return (
        f"{document['task']}, {document['metric']}: a margin of {margin} needs "
        f"{document['needed_templates']:,} test templates "
        f"({document['needed_items']:,} items); what is there {verb}: "
        f"{document['templates']:,} templates ({document['items']:,} items), which {shows}."
    )


def _amount(metric: Metric, value: float) -> str:
    if metric.unit in ("%", "points"):
        return f"{100 * value:.3g} point{'' if f'{100 * value:.3g}' == '1' else 's'}"
    return f"{value:.3g} {metric.unit}".strip()


def _print(console: Console, document: dict[str, Any], metric: Metric) -> None:
    from excise.cli.tables import print_table

    detectable = document["detectable"]
    print_table(
        console,
        f"{document['task']}: {metric.title} ({100 * document['level']:g} % interval, "
        f"power {100 * document['power']:g} %)",
        ["", "templates", "items", "shows"],
        [
            [
                "tested" if document["split"] else "the task",
                f"{document['templates']:,}",
                f"{document['items']:,}",
                "-" if detectable is None else _amount(metric, detectable),
            ],
            [
                "needed",
                f"{document['needed_templates']:,}",
                f"{document['needed_items']:,}",
                _amount(metric, document["margin"]),
            ],
        ],
    )
    console.print()
    if document["split"]:
        console.print(
            f"A run tests on half of the templates: the task has {document['task_templates']:,} "
            f"({document['task_items']:,} items) and would need "
            f"{document['needed_task_templates']:,} ({document['needed_task_items']:,} items)."
        )
    source = document["deviation_from"]
    spread = _amount(metric, document["deviation"])
    if "baseline" in source:
        console.print(
            f"Templates differ by {spread} (standard deviation), as observed in "
            f"{source['baseline']} on {source['templates']} templates of "
            f"{source['items_per_template']:.1f} items."
        )
    else:
        console.print(
            f"Templates differ by {spread} (standard deviation), if {100 * source['changed']:g} % "
            f"of the outcomes change and changes within a template correlate by "
            f"{source['correlation']:g}: assumed; --baseline takes it from a run."
        )
    console.print(
        "The same margin can be excluded (not worse by more than it) where nothing changes in "
        "truth."
    )
