"""The run folder: everything to read, reuse and recompute a run, written at once or not at all."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from safetensors import SafetensorError
from safetensors.numpy import save_file

from excise import __version__
from excise.config import RunConfig, to_toml
from excise.errors import OutputError
from excise.metrics import METRICS, value
from excise.patches import Patch
from excise.results import RunResult, TrialResult, over_instructions
from excise.splits import digest
from excise.types import Predictions, Split, Task

RUN_FILE = "run.json"
SCHEMA_VERSION = 1
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
    }


@dataclass(frozen=True)
class RunFolder:
    """A run folder that does not exist yet."""

    path: Path

    @classmethod
    def prepare(cls, path: Path) -> RunFolder:
        """Check before the work starts that the folder can be written.

        Raises:
            OutputError: it exists and is not empty, or cannot be made.
        """
        refuse_existing(path)
        with writing(path):
            pass
        return cls(path)

    def write(self, result: RunResult) -> None:
        """Write all files beside the target, then rename.

        Raises:
            OutputError: no space, or no permission; nothing is left behind.
        """
        refuse_existing(self.path)
        with writing(self.path) as scratch:
            (scratch / RUN_FILE).write_text(_json(run_record(result)), encoding="utf-8")
            (scratch / "results.json").write_text(_json(results_record(result)), encoding="utf-8")
            (scratch / "config.toml").write_text(to_toml(result.config), encoding="utf-8")
            (scratch / "README.md").write_text(_readme(result), encoding="utf-8")
            write_items(_states(result), scratch / "items.parquet")
            save_file(_scores(result), scratch / "scores.safetensors")
            _with_metrics(result.patch, result).save(scratch / "patch")
            if len(result.tasks) > 1 or len(result.tasks[0].trials) > 1:
                for task in result.tasks:
                    for trial in task.trials:
                        name = f"{Path(task.task).stem}-trial-{trial.number}"
                        trial.patch.save(scratch / "patches" / name)
            finish(scratch, self.path)


def refuse_existing(path: Path) -> None:
    """Refuse an output folder that holds something.

    Raises:
        OutputError: it does.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        kind = "an earlier run" if (path / RUN_FILE).is_file() else "not one of ours"
        raise OutputError(f"{path} exists and is {kind}; give another --out, or remove it.")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A scratch folder beside the target, gone afterwards unless it was renamed.

    Raises:
        OutputError: no space, or no permission.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        yield scratch
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"cannot write {path}: {reason}; nothing was left behind.") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def finish(scratch: Path, path: Path) -> None:
    """Rename a filled scratch folder to its target."""
    if path.exists():
        path.rmdir()  # empty, or refuse_existing had spoken
    scratch.rename(path)


def run_record(result: RunResult) -> dict[str, Any]:
    """`run.json`: resolved configuration, versions, digests, seeds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "excise": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": result.config.model_dump(mode="json"),
        "model": {
            "name": result.model,
            "digest": result.model_digest,
            "neurons": result.n_neurons,
        },
        "tasks": {
            task.task: {
                "data_digest": task.data_digest,
                "licence": task.licence,
                "citation": task.citation,
                "instructions": list(task.trials[0].original.instructions),
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
    pooled = {"(all tasks)": result.tasks} if len(result.tasks) > 1 else {}
    return {
        "results": states,
        "paired": {
            name: [asdict(estimate) for estimate in result.estimates(tasks)]
            for name, tasks in {
                **{task.task: (task,) for task in result.tasks},
                **pooled,
            }.items()
        },
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


def write_items(states: Iterator[tuple[dict[str, Any], Predictions]], path: Path) -> None:
    """`items.parquet`: one row for each instance, instruction and state."""
    tables = [
        pyarrow.Table.from_pylist([{**labels, **row} for row in rows(predictions)])
        for labels, predictions in states
    ]
    pyarrow.parquet.write_table(
        pyarrow.concat_tables(tables, promote_options="permissive"), path, compression="zstd"
    )


def rows(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """The answers as flat rows."""
    for i, instruction in enumerate(predictions.instructions):
        for n, instance in enumerate(predictions.instances):
            width = len(instance.options)
            yield {
                "instance": instance.id,
                "template": instance.template,
                "group": instance.group,
                "condition": instance.condition,
                "instruction": i,
                "instruction_text": instruction,
                "options": list(instance.options),
                "gold": instance.gold,
                "unknown": instance.unknown,
                "stereotyped": instance.stereotyped,
                "choice": int(predictions.choice[i, n]),
                "log_likelihood": None
                if predictions.log_likelihood is None
                else predictions.log_likelihood[i, n, :width].tolist(),
                "tokens": None
                if predictions.n_tokens is None
                else predictions.n_tokens[i, n, :width].tolist(),
            }


def _states(result: RunResult) -> Iterator[tuple[dict[str, Any], Predictions]]:
    for task in result.tasks:
        base = {"task": task.task}
        yield {**base, "state": "original", "trial": None}, task.trials[0].original
        for trial in task.trials:
            yield {**base, "state": "patched", "trial": trial.number}, trial.patched
            for draw, control in enumerate(trial.controls):
                yield {**base, "state": f"control-{draw}", "trial": trial.number}, control
        if task.union is not None:
            yield {**base, "state": "union", "trial": None}, task.union


def _trial_record(trial: TrialResult) -> dict[str, Any]:
    return {
        "n": len(trial.patch),
        "curve": [asdict(point) for point in trial.curve],
        "split": trial.patch.provenance.get("split"),
        "find_prompts": trial.scores.n_prompts,
    }


def _scores(result: RunResult) -> dict[str, Any]:
    return {
        f"{task.task}/{trial.number}/{module}": values.astype("float32")
        for task in result.tasks
        for trial in task.trials
        for module, values in trial.scores.by_module.items()
    }


def _with_metrics(patch: Patch, result: RunResult) -> Patch:
    """The patch with what it did to the test split, beside how it was found."""
    measured: dict[str, Any] = {
        task.task: {name: value(METRICS[name], state) for name in METRICS}
        for task in result.tasks
        for state in [task.union or task.best.patched]
        if state.log_likelihood is not None
    }
    return replace(patch, provenance={**patch.provenance, "test_metrics": measured})


def _readme(result: RunResult) -> str:
    lines = [
        f"# excise run: {result.model} on {', '.join(task.task for task in result.tasks)}",
        "",
        f"{len(result.patch)} of {result.n_neurons:,} neurons excised. Values are shares from 0 "
        "to 1 (bias scores from -1 to 1); intervals are 95 % over question "
        "templates of the test split.",
        "",
        "| task | metric | original | patched | random control | difference | interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in result.tasks:
        for e in result.estimates([task]):
            controls = [c for c in e.controls if c is not None]
            mean = sum(controls) / len(controls) if controls else None
            cells = [_cell(v) for v in (e.original, e.patched, mean, e.difference)]
            interval = f"{_cell(e.low)} to {_cell(e.high)}"
            lines.append(f"| {task.task} | {e.metric} | {' | '.join(cells)} | {interval} |")
    lines += [
        "",
        "Files: `run.json` (configuration, digests, versions), `config.toml` (run it again with",
        "`excise run --config config.toml`), `results.json`, `items.parquet` (one row for each",
        "instance, instruction and state), `scores.safetensors` (all neuron scores), `patch/`.",
        "",
    ]
    return "\n".join(lines)


def _cell(number: float | None) -> str:
    return "undefined" if number is None else f"{number:.3f}"


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def save_patch_folder(patch: Patch, path: Path) -> None:
    """A patch alone, written at once.

    Raises:
        OutputError: the folder holds something, or cannot be written.
    """
    refuse_existing(path)
    with writing(path) as scratch:
        patch.save(scratch)
        finish(scratch, path)
