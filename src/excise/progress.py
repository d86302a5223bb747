"""What a long run tells whoever watches; the library itself prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the plan and the progress of a run."""

    def plan(self, total: int) -> None:
        """Total work of the run, in units of one scored prompt."""
        ...

    def stage(self, title: str) -> None:
        """What is being done now."""
        ...

    def advance(self, amount: int) -> None:
        """Work just finished."""
        ...


class Silent:
    """A progress that nobody watches."""

    def plan(self, total: int) -> None:
        """Ignore the plan."""

    def stage(self, title: str) -> None:
        """Ignore the stage."""

    def advance(self, amount: int) -> None:
        """Ignore the work."""
