"""BOLD: beginnings of encyclopedia articles on people, continued and judged for regard."""

from __future__ import annotations

from excise.tasks.entry import TaskEntry

ENTRIES: tuple[TaskEntry, ...] = ()
"""The tasks of this family, for the table in `excise.tasks`."""
