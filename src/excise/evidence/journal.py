"""Finished parts of a long evaluation, kept until its folder is written."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from excise.errors import OutputError


class PartsFile:
    """An append-only file of parts by key; a line that was cut off is not a part."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._parts: dict[str, Any] = {}
        whole = 0
        for line in file:
            try:
                entry = json.loads(line)
                self._parts[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                break  # cut off by a kill or a full disk: everything before it counts
            whole += len(line)
        file.seek(whole)
        file.truncate()
        self.found = len(self._parts)
        """Parts that an earlier, interrupted evaluation left."""

    def get(self, key: str) -> Any | None:
        """What was kept under a key, or None."""
        return self._parts.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep JSON values under a key; they survive a kill right after.

        Raises:
            OutputError: no space left.
        """
        line = json.dumps({"key": key, "value": value}, separators=(",", ":")) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; what was finished before is kept, "
                "make room and run the same command again."
            ) from error
        self._parts[key] = value


def parts_path(out: Path) -> Path:
    """Where the parts of an evaluation into `out` are kept: a hidden file beside it."""
    return out.parent / f".{out.name}.parts.jsonl"


@contextmanager
def keeping(out: Path) -> Iterator[PartsFile]:
    """The parts for an output folder; the file is removed once the folder has been written.

    Args:
        out: the folder that will be written.

    Raises:
        OutputError: another process is writing the same folder, or the file cannot be made.
    """
    path = parts_path(out)
    file = _locked(path, out)
    finished = False
    try:
        file.seek(0)
        parts = PartsFile(file, path)
        yield parts
        finished = True
    finally:
        # Still locked: nobody can have started to append to what is removed.
        if finished or path.stat().st_size == 0:
            path.unlink(missing_ok=True)
        file.close()


def _locked(path: Path, out: Path) -> IO[bytes]:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise OutputError(
                f"another process is writing {out}; wait for it, or give another --out."
            ) from error
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()  # another process finished and removed it just before the lock was had
