"""report.html in a run folder, or wherever a reader wants it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from excise.errors import OutputError
from excise.evidence import open_run
from excise.evidence.manifest import update_manifest
from excise.report.comparison import comparison
from excise.report.report import report

REPORT_FILE = "report.html"


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run.

    Args:
        folder: a run folder.
        out: the file to write; `report.html` in the folder by default.

    Returns:
        The file.

    Raises:
        RunFolderError: it is no run folder, or something in it is damaged.
        OutputError: the file cannot be written.
    """
    target = Path(out) if out else Path(folder) / REPORT_FILE
    _write(report(open_run(folder)), target)
    if target.resolve() == (Path(folder) / REPORT_FILE).resolve():
        update_manifest(Path(folder), [REPORT_FILE])
    return target


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page that compares several runs.

    Args:
        folders: run folders, at least two.
        out: the file to write.

    Returns:
        The file.

    Raises:
        ConfigError: the runs share no task, or one is given twice.
        RunFolderError: one is no run folder, or something in it is damaged.
        OutputError: the file cannot be written.
    """
    _write(comparison([open_run(folder) for folder in folders]), Path(out))
    return Path(out)


def _write(text: str, path: Path) -> None:
    """Replace a file at once: a reader never sees half a page."""
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            errors="backslashreplace",
            dir=path.parent,
            prefix=f".{path.name}-",
            delete=False,
        ) as file:
            scratch = Path(file.name)
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        scratch.chmod(0o666 & ~mask)  # scratch files start as private ones
        scratch.replace(path)
    except OSError as error:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path}: {error.strerror}; the page that was there before is unchanged."
        ) from error
