"""One line of the table of tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from excise.types import AnyTask


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task that can be loaded by name."""

    name: str
    description: str
    """One line for tables."""
    licence: str
    rows: int
    """Number of instances."""
    load: Callable[[Path | None, Path | None], AnyTask]
    """Loads it, given the data folder and the user's instructions file (or None)."""
