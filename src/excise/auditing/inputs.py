"""Were data, splits, instructions and questions those that the folder names?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from excise.auditing.outcome import Check, checked
from excise.config import RunConfig
from excise.evidence import StoredRun
from excise.questioning import TestQuestions
from excise.splits import digest, sample, split_instances
from excise.types import AnyTask, Task


def check_inputs(stored: StoredRun, tasks: Mapping[str, AnyTask], config: RunConfig) -> list[Check]:
    """Three checks for each task: its data, its splits and questions, its instructions.

    Args:
        stored: the folder.
        tasks: the tasks as they load now.
        config: the folder's configuration.
    """
    found = []
    for name, entry in stored.run["tasks"].items():
        task = tasks.get(name)
        if task is None:
            found += [checked(f"data of {name}", 1, ["there is no such task any more"])] * 3
            continue
        now, then = task.digest, entry["data_digest"]
        problems = [] if now == then else [f"sha256 {now}, recorded {then}"]
        found.append(checked(f"data of {name}", 1, problems))
        found.append(_questions(stored, task, entry, config))
        found.append(_instructions(task, entry, config))
    return found


def asked_of(task: AnyTask, stored: StoredRun, config: RunConfig) -> tuple[Any, ...]:
    """The items that the folder's verb asks of a task."""
    if stored.kind == "run":
        assert isinstance(task, Task)
        return TestQuestions.of(task, config).instances
    return sample(task.instances, config.limit, seed=config.split_seed, unit="block")


def _questions(
    stored: StoredRun, task: AnyTask, entry: Mapping[str, Any], config: RunConfig
) -> Check:
    problems = []
    trials: Sequence[Mapping[str, Any]] = entry.get("trials", ())
    for number, trial in enumerate(trials):
        assert isinstance(task, Task)
        split = split_instances(
            task.instances, by=config.split_by, seed=config.split_seed, trial=number
        )
        recorded = trial.get("split") or {}
        for part in ("find", "tune", "test"):
            now, then = digest(getattr(split, part)), recorded.get(part)
            if then is not None and now != then:
                problems.append(f"trial {number}, {part}: sha256 {now}, recorded {then}")
    ids = [item.id for item in asked_of(task, stored, config)]
    rows = stored.rows(task.name, "original", None)
    written = list(dict.fromkeys(rows["instance"].to_pylist()))
    if ids != written:
        differ = len(set(ids) ^ set(written))
        problems.append(
            f"{differ} items are asked by one side only"
            if differ
            else "the items are asked in another order"
        )
    return checked(f"splits and questions of {task.name}", 3 * len(trials) + len(ids), problems)


def _instructions(task: AnyTask, entry: Mapping[str, Any], config: RunConfig) -> Check:
    now, then = list(task.instructions[: config.test_instructions]), list(entry["instructions"])
    problems = [
        f"instruction {number + 1}: {one!r}, recorded {other!r}"
        for number, (one, other) in enumerate(zip(now, then, strict=False))
        if one != other
    ]
    if len(now) != len(then):
        problems.append(f"{len(now)} instructions, recorded {len(then)}")
    layout = getattr(task, "prompt_format", "")
    if entry.get("prompt_format", layout) != layout:
        problems.append(f"prompt format {layout!r}, recorded {entry['prompt_format']!r}")
    return checked(f"instructions of {task.name}", len(then), problems)
