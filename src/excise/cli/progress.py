"""Progress on standard error: a bar on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from excise.cli.session import Session
from excise.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress


@contextmanager
def watching(session: Session, *, quiet: bool = False) -> Iterator[Progress]:
    """The progress that fits where standard error goes.

    Args:
        session: the invocation.
        quiet: show nothing.
    """
    if quiet:
        yield Silent()
        return
    session.show_notes()
    if not session.err.is_terminal:
        yield Lines(session.err)
        return
    with _bar(session.err) as bar:
        yield Bar(bar)


class Bar:
    """A bar with stage, percentage, elapsed and remaining time."""

    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)
        self._planned = False

    def plan(self, total: int) -> None:
        """Take over the amount of work; the clock of the estimate starts here."""
        self._planned = True
        self._bar.reset(self._task, total=total)

    def stage(self, title: str) -> None:
        """Name the stage."""
        self._bar.update(self._task, description=title)

    def advance(self, amount: int) -> None:
        """Move the bar; before the plan is known it only pulses."""
        if self._planned:
            self._bar.advance(self._task, amount)


class Lines:
    """One line for each stage, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._total = 0
        self._done = 0

    def plan(self, total: int) -> None:
        """Take over the amount of work."""
        self._total, self._done = total, 0

    def stage(self, title: str) -> None:
        """Print the stage with the time and the share of the work so far."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        share = f", {min(100 * self._done // self._total, 100)} %" if self._total else ""
        self._console.print(f"excise: [{minutes}:{seconds:02}{share}] {title}", soft_wrap=True)

    def advance(self, amount: int) -> None:
        """Count the work."""
        self._done += amount


def _bar(console: Console) -> RichProgress:
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    ellipsis = Column(ratio=3, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=ellipsis),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=4,
        # Stages differ in pace: an estimate over the last seconds would jump.
        speed_estimate_period=600,
    )
