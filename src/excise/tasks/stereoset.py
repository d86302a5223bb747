"""StereoSet: stereotype, anti-stereotype or nonsense? By likelihood, and as a prompted choice."""

from __future__ import annotations

from excise.tasks.entry import TaskEntry

ENTRIES: tuple[TaskEntry, ...] = ()
"""The tasks of this family, for the table in `excise.tasks`."""
