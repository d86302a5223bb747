"""Reading a finished folder back: records, answers, neuron scores and the patch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from safetensors import SafetensorError
from safetensors.numpy import load_file

from excise.config import RunConfig, read_record
from excise.errors import RunFolderError
from excise.evidence.items import stored_predictions
from excise.evidence.records import SCHEMA_VERSION
from excise.evidence.writing import RUN_FILE
from excise.patches import Patch
from excise.types import FloatArray, Predictions

RESULTS_FILE = "results.json"
ITEMS_FILE = "items.parquet"
SCORES_FILE = "scores.safetensors"

_LABELS = ("original", "union")
"""States that are asked once, whatever the number of trials."""


@dataclass(frozen=True)
class StoredRun:
    """A folder written by `excise run`, or by `excise evaluate` where that was allowed."""

    path: Path
    kind: Literal["run", "evaluation"]
    run: Mapping[str, Any]
    """`run.json`; for an evaluation the same entries out of its `results.json`."""
    results: Mapping[str, Any]
    """`results.json`."""
    items: pyarrow.Table
    """`items.parquet`: one row for each item, instruction and state."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order in which they were asked."""
        return tuple(self.run["tasks"])

    @cached_property
    def config(self) -> RunConfig:
        """The configuration; options that are newer than the folder have their defaults.

        Raises:
            ConfigError: an option that this version does not know.
        """
        return read_record(self.run["config"], self.path / RUN_FILE)

    @cached_property
    def states(self) -> tuple[tuple[str, str, int | None], ...]:
        """Every (task, state, trial) that was asked, in the order of the rows."""
        columns = self.items.select(["task", "state", "trial"])
        seen = columns.group_by(["task", "state", "trial"], use_threads=False).aggregate([])
        return tuple((row["task"], row["state"], row["trial"]) for row in seen.to_pylist())

    @cached_property
    def scores(self) -> Mapping[str, FloatArray]:
        """`TASK/TRIAL/MODULE` -> [neurons] scores; empty where the method has none.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.path / SCORES_FILE
        if not path.is_file():
            return {}
        try:
            return {name: values.astype(np.float64) for name, values in load_file(path).items()}
        except (OSError, SafetensorError, ValueError) as error:
            raise _damaged(path, error) from error

    @cached_property
    def patch(self) -> Patch:
        """The patch that the run keeps.

        Raises:
            PatchError: there is none (an evaluation keeps none), or it is damaged.
        """
        return Patch.load(self.path / "patch")

    def trial_patch(self, task: str, trial: int) -> Patch:
        """The patch that one trial of a task found.

        Raises:
            PatchError: there is none, or it is damaged.
        """
        folder = self.path / "patches" / f"{Path(task).stem}-trial-{trial}"
        return Patch.load(folder) if folder.is_dir() else self.patch

    def best_trial(self, task: str) -> int:
        """The trial that gained most on its tune split, whose patch is kept."""
        entry = self.run["tasks"][task]
        if "best_trial" in entry:
            return int(entry["best_trial"])
        trials = entry.get("trials") or [{}]
        return max(range(len(trials)), key=lambda number: _gain(trials[number].get("curve", ())))

    def predictions(self, task: str, state: str, trial: int | None = None) -> Predictions:
        """What one state chose, rebuilt from the rows.

        Args:
            task: a task of the run.
            state: `original`, `patched`, `control-K` or `union`.
            trial: which trial's; the best one by default. `original` and `union` belong to none.

        Raises:
            RunFolderError: there are no such rows, or they are no choices between options.
        """
        if state in _LABELS or self.kind == "evaluation":
            trial = None
        elif trial is None:
            trial = self.best_trial(task)
        return stored_predictions(self.rows(task, state, trial), self.path / ITEMS_FILE)

    def rows(self, task: str, state: str, trial: int | None) -> pyarrow.Table:
        """The rows of one state.

        Raises:
            RunFolderError: there are none.
        """
        compute = pyarrow.compute
        number = self.items["trial"]
        wanted = compute.and_(
            compute.and_(
                compute.equal(self.items["task"], task), compute.equal(self.items["state"], state)
            ),
            compute.is_null(number)
            if trial is None
            else compute.fill_null(compute.equal(number, trial), False),
        )
        found = self.items.filter(wanted)
        if not found.num_rows:
            at = "" if trial is None else f", trial {trial}"
            known = sorted({f"{t} {s}" for t, s, _ in self.states})
            raise RunFolderError(
                f"{self.path / ITEMS_FILE} has no rows of {task}, {state}{at}; it has "
                f"{', '.join(known)}."
            )
        return found


def open_run(path: str | Path, *, evaluation: bool = False) -> StoredRun:
    """Open a run folder.

    Args:
        path: the folder.
        evaluation: accept a folder of `excise evaluate --out` as well.

    Raises:
        RunFolderError: no run folder, one of a newer schema, or a damaged file; says which.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunFolderError(f"{path} is no folder; give the folder that `excise run` wrote.")
    kind = kind_of(path)
    if kind == "run":
        run = _json(path / RUN_FILE)
        version = run.get("schema_version")
        if not isinstance(version, int) or version < 1:
            raise RunFolderError(f"{path / RUN_FILE} has no schema version; it is no run of ours.")
        if version > SCHEMA_VERSION:
            raise RunFolderError(
                f"{path} has schema version {version}; this excise reads up to {SCHEMA_VERSION}. "
                "Open it with a newer excise."
            )
        results = _json(path / RESULTS_FILE)
    elif kind == "evaluation" and evaluation:
        results = _json(path / RESULTS_FILE)
        run = _of_evaluation(results)
    else:
        raise RunFolderError(f"{path} {_REASONS[kind]}")
    for name in ("config", "model", "tasks"):
        if not isinstance(run.get(name), dict):
            raise _damaged(path / RUN_FILE, f"entry {name!r} is missing")
    return StoredRun(path, kind, run, results, read_items(path / ITEMS_FILE))


Kind = Literal["run", "evaluation", "comparison", "other"]
_REASONS: Mapping[Kind, str] = {
    "evaluation": "was written by `excise evaluate`; this needs a folder of `excise run`.",
    "comparison": "was written by `excise compare`; this needs a folder of `excise run`.",
    "other": f"is no run folder: it has no {RUN_FILE}; give the folder that `excise run` wrote.",
}


def kind_of(path: Path) -> Kind:
    """Which verb wrote a folder."""
    if (path / RUN_FILE).is_file():
        return "run"
    if (path / "comparison.json").is_file():
        return "comparison"
    if (path / RESULTS_FILE).is_file() and (path / ITEMS_FILE).is_file():
        return "evaluation"
    return "other"


def read_items(path: Path) -> pyarrow.Table:
    """A file of answers.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from error
    missing = [
        name for name in ("task", "state", "trial", "instance") if name not in table.schema.names
    ]
    if missing:
        raise _damaged(path, f"column {missing[0]!r} is missing")
    return table


def _of_evaluation(results: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `run.json` out of the record of an evaluation."""
    hashes, configs = results.get("task_hashes", {}), results.get("configs", {})
    return {
        "config": results.get("config"),
        "model": {"name": results.get("model_name"), "digest": results.get("model_digest")},
        "tasks": {
            name: {
                "data_digest": digest,
                "instructions": configs.get(name, {}).get("instructions", []),
                "prompt_format": configs.get(name, {}).get("doc_to_text", ""),
                "licence": configs.get(name, {}).get("licence", ""),
                "citation": configs.get(name, {}).get("citation", ""),
            }
            for name, digest in hashes.items()
        },
        "environment": results.get("environment", {}),
        "excise": results.get("excise"),
        "code": results.get("code", {}),
    }


def _gain(curve: Any) -> float:
    """As `excise.results.TaskResult.best`: the best objective minus that of n = 0."""
    points = [(point["n"], point["objective"]) for point in curve]
    original = next((objective for n, objective in points if n == 0), 0.0)
    return max((objective for _, objective in points), default=0.0) - original


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(document, dict):
        raise _damaged(path, "it holds no JSON object")
    return document


def _damaged(path: Path, error: object) -> RunFolderError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["unreadable"])[0]
    return RunFolderError(f"{path} is missing or damaged ({reason}); restore it, or run again.")
