"""How much work a fit takes, counted on its way to whoever watches."""

from __future__ import annotations

from excise.progress import Progress


class Counted:
    """Passes progress on and counts the work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.work = 0
        """Work so far, in units of one scored prompt."""

    def plan(self, total: int) -> None:
        """Leave the plan alone: it is that of the whole comparison."""

    def stage(self, title: str) -> None:
        """Pass the stage on."""
        self._progress.stage(title)

    def advance(self, amount: int) -> None:
        """Count the work and pass it on."""
        self.work += amount
        self._progress.advance(amount)
