"""What one invocation shares: where it prints, and what it has written."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from excise.evidence import PartsFile


class Session:
    """Consoles of one invocation; rich is imported when something is printed."""

    def __init__(self) -> None:
        self.written: Path | None = None
        """The finished output folder, once there is one."""
        self.kept: PartsFile | Path | None = None
        """Finished parts of an evaluation that can go on, or the folder that they are for."""

    @cached_property
    def out(self) -> Console:
        """Standard output: results."""
        return _console(stderr=False)

    @cached_property
    def err(self) -> Console:
        """Standard error: progress and notes."""
        return _console(stderr=True)

    def show_notes(self) -> None:
        """Print what the library logs to standard error, above a running progress bar."""
        logger = logging.getLogger("excise")
        for handler in [h for h in logger.handlers if isinstance(h, _Notes)]:
            logger.removeHandler(handler)
        logger.addHandler(_Notes(self.err))
        logger.setLevel(logging.INFO)


class _Notes(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(f"excise: note: {record.getMessage()}", soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)
