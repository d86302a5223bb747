"""Evidence: run folders with configuration, digests, results and every answer."""

from excise.evidence.folder import RunFolder
from excise.evidence.items import rows, write_items
from excise.evidence.journal import PartsFile, keeping, parts_path
from excise.evidence.records import environment, provenance, results_record, run_record
from excise.evidence.writing import (
    RUN_FILE,
    finish,
    refuse_existing,
    save_patch_folder,
    writing,
)

__all__ = [
    "RUN_FILE",
    "PartsFile",
    "RunFolder",
    "environment",
    "finish",
    "keeping",
    "parts_path",
    "provenance",
    "refuse_existing",
    "results_record",
    "rows",
    "run_record",
    "save_patch_folder",
    "write_items",
    "writing",
]
