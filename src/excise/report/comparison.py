"""Several runs on one page: the same metrics side by side, and what differs between the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.errors import ConfigError
from excise.evidence import StoredRun
from excise.report.notes import POOLED
from excise.report.numbers import Row, title
from excise.report.page import page
from excise.report.pareto import axes, scatter
from excise.report.story import Story, tell, telling
from excise.report.svg import Plot

_SHAPES = ("diamond", "triangle", "circle", "down", "square")


@dataclass(frozen=True, slots=True)
class _Run:
    label: str
    stored: StoredRun
    n_excised: int
    story: Story


def comparison(runs: Sequence[StoredRun]) -> str:
    """The page of several runs.

    Args:
        runs: run folders, at least two.

    Returns:
        HTML that needs no other file and no network.

    Raises:
        ConfigError: a run is given twice, or the runs share no task.
    """
    folders = [run.path.resolve() for run in runs]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise ConfigError(f"{runs[number].path} is given twice; give each run once.")
    shared = [task for task in runs[0].tasks if all(task in run.tasks for run in runs[1:])]
    if not shared:
        tasks = "; ".join(f"{run.path}: {', '.join(run.tasks)}" for run in runs)
        raise ConfigError(f"the runs share no task, so nothing can be compared ({tasks}).")
    labelled = [_run(label, run) for label, run in zip(_labels(folders), runs, strict=True)]
    return page(
        "comparison.html.j2",
        runs=labelled,
        tasks=[_task(name, labelled) for name in shared],
        differing=_differing(labelled),
        notes=_notes(labelled, shared),
    )


def _run(label: str, run: StoredRun) -> _Run:
    paired = run.results["paired"]
    name = POOLED if POOLED in paired else run.tasks[0]
    size = len(run.patch)
    return _Run(label, run, size, tell(name, paired[name], n_excised=size))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Folder names; longer paths where two are the same."""
    names = [folder.name for folder in folders]
    return [
        name if names.count(name) == 1 else f"{folder.parent.name}/{name}"
        for name, folder in zip(names, folders, strict=True)
    ]


def _task(name: str, runs: Sequence[_Run]) -> dict[str, Any]:
    rows = [{row["metric"]: row for row in run.stored.results["paired"][name]} for run in runs]
    metrics = dict.fromkeys(row["metric"] for of in rows for row in telling(of.values()))
    return {
        "name": name,
        "metrics": [(title(metric), [of.get(metric) for of in rows]) for metric in metrics],
        "pareto": _pareto(runs, rows),
    }


def _pareto(runs: Sequence[_Run], rows: Sequence[Mapping[str, Row]]) -> Plot | None:
    chosen = axes(rows[0])
    if chosen is None or any(axes(of) != chosen for of in rows):
        return None
    states = []
    for number, (run, of) in enumerate(zip(runs, rows, strict=True)):
        shape = _SHAPES[number % len(_SHAPES)]
        klass = f"s{number % 5 + 1}"
        for state, name in (("original", f"{run.label}, original"), ("patched", run.label)):
            values = {metric: row[state] for metric, row in of.items()}
            look = (shape, f"{klass} hollow" if state == "original" else klass, name)
            states.append(chosen.state(values, name, look, run.label))
    return scatter([state for state in states if state is not None], chosen)


def _differing(runs: Sequence[_Run]) -> list[tuple[str, list[str]]]:
    """Options, models and versions in which the runs differ."""
    flat = [
        {
            "model": run.stored.run["model"].get("name"),
            "weights": str(run.stored.run["model"].get("digest"))[:12],
            "excise": run.stored.run.get("excise"),
            **{
                f"{name}: test split": str(_split(task).get("test"))[:12]
                for name, task in run.stored.run["tasks"].items()
            },
            **_flat(run.stored.run["config"]),
            **{f"version of {k}": v for k, v in run.stored.run.get("environment", {}).items()},
        }
        for run in runs
    ]
    names = dict.fromkeys(name for of in flat for name in of)
    told = [(name, [str(of.get(name, "not stated")) for of in flat]) for name in names]
    return [(name, values) for name, values in told if len(set(values)) > 1]


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _split(task: Mapping[str, Any]) -> Mapping[str, Any]:
    return (task.get("trials") or [{}])[0].get("split") or {}


def _notes(runs: Sequence[_Run], shared: Sequence[str]) -> list[str]:
    found = [
        "Each interval belongs to its own run (patched minus original); whether two runs differ "
        "from each other is not tested here."
    ]
    if len({run.stored.run["model"].get("digest") for run in runs}) > 1:
        found.append("The runs have different base models.")
    for name in shared:
        tasks = [run.stored.run["tasks"][name] for run in runs]
        if len({task.get("data_digest") for task in tasks}) > 1:
            found.append(f"{name}: the runs read different data.")
        asked = [
            (_split(task).get("test"), run.stored.results.get("n-samples", {}).get(name, {}))
            for task, run in zip(tasks, runs, strict=True)
        ]
        if any(entry != asked[0] for entry in asked[1:]):
            found.append(f"{name}: the runs were asked different test items.")
    left = sorted({task for run in runs for task in run.stored.tasks} - set(shared))
    if left:
        found.append(f"Not in every run, so left out: {', '.join(left)}.")
    return found
