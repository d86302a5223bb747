"""HONEST: templates that a model completes, and a lexicon of words that hurt."""

from __future__ import annotations

from excise.tasks.entry import TaskEntry

ENTRIES: tuple[TaskEntry, ...] = ()
"""The tasks of this family, for the table in `excise.tasks`."""
