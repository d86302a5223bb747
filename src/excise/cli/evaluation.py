"""What `evaluate` measures, writes and prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from excise import __version__
from excise.cli.summary import UNITS, by_metric, difference, headline, title
from excise.cli.tables import UNDEFINED, Cell, Row, counted, percent, print_table
from excise.cli.words import FEW_TEMPLATES, meaning
from excise.config import RunConfig, to_toml
from excise.errors import NonFiniteError
from excise.evaluation import predict
from excise.evidence import finish, write_items, writing
from excise.metrics import METRICS, spread, value
from excise.patches import Patch
from excise.pipeline import load_model, load_tasks
from excise.progress import Progress
from excise.splits import sample
from excise.statistics import Pair, pooled_difference
from excise.types import Predictions, Task


@dataclass(frozen=True)
class TaskStates:
    """What the states of one model answered to one task."""

    task: Task
    model: str
    original: Predictions
    patched: Predictions | None
    patch: Patch | None

    @property
    def states(self) -> dict[str, Predictions]:
        """State -> answers."""
        patched = {} if self.patched is None else {"patched": self.patched}
        return {"original": self.original, **patched}

    @property
    def found_on_this_task(self) -> bool:
        """Whether the patch was found on the data that is asked here."""
        return self.patch is not None and self.task.digest in _data_digests(self.patch.provenance)


def measure(
    config: RunConfig, patch: Patch | None, progress: Progress, *, force: bool
) -> tuple[TaskStates, ...]:
    """Ask all instances of every task, or a sample of `config.limit` of them by block.

    Args:
        config: model, tasks, and how options are compared.
        patch: what to compare the original with.
        progress: who watches.
        force: accept other weights than the patch was made on.

    Raises:
        ExciseError: see `excise.errors`.
    """
    tasks = load_tasks(config)
    progress.stage("loading the model")
    loaded = load_model(config)
    if patch is not None:
        patch.check(loaded, force=force)
    asked = {
        task.name: sample(task.instances, config.limit, seed=config.split_seed, unit="block")
        for task in tasks
    }
    prompts = sum(len(asked[t.name]) * len(_instructions(t, config)) for t in tasks)
    progress.plan(prompts * (1 if patch is None else 2))

    def ask(task: Task, state: Patch | None) -> Predictions:
        with nullcontext() if state is None else state.applied(loaded, force=force):
            return predict(
                loaded,
                task,
                asked[task.name],
                config.scoring,
                instructions=_instructions(task, config),
                advance=progress.advance,
            )

    results = []
    for task in tasks:
        progress.stage(f"{task.name}: asking the original model")
        original = ask(task, None)
        patched = None
        if patch is not None:
            progress.stage(f"{task.name}: asking the patched model")
            patched = ask(task, patch)
        results.append(TaskStates(task, loaded.name, original, patched, patch))
    return tuple(results)


def record(states: Sequence[TaskStates], config: RunConfig) -> dict[str, Any]:
    """The same layout as a run's `results.json`."""
    return {
        "results": {entry.task.name: _row(entry) for entry in states},
        "paired": {
            entry.task.name: _paired(entry, config) for entry in states if entry.patched is not None
        },
        "n-samples": {
            entry.task.name: {
                "original": len(entry.task.instances),
                "effective": len(entry.original.instances),
            }
            for entry in states
        },
        "config": config.model_dump(mode="json"),
        "model_name": states[0].model,
        "excise": __version__,
    }


def write(
    states: Sequence[TaskStates], document: Mapping[str, Any], config: RunConfig, path: Path
) -> None:
    """Write `results.json`, `items.parquet` and `config.toml`, all or nothing.

    Raises:
        OutputError: no space, or no permission.
    """
    with writing(path) as scratch:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (scratch / "results.json").write_text(text, encoding="utf-8")
        (scratch / "config.toml").write_text(to_toml(config), encoding="utf-8")
        write_items(_items(states), scratch / "items.parquet")
        finish(scratch, path)


def print_evaluation(
    console: Console, states: Sequence[TaskStates], document: Mapping[str, Any]
) -> None:
    """Print a table for each task, and what it means where a patch was compared."""
    generated = document["config"]["scoring"]["mode"] == "generation"
    for entry in states:
        paired = by_metric(document["paired"].get(entry.task.name, ()))
        sizes = document["n-samples"][entry.task.name]
        print_table(
            console,
            f"{entry.task.name}: {sizes['effective']} of {sizes['original']} instances, "
            f"{counted(len(entry.original.instructions), 'instruction')}; "
            f"mean and standard deviation over instructions\n({UNITS})",
            ["metric", *entry.states, *(["difference"] if entry.patch is not None else [])],
            [_cells(entry, name, paired) for name in headline(generated=generated)],
        )
        console.print()
        if entry.patch is None:
            continue
        console.print(meaning(entry.task.name, paired, n=len(entry.patch)))
        clusters = max((e["n_clusters"] for e in paired.values()), default=0)
        if entry.found_on_this_task:
            console.print(
                f"Note: the patch was found on data of {entry.task.name}; these instances include "
                "those that it was found on, so the difference is too optimistic. `excise run` "
                "reports on held-out templates."
            )
        if clusters < FEW_TEMPLATES:
            console.print(
                f"Note: the intervals rest on {counted(clusters, 'question template')} only."
            )


def _cells(entry: TaskStates, name: str, paired: Mapping[str, Mapping[str, Any]]) -> Row:
    row: list[Cell | str] = [title(name), *(_state(p, name) for p in entry.states.values())]
    if entry.patch is not None:
        row.append(difference(paired[name]) if name in paired else UNDEFINED)
    return row


def _state(predictions: Predictions, name: str) -> Cell:
    mean = _value(predictions, name)
    deviation = spread(METRICS[name], predictions) if mean is not None else None
    return Cell(percent(mean), "" if deviation is None else f"(sd {percent(deviation)})")


def _value(predictions: Predictions, name: str) -> float | None:
    try:
        return value(METRICS[name], predictions)
    except NonFiniteError:
        return None


def _row(entry: TaskStates) -> dict[str, float | str]:
    row: dict[str, float | str] = {"alias": entry.task.name}
    for name in METRICS:
        for state, predictions in entry.states.items():
            mean = _value(predictions, name)
            if mean is None:
                continue
            row[f"{name},{state}"] = mean
            deviation = spread(METRICS[name], predictions)
            if deviation is not None:
                row[f"{name},{state}_std_over_instructions"] = deviation
    return row


def _paired(entry: TaskStates, config: RunConfig) -> list[dict[str, Any]]:
    assert entry.patched is not None
    pair = Pair(entry.original, entry.patched, entry.task.name)
    found = []
    for metric in METRICS.values():
        if any(_value(state, metric.name) is None for state in entry.states.values()):
            continue
        estimate = pooled_difference(
            metric.function,
            [pair],
            metric_name=metric.name,
            n_resamples=config.resamples,
            seed=config.seed,
        )
        found.append(asdict(estimate))
    return found


def _items(states: Sequence[TaskStates]) -> Iterator[tuple[dict[str, Any], Predictions]]:
    for entry in states:
        for state, predictions in entry.states.items():
            yield {"task": entry.task.name, "state": state, "trial": None}, predictions


def _instructions(task: Task, config: RunConfig) -> tuple[str, ...]:
    return task.instructions[: config.test_instructions]


def _data_digests(provenance: Mapping[str, Any]) -> set[str]:
    """Digests of all data that a patch, or any part of a union, was found on."""
    own = {str(provenance["data_digest"])} if "data_digest" in provenance else set()
    parts = provenance.get("union_of", ())
    return own.union(*(_data_digests(part) for part in parts))
