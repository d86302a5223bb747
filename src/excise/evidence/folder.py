"""The run folder: everything to read, reuse and recompute a run, written at once or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from excise.config import to_toml
from excise.evidence.items import states, write_items
from excise.evidence.journal import PartsFile, keeping
from excise.evidence.records import results_record, run_record
from excise.evidence.writing import RUN_FILE, finish, refuse_existing, writing
from excise.metrics import METRICS, value
from excise.patches import Adapter, Patch
from excise.progress import Progress
from excise.results import RunResult


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

    @contextmanager
    def resuming(self, progress: Progress) -> Iterator[PartsFile]:
        """Hold the folder's lock, and what an interrupted run has finished, while a run goes on.

        Args:
            progress: told how much there is to take over.

        Raises:
            OutputError: another process is writing the same folder.
        """
        with keeping(self.path) as parts:
            refuse_existing(self.path)  # another process may just have finished it
            if parts.found:
                progress.stage(f"going on after {parts.found} finished parts")
            yield parts

    def write(self, result: RunResult, adapter: Adapter | None = None) -> None:
        """Write all files beside the target, then rename.

        Args:
            result: what the run found.
            adapter: its patch as a LoRA.

        Raises:
            OutputError: no space, or no permission; nothing is left behind.
        """
        refuse_existing(self.path)
        with writing(self.path) as scratch:
            (scratch / RUN_FILE).write_text(_json(run_record(result)), encoding="utf-8")
            results = results_record(result)
            (scratch / "results.json").write_text(_json(results), encoding="utf-8")
            (scratch / "config.toml").write_text(to_toml(result.config), encoding="utf-8")
            (scratch / "README.md").write_text(_readme(result, results["paired"]), encoding="utf-8")
            write_items(states(result), scratch / "items.parquet")
            save_file(_scores(result), scratch / "scores.safetensors")
            _with_metrics(result.patch, result).save(scratch / "patch", adapter)
            if len(result.tasks) > 1 or len(result.tasks[0].trials) > 1:
                for task in result.tasks:
                    for trial in task.trials:
                        name = f"{Path(task.task).stem}-trial-{trial.number}"
                        trial.patch.save(scratch / "patches" / name)
            finish(scratch, self.path, manifest=True)


def _scores(result: RunResult) -> dict[str, Any]:
    return {
        f"{task.task}/{trial.number}/{module}": values.astype("float32")
        for task in result.tasks
        for trial in task.trials
        if trial.scores is not None
        for module, values in trial.scores.by_module.items()
    }


def _with_metrics(patch: Patch, result: RunResult) -> Patch:
    """The patch with what it did to the test split, beside how it was found."""
    measured: dict[str, Any] = {
        task.task: {name: value(METRICS[name], state) for name in task.metrics}
        for task in result.tasks
        for state in [task.union or task.best.patched]
        if state.log_likelihood is not None
    }
    return replace(patch, provenance={**patch.provenance, "test_metrics": measured})


def _readme(result: RunResult, paired: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        f"# excise run: {result.model} on {', '.join(task.task for task in result.tasks)}",
        "",
        f"{len(result.patch)} of {result.n_neurons:,} neurons excised. Values are shares from 0 "
        "to 1 (bias scores from -1 to 1); intervals are "
        f"{100 * result.config.statistics.level:g} % over question templates of the test split.",
        "",
        "| task | metric | original | patched | random control | difference | interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, estimates in paired.items():
        for e in estimates:
            controls = [c for c in e["controls"] if c is not None]
            mean = sum(controls) / len(controls) if controls else None
            cells = [_cell(v) for v in (e["original"], e["patched"], mean, e["difference"])]
            interval = f"{_cell(e['low'])} to {_cell(e['high'])}"
            lines.append(f"| {name} | {e['metric']} | {' | '.join(cells)} | {interval} |")
    lines += [
        "",
        "Files: `run.json` (configuration, digests, versions), `config.toml` (run it again with",
        "`excise run --config config.toml`), `results.json`, `items.parquet` (one row for each",
        "instance, instruction and state), `scores.safetensors` (all neuron scores), `patch/`,",
        "`files.json` (sha256 of every file). `excise verify` recomputes all of it.",
        "",
    ]
    return "\n".join(lines)


def _cell(number: float | None) -> str:
    return "undefined" if number is None else f"{number:.3f}"


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
