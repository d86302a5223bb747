"""Finished parts of a long evaluation, kept until its folder is written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from excise import parallel
from excise.errors import OutputError
from excise.evidence.code import code_digest
from excise.evidence.writing import remove_leftovers
from excise.types import FloatArray


class PartsFile:
    """An append-only file of parts by key; a line that was cut off is not a part.

    Tables of numbers lie in a folder beside it, one safetensors file each, named by their key.
    Parts of another version of this package are not taken over.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._arrays = path.with_suffix("")
        self._parts: dict[str, Any] = {}
        whole = 0
        for line in file:
            try:
                entry = json.loads(line)
                if entry["code"] != _CODE:
                    break
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
        entry = {"key": key, "code": _CODE, "value": value}
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _full(self._path, error) from error
        self._parts[key] = value

    def get_arrays(self, key: str) -> Mapping[str, FloatArray] | None:
        """The arrays that were kept under a key, or None."""
        if key not in self._parts:
            return None
        try:
            return {
                name: np.asarray(values, dtype=np.float64)
                for name, values in load_file(self._arrays / f"{key}.safetensors").items()
            }
        except (OSError, SafetensorError):
            return None  # removed or damaged by somebody: computed again

    def put_arrays(self, key: str, arrays: Mapping[str, FloatArray]) -> None:
        """Keep arrays under a key, bit for bit; they survive a kill right after.

        Args:
            key: a name that may be a file's.
            arrays: name -> float64.

        Raises:
            OutputError: no space left.
        """
        path = self._arrays / f"{key}.safetensors"
        scratch = path.with_suffix(".scratch")
        try:
            self._arrays.mkdir(exist_ok=True)
            with scratch.open("wb") as file:
                file.write(save({name: np.ascontiguousarray(v) for name, v in arrays.items()}))
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except OSError as error:
            raise _full(path, error) from error
        self.put(key, None)

    def contents(self) -> tuple[dict[str, Any], dict[str, Mapping[str, FloatArray]]]:
        """All parts, and the arrays among them."""
        arrays = {key: kept for key in self._parts if (kept := self.get_arrays(key)) is not None}
        return self._parts, arrays

    def take_over(self, parts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Keep what another process has kept, so that both leave out the same work."""
        for key, value in parts.items():
            if key in self._parts:
                continue
            if key in arrays:
                self.put_arrays(key, arrays[key])
            else:
                self.put(key, value)
        self.found = len(parts)

    def close(self, *, remove: bool) -> None:
        """Remove what was kept, if asked to or if it is nothing."""
        if remove or not (self._parts or self._path.stat().st_size):
            # The list goes first: arrays without it are found by nobody.
            self._path.unlink(missing_ok=True)
            shutil.rmtree(self._arrays, ignore_errors=True)


_CODE = code_digest()[:16]


def _full(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror}; what was finished before is kept, "
        "make room and run the same command again."
    )


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
    path, made_parent = parts_path(out), not out.parent.exists()
    file = _locked(path, out)
    finished, parts = False, None
    try:
        remove_leftovers(out)
        file.seek(0)
        parts = PartsFile(file, path)
        if parallel.size() > 1:
            parts.take_over(*parallel.from_leader(parts.contents()))
        yield parts
        finished = True
    finally:
        # Still locked: nobody can have started to append to what is removed.
        if parts is not None:
            parts.close(remove=finished)
        with suppress(OSError):  # what a full disk did not take is tried again
            file.close()
        if made_parent:
            with suppress(OSError):  # it is empty only if nothing was kept or written
                out.parent.rmdir()


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
