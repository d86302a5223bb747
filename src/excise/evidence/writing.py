"""Output folders: written beside their target and renamed, or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from excise.errors import OutputError
from excise.evidence.manifest import write_manifest
from excise.patches import Adapter, Patch

RUN_FILE = "run.json"
"""Marks a folder as a run folder."""


def refuse_existing(path: Path) -> None:
    """Refuse an output folder that holds something.

    Raises:
        OutputError: it does.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        kind = "an earlier run" if (path / RUN_FILE).is_file() else "not one of ours"
        raise OutputError(f"{path} exists and is {kind}; give another --out, or remove it.")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A scratch folder beside the target, gone afterwards unless it was renamed.

    Raises:
        OutputError: no space, or no permission.
    """
    scratch, made_parent = None, not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
        yield scratch
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; no part of it was left behind. Make room, or give "
            "another --out, and run the same command again."
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        if made_parent:
            with suppress(OSError):  # it is there, and empty, only if nothing was written
                path.parent.rmdir()


def _prefix(path: Path) -> str:
    return f".{path.name}.writing-"


def remove_leftovers(path: Path) -> None:
    """Remove scratch folders that a killed process left; nobody else may be writing `path`."""
    for scratch in path.parent.glob(f"{glob.escape(_prefix(path))}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def finish(scratch: Path, path: Path, *, manifest: bool = False) -> None:
    """Rename a filled scratch folder to its target.

    Args:
        scratch: the filled folder.
        path: its target.
        manifest: write the digests of its files into `files.json` first.
    """
    if manifest:
        write_manifest(scratch)
    _open_to_readers(scratch)
    if path.exists():
        path.rmdir()  # empty, or refuse_existing had spoken
    scratch.rename(path)


def _open_to_readers(folder: Path) -> None:
    """Give the usual permissions; scratch folders and safetensors files start as private ones."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def save_patch_folder(patch: Patch, path: Path, adapter: Adapter | None = None) -> None:
    """A patch alone, with its LoRA if that is given, written at once.

    Raises:
        OutputError: the folder holds something, or cannot be written.
    """
    refuse_existing(path)
    with writing(path) as scratch:
        patch.save(scratch, adapter)
        finish(scratch, path)
