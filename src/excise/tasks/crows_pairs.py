"""CrowS-Pairs: pairs of sentences, one of them more stereotypical."""

from __future__ import annotations

from excise.tasks.entry import TaskEntry

ENTRIES: tuple[TaskEntry, ...] = ()
"""The tasks of this family, for the table in `excise.tasks`."""
