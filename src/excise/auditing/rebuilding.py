"""The result of a run, rebuilt from its folder, so that its numbers can be computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from excise.evidence import StoredRun
from excise.patches import Patch
from excise.results import RunResult, TaskResult, TrialResult
from excise.selection import CurvePoint
from excise.types import Predictions, Split


def metric_names(stored: StoredRun, task: str) -> tuple[str, ...]:
    """Names of the metrics that apply to a task."""
    named = stored.run["tasks"][task].get("metrics")
    if named is None:  # the first schema, and evaluations
        named = {
            **{entry["metric"]: None for entry in stored.results.get("paired", {}).get(task, ())},
            **{
                key.split(",")[0].removesuffix("_stderr"): None
                for key in stored.results["results"].get(task, {})
                if "," in key
            },
        }
    return tuple(named)


def rebuilt(stored: StoredRun) -> RunResult:
    """The result as `excise run` held it when it wrote its numbers.

    Splits hold no items, which lie in the data: of test, only their number.

    Raises:
        RunFolderError: rows are missing or damaged.
        PatchError: a patch is missing or damaged.
    """
    run = stored.run
    return RunResult(
        config=stored.config,
        model=run["model"]["name"],
        model_digest=run["model"]["digest"],
        n_neurons=run["model"]["neurons"],
        tasks=tuple(_task(stored, name, entry) for name, entry in run["tasks"].items()),
        patch=stored.patch,
        weights_unchanged=run.get("weights_unchanged", False),
    )


def _task(stored: StoredRun, name: str, entry: Mapping[str, Any]) -> TaskResult:
    original = stored.predictions(name, "original")
    several = len(stored.tasks) > 1
    return TaskResult(
        task=name,
        licence=entry["licence"],
        citation=entry["citation"],
        data_digest=entry["data_digest"],
        metrics=metric_names(stored, name),
        trials=tuple(
            _trial(stored, name, number, trial, original)
            for number, trial in enumerate(entry["trials"])
        ),
        prompt_format=entry.get("prompt_format", ""),
        union=stored.predictions(name, "union") if several else None,
    )


def _trial(
    stored: StoredRun, task: str, number: int, entry: Mapping[str, Any], original: Predictions
) -> TrialResult:
    drawn = [
        state
        for name, state, trial in stored.states
        if (name, trial) == (task, number) and state.startswith("control-")
    ]
    size = stored.results["n-samples"][task]["original"]
    return TrialResult(
        number=number,
        split=Split((), (), original.instances[:1] * size, stored.config.split_by),
        scores=None,
        patch=trial_patch(stored, task, number),
        curve=tuple(CurvePoint(**point) for point in entry["curve"]),
        facts=entry.get("method", {}),
        original=original,
        patched=stored.predictions(task, "patched", number),
        controls=tuple(stored.predictions(task, state, number) for state in drawn),
    )


def trial_patch(stored: StoredRun, task: str, trial: int) -> Patch:
    """The patch of one trial of one task."""
    return stored.trial_patch(task, trial)
