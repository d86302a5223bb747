"""`evidence.json` and the minimal patch, put into a finished folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError

from excise.dissection.dissect import Dissection
from excise.errors import OutputError
from excise.evidence.manifest import update_manifest
from excise.patches import Adapter

EVIDENCE_FILE = "evidence.json"
MINIMAL_FOLDER = "minimal-patch"


def write_evidence(found: Dissection, folder: Path, adapter: Adapter | None = None) -> None:
    """Write both beside their targets, then rename; what an earlier dissection left is replaced.

    The digests of the folder's manifest are brought up to date, where it has one.

    Args:
        found: the dissection.
        folder: a run folder, or the folder of a patch.
        adapter: the minimal patch as a LoRA, written beside it.

    Raises:
        OutputError: no space, or no permission; the folder is as it was before.
        RunFolderError: the folder's manifest is damaged.
    """
    text = json.dumps(found.record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    file, patch = folder / EVIDENCE_FILE, folder / MINIMAL_FOLDER
    scratch_file, scratch_patch = folder / f".{EVIDENCE_FILE}", folder / f".{MINIMAL_FOLDER}"
    before = _files(folder, patch)
    try:
        shutil.rmtree(scratch_patch, ignore_errors=True)
        scratch_file.write_text(text, encoding="utf-8")
        found.minimal.save(scratch_patch, adapter)
        _swap(scratch_patch, patch, folder / f".{MINIMAL_FOLDER}.old")
        os.replace(scratch_file, file)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write {file}: {getattr(error, 'strerror', None) or error}; make room, or "
            "copy the folder to where you may write."
        ) from error
    finally:
        scratch_file.unlink(missing_ok=True)
        shutil.rmtree(scratch_patch, ignore_errors=True)
    update_manifest(folder, [EVIDENCE_FILE, *sorted(before | _files(folder, patch))])


def _swap(new: Path, target: Path, aside: Path) -> None:
    """Put a folder in the place of another, which comes back where that fails."""
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _files(folder: Path, inner: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in inner.rglob("*") if p.is_file()}
