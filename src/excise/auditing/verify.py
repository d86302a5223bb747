"""Recompute a run folder: files, metrics, digests, and answers of the model asked again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

from excise import __version__
from excise.auditing.answers import check_answers
from excise.auditing.inputs import check_inputs
from excise.auditing.numbers import differences
from excise.auditing.outcome import Check, checked, skipped
from excise.auditing.rebuilding import metric_names, rebuilt, trial_patch
from excise.errors import ExciseError, NonFiniteError, RunFolderError
from excise.evidence import (
    MANIFEST_FILE,
    StoredRun,
    check_manifest,
    code_digest,
    environment,
    fingerprint,
    kind_of,
    open_run,
    results_record,
)
from excise.metrics import METRICS, value
from excise.pipeline import load_model, load_tasks
from excise.progress import Progress, Silent

__all__ = ["Check", "Verification", "verify"]


@dataclass(frozen=True)
class Verification:
    """What was recomputed, and what differed."""

    path: Path
    kind: Literal["run", "evaluation"]
    fingerprint: str | None
    """sha256 of `files.json`, which stands for every byte; None where there is none."""
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """What is not the same as when the folder was written, and need not be."""

    @property
    def equal(self) -> bool:
        """Whether nothing that was checked differed."""
        return all(check.outcome != "mismatch" for check in self.checks)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "folder": str(self.path),
            "kind": self.kind,
            "equal": self.equal,
            "fingerprint": self.fingerprint,
            "checks": [check.record() for check in self.checks],
            "notes": list(self.notes),
            "excise": __version__,
        }


def verify(
    path: str | Path,
    *,
    files_only: bool = False,
    sample: int | None = None,
    seed: int = 0,
    model: str | None = None,
    data_dir: str | None = None,
    device: str | None = None,
    loaded_model: Any = None,
    tokenizer: Any = None,
    progress: Progress | None = None,
) -> Verification:
    """Recompute what a folder claims.

    First the sha256 of every file, then every metric and interval out of the stored answers, and
    the kept patch out of the trials'. Then, with data and model at hand, the digests of data,
    splits, instructions and weights, and the answers of original, patched and control models.
    Choices and token counts must be equal, log-likelihoods within `answers.TOLERANCE`.

    Args:
        path: a folder of `excise run`, or of `excise evaluate --out` (of which only the original
            model's answers can be asked again: it holds no patch).
        files_only: leave out all that needs the data or the model.
        sample: ask that many random items of each task again; all by default.
        seed: decides which.
        model: where the model is now, if not where it was.
        data_dir: where the benchmark files are now.
        device: where to compute now.
        loaded_model: an already loaded `PreTrainedModel`, instead of a name.
        tokenizer: its tokenizer.
        progress: who watches.

    Raises:
        RunFolderError: the folder is none of ours, or of a newer version.
        ExciseError: data or model are not at hand; see `excise.errors`.
    """
    path, progress = Path(path), progress or Silent()
    if kind_of(path) not in ("run", "evaluation"):
        open_run(path, evaluation=True)  # says what it is
    progress.stage("checking files")
    files = _files(path)
    mark = fingerprint(path) if (path / MANIFEST_FILE).is_file() else None
    try:
        stored = open_run(path, evaluation=True)
        progress.stage("recomputing metrics")
        checks = [files, *_metrics(stored)]
        if stored.kind == "run":
            checks.append(_patch(stored))
    except ExciseError as error:
        if files.outcome != "mismatch":
            raise
        # The changed file is named already; what it broke is a consequence.
        kind: Any = kind_of(path)
        return Verification(path, kind, mark, (files, skipped("everything else", str(error))), ())
    notes = _notes(stored)
    if files_only:
        return Verification(path, stored.kind, mark, tuple(checks), notes)
    config = stored.config.model_copy(
        update={
            name: given
            for name, given in (("model", model), ("data_dir", data_dir), ("device", device))
            if given is not None
        }
    )
    if device is not None:
        config = config.model_copy(update={"device_map": None})
    progress.stage("loading the data")
    tasks = {task.name: task for task in load_tasks(config)}
    checks += check_inputs(stored, tasks, config)
    progress.stage("loading the model")
    loaded = load_model(config, loaded_model, tokenizer)
    expected = stored.run["model"]["digest"]
    weights = checked(
        "model weights",
        1,
        [] if loaded.digest == expected else [f"sha256 {loaded.digest}, recorded {expected}"],
    )
    checks.append(weights)
    if all(check.outcome == "equal" for check in checks[-len(tasks) * 3 - 1 :]):
        checks += check_answers(stored, loaded, tasks, config, sample, seed, progress)
    else:
        checks.append(skipped("answers", "model, data or questions are not those of the run"))
    return Verification(path, stored.kind, mark, tuple(checks), notes)


def _files(path: Path) -> Check:
    try:
        problems = check_manifest(path)
    except RunFolderError as error:
        if kind_of(path) == "evaluation" or _first_schema(path):
            return skipped("files", str(error))
        return checked("files", 0, [str(error)])
    count = sum(1 for file in path.rglob("*") if file.is_file())
    return checked("files", count, [f"{problem.file}: {problem.what}" for problem in problems])


def _first_schema(path: Path) -> bool:
    try:
        return bool(open_run(path).run["schema_version"] == 1)
    except RunFolderError:
        return False


def _metrics(stored: StoredRun) -> Iterator[Check]:
    """Values of metrics; then intervals and tests, which belong to a version of the code."""
    if stored.kind == "evaluation":
        yield checked("metrics", len(stored.results["results"]), list(_values(stored)))
        return
    recorded, recomputed = stored.results, results_record(rebuilt(stored))
    size = sum(len(rows) for rows in recorded["paired"].values())
    values = {name: recorded[name] for name in ("results", "n-samples")}
    values["paired"] = _only(recorded, _VALUES)
    yield checked("metrics", size, list(differences(values, recomputed)))
    judged = {name: recorded[name] for name in ("paired", "changes") if name in recorded}
    found = list(differences(judged, recomputed))
    if found and stored.run.get("code", {}).get("digest") != code_digest():
        reason = f"{len(found)} numbers differ, but other code computed them; install its version"
        yield skipped("intervals", reason)
    else:
        yield checked("intervals", size, found)


_VALUES = ("metric", "original", "patched", "difference", "controls")
"""Of a paired difference, what no version of the statistics may change."""


def _only(document: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {
        task: [{name: row[name] for name in names if name in row} for row in rows]
        for task, rows in document["paired"].items()
    }


def _values(stored: StoredRun) -> Iterator[str]:
    """Of an evaluation: the values of metrics of choices, without intervals."""
    for task, state, _ in stored.states:
        row = stored.results["results"].get(task, {})
        names = [n for n in metric_names(stored, task) if f"{n},{state}" in row and n in METRICS]
        try:
            answers = stored.predictions(task, state)
        except RunFolderError:
            continue  # no choices between options
        for name in names:
            try:
                number = value(METRICS[name], answers)
            except NonFiniteError:
                number = None
            yield from differences(row[f"{name},{state}"], number, f"{task}: {name},{state}")


def _patch(stored: StoredRun) -> Check:
    best = [trial_patch(stored, task, stored.best_trial(task)) for task in stored.tasks]
    expected, kept = reduce(or_, best), stored.patch
    problems = []
    if dict(kept.by_neuron) != dict(expected.by_neuron):
        problems.append("patch/: not the union of the best trials' patches")
    if kept.base_digest != stored.run["model"]["digest"]:
        problems.append("patch/: made on other weights than those of run.json")
    return checked("patch", len(best), problems)


def _notes(stored: StoredRun) -> tuple[str, ...]:
    notes = []
    code = stored.run.get("code", {}).get("digest")
    if code != code_digest():
        then = f"excise {stored.run.get('excise')}, code {str(code)[:12]}"
        notes.append(f"written by {then}; this is excise {__version__}, code {code_digest()[:12]}.")
    now = environment()
    for name, then in stored.run.get("environment", {}).items():
        if now.get(name) != then:
            notes.append(f"{name} was {then}, is {now.get(name, 'missing')}.")
    return tuple(notes)
