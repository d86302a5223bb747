"""Plain text: a file of the user, or sentences of a benchmark, for perplexity."""

from __future__ import annotations

from excise.tasks.entry import TaskEntry

ENTRIES: tuple[TaskEntry, ...] = ()
"""The tasks of this family, for the table in `excise.tasks`."""
