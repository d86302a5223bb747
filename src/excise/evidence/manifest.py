"""`files.json`: the sha256 of every file of a folder, so that a changed byte is found and named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from excise.errors import OutputError, RunFolderError

MANIFEST_FILE = "files.json"
_VERSION = 1


@dataclass(frozen=True)
class FileProblem:
    """One file that is not what the manifest says."""

    file: str
    """Path inside the folder, with `/`."""
    what: str
    """In words."""


def write_manifest(folder: Path) -> None:
    """Write the digests of all files that are in a folder now.

    Raises:
        OSError: no space, or no permission.
    """
    names = sorted(_files(folder))
    _write(folder, {name: _entry(folder / name) for name in names})


def update_manifest(folder: Path, names: Iterable[str]) -> None:
    """Take over files that were written into a finished folder, such as a report.

    The entries of all other files stay as they are, so that a change to them is still found.
    Nothing happens in a folder without a manifest.

    Args:
        folder: the folder.
        names: paths inside it, with `/`; a file that is gone loses its entry.

    Raises:
        RunFolderError: the manifest is damaged.
        OutputError: no space, or no permission.
    """
    if not (folder / MANIFEST_FILE).is_file():
        return
    files = _read(folder)
    for name in names:
        files.pop(name, None)
        if (folder / name).is_file():
            files[name] = _entry(folder / name)
    try:
        _write(folder, files)
    except OSError as error:
        raise OutputError(f"cannot write {folder / MANIFEST_FILE}: {error.strerror}.") from error


def check_manifest(folder: Path) -> list[FileProblem]:
    """Compare every file with the manifest; empty where all bytes are as they were written.

    Files that the manifest does not list are named too, and so is a manifest whose own text was
    touched.

    Raises:
        RunFolderError: there is no manifest, or it is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise RunFolderError(
            f"{folder} has no {MANIFEST_FILE}: it was written by an older excise, or the file was "
            "removed; its files cannot be checked."
        )
    files = _read(folder)
    problems = []
    if path.read_bytes() != _text(files).encode():
        problems.append(FileProblem(MANIFEST_FILE, "not as it was written"))
    found = set(_files(folder))
    for name, expected in files.items():
        if name not in found:
            problems.append(FileProblem(name, "missing"))
            continue
        entry = _entry(folder / name)
        if entry != expected:
            size = (
                ""
                if entry["bytes"] == expected["bytes"]
                else (f", {entry['bytes']} bytes in place of {expected['bytes']}")
            )
            problems.append(FileProblem(name, f"changed (sha256 differs{size})"))
    problems += [FileProblem(name, "not in the manifest") for name in sorted(found - files.keys())]
    return problems


def fingerprint(folder: Path) -> str:
    """sha256 of the manifest: one number that stands for every byte of the folder.

    Raises:
        RunFolderError: there is no manifest.
    """
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunFolderError(f"cannot read {folder / MANIFEST_FILE}: {error.strerror}.") from error


def _files(folder: Path) -> Iterable[str]:
    for path in folder.rglob("*"):
        if path.is_file() and path != folder / MANIFEST_FILE:
            yield path.relative_to(folder).as_posix()


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version, files = document["schema_version"], dict(document["files"])
        whole = all({"sha256", "bytes"} == entry.keys() for entry in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged, so no file can be checked: {error}.") from error
    if version != _VERSION or not whole:
        raise RunFolderError(f"{path} is damaged or of a newer excise (version {version!r}).")
    return files


def _text(files: dict[str, Any]) -> str:
    ordered = {name: files[name] for name in sorted(files)}
    document = {"schema_version": _VERSION, "files": ordered}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _write(folder: Path, files: dict[str, Any]) -> None:
    scratch = folder / f".{MANIFEST_FILE}"
    scratch.write_text(_text(files), encoding="utf-8")
    os.replace(scratch, folder / MANIFEST_FILE)
