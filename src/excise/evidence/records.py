"""`run.json` and `results.json`: what was run, and what came out."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from excise import __version__
from excise.config import RunConfig
from excise.evidence.code import code_digest
from excise.metrics import METRICS, value
from excise.results import RunResult, TrialResult, over_instructions
from excise.splits import digest
from excise.types import Split, Task

SCHEMA_VERSION = 2
"""Of `run.json` and the files beside it; 1 had no manifest, no task texts, and no code digest."""


_LIBRARIES = ("torch", "transformers", "numpy", "scipy", "safetensors", "tokenizers")


def provenance(config: RunConfig, task: Task, split: Split, trial: int) -> dict[str, Any]:
    """How a patch was found, as JSON values."""
    return {
        "excise": __version__,
        "task": task.name,
        "data_digest": task.digest,
        "preset": config.preset,
        "seed": config.seed,
        "trial": trial,
        "split": {
            "by": split.by,
            "leaks": split.leaks,
            "find": digest(split.find),
            "tune": digest(split.tune),
            "test": digest(split.test),
        },
        "attribution": config.attribution.model_dump(mode="json"),
        "selection": config.selection.model_dump(mode="json"),
        "scoring": config.scoring.model_dump(mode="json"),
        # A model that the table lacks: what the patch calls neurons.
        **({"neurons": config.neurons, "no_neurons": config.no_neurons} if config.neurons else {}),
    }


def run_record(result: RunResult) -> dict[str, Any]:
    """`run.json`: resolved configuration, versions, digests, seeds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "excise": __version__,
        "code": {"version": __version__, "digest": code_digest()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": result.config.model_dump(mode="json"),
        "model": {
            "name": result.model,
            "digest": result.model_digest,
            "neurons": result.n_neurons,
        },
        "weights_unchanged": result.weights_unchanged,
        "tasks": {
            task.task: {
                "data_digest": task.data_digest,
                "licence": task.licence,
                "citation": task.citation,
                "instructions": list(task.trials[0].original.instructions),
                "prompt_format": task.prompt_format,
                "metrics": list(task.metrics),
                "asked": digest(task.trials[0].original.instances),
                "best_trial": task.best.number,
                "trials": [_trial_record(trial) for trial in task.trials],
            }
            for task in result.tasks
        },
        "environment": environment(),
    }


def environment() -> dict[str, str]:
    """Python, platform and library versions."""
    found = {"python": platform.python_version(), "platform": platform.machine()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def results_record(result: RunResult) -> dict[str, Any]:
    """`results.json`: lm-eval's layout with the state as filter, and a `paired` block beside it."""
    states: dict[str, dict[str, float | str]] = {}
    for task in result.tasks:
        row: dict[str, float | str] = {"alias": task.task}
        for estimate in result.estimates([task]):
            metric = METRICS[estimate.metric]
            controls = [c for c in estimate.controls if c is not None]
            row |= {
                f"{metric.name},{state}": number
                for state, number in (
                    ("original", estimate.original),
                    ("patched", estimate.patched),
                    ("control", sum(controls) / len(controls) if controls else None),
                    ("union", value(metric, task.union) if task.union else None),
                    ("original_std_over_instructions", over_instructions(metric, task, "original")),
                    ("patched_std_over_instructions", over_instructions(metric, task, "patched")),
                )
                if number is not None
            }
        states[task.task] = row
    return {
        "results": states,
        "paired": {
            name: [asdict(estimate) for estimate in rows] for name, rows in result.paired.items()
        },
        "changes": result.changes,
        "n-samples": {
            task.task: {
                "original": len(task.trials[0].split.test),
                "effective": len(task.trials[0].original.instances),
            }
            for task in result.tasks
        },
        "config": result.config.model_dump(mode="json"),
        "model_name": result.model,
        "excise": __version__,
    }


def _trial_record(trial: TrialResult) -> dict[str, Any]:
    return {
        "n": len(trial.patch),
        "curve": [asdict(point) for point in trial.curve],
        "split": trial.patch.provenance.get("split"),
        "find_prompts": None if trial.scores is None else trial.scores.n_prompts,
        "method": dict(trial.facts),
    }
