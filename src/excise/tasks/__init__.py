"""Tasks: a dataset with its instructions and its prompt layout, ready to ask.

A new task is one file with `ENTRIES` beside this one, and one line in `TASKS` below.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from excise.errors import UnknownNameError
from excise.tasks import (
    bbq,
    crows_pairs,
    glue,
    honest,
    regard,
    stereoset,
    stereoset_choice,
    testbed,
    texts,
    toxicity,
    user,
    winobias,
)
from excise.tasks.entry import TaskEntry
from excise.types import AnyTask

__all__ = ["TASKS", "TaskEntry", "load_task", "task_names"]

TASKS: Mapping[str, TaskEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            *bbq.ENTRIES,  # one line per family of tasks
            *glue.ENTRIES,
            *stereoset.ENTRIES,
            *stereoset_choice.ENTRIES,
            *crows_pairs.ENTRIES,
            *winobias.ENTRIES,
            *honest.ENTRIES,
            *toxicity.ENTRIES,
            *regard.ENTRIES,
            *texts.ENTRIES,
            *testbed.ENTRIES,
        )
    }
)
"""Every task that can be loaded by name."""


def task_names() -> tuple[str, ...]:
    """Names of all tasks, in the order of the table."""
    return tuple(TASKS)


def load_task(
    name: str | Path, *, data_dir: Path | None = None, instructions: Path | None = None
) -> AnyTask:
    """Load a task.

    Args:
        name: A name of the table, or the path of the user's own file: `.jsonl`, `.json` or `.csv`
            with questions, `.txt` or `.md` with plain text.
        data_dir: Folder with the benchmark files; see `excise.sources.fetch`.
        instructions: The user's instructions, `.toml` or `.txt`, in place of the task's ten.

    Raises:
        UnknownNameError: There is no such task.
        TaskFormatError: The user's file is malformed.
        ConfigError: The data folder or the instructions make no sense.
        DataUnavailableError: The benchmark's files are neither on disk nor can they be fetched.
    """
    entry = TASKS.get(str(name))
    if entry is not None:
        return entry.load(data_dir, instructions)
    path = Path(name).expanduser()
    if path.suffix.lower() in texts.SUFFIXES:
        return texts.load(path)
    if path.suffix.lower() in user.SUFFIXES or path.exists():
        return user.load(path, instructions)
    raise UnknownNameError("task", str(name), TASKS)
