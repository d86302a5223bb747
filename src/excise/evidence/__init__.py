"""Evidence: run folders with configuration, digests, results and every answer."""

from excise.evidence.code import code_digest
from excise.evidence.folder import RunFolder
from excise.evidence.items import rows, write_items
from excise.evidence.journal import PartsFile, keeping, parts_path
from excise.evidence.manifest import (
    MANIFEST_FILE,
    FileProblem,
    check_manifest,
    fingerprint,
    update_manifest,
    write_manifest,
)
from excise.evidence.reading import StoredRun, kind_of, open_run
from excise.evidence.records import environment, provenance, results_record, run_record
from excise.evidence.writing import (
    RUN_FILE,
    finish,
    refuse_existing,
    save_patch_folder,
    writing,
)

__all__ = [
    "MANIFEST_FILE",
    "RUN_FILE",
    "FileProblem",
    "PartsFile",
    "RunFolder",
    "StoredRun",
    "check_manifest",
    "code_digest",
    "environment",
    "fingerprint",
    "finish",
    "keeping",
    "kind_of",
    "open_run",
    "parts_path",
    "provenance",
    "refuse_existing",
    "results_record",
    "rows",
    "run_record",
    "save_patch_folder",
    "update_manifest",
    "write_items",
    "write_manifest",
    "writing",
]
