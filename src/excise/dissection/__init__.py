"""Dissection: what the excised neurons are, and how sure that is."""

from excise.dissection.dissect import Dissection, dissect
from excise.dissection.subjects import Subject, of_patch, of_run, subject
from excise.dissection.writing import EVIDENCE_FILE, MINIMAL_FOLDER, write_evidence

__all__ = [
    "EVIDENCE_FILE",
    "MINIMAL_FOLDER",
    "Dissection",
    "Subject",
    "dissect",
    "of_patch",
    "of_run",
    "subject",
    "write_evidence",
]
