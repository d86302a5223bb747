"""RealToxicityPrompts: beginnings of sentences, continued and judged for toxicity."""

from __future__ import annotations

from excise.tasks.entry import TaskEntry

ENTRIES: tuple[TaskEntry, ...] = ()
"""The tasks of this family, for the table in `excise.tasks`."""
