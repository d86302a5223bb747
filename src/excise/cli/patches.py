"""Reading the patches that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path

from excise.patches import NEURONS_FILE, Patch


def joined(folders: Sequence[Path]) -> Patch:
    """The union of patch folders; a run folder stands for the patch inside it.

    Raises:
        PatchError: a patch is missing or malformed.
        PatchMismatchError: the patches belong to different models.
    """
    return reduce(or_, (Patch.load(_patch_folder(folder)) for folder in folders))


def _patch_folder(folder: Path) -> Path:
    inner = folder / "patch"
    return inner if (inner / NEURONS_FILE).is_file() else folder
