"""The outcome of one check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was recomputed."""

    name: str
    outcome: Literal["equal", "mismatch", "skipped"]
    compared: int
    """How many files, numbers or answers."""
    problems: tuple[str, ...] = ()
    """Every mismatch, in words."""
    note: str = ""
    """Why it was skipped, or how exact it is."""

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "problems": list(self.problems)}


def checked(name: str, compared: int, problems: Sequence[str], note: str = "") -> Check:
    """A check that was made."""
    return Check(name, "mismatch" if problems else "equal", compared, tuple(problems), note)


def skipped(name: str, reason: str) -> Check:
    """A check that could not be made."""
    return Check(name, "skipped", 0, (), reason)
