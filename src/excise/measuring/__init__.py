"""Measure tasks of any kind, original and patched, and record what came out."""

from excise.measuring.measure import Measured, measure
from excise.measuring.precision import Deviation, check_other_dtype, deviations
from excise.measuring.record import record
from excise.measuring.writing import write

__all__ = [
    "Deviation",
    "Measured",
    "check_other_dtype",
    "deviations",
    "measure",
    "record",
    "write",
]
