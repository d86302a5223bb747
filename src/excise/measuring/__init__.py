"""Measure tasks of any kind, original and patched, and record what came out."""

from excise.measuring.measure import Measured, measure
from excise.measuring.record import record
from excise.measuring.writing import write

__all__ = ["Measured", "measure", "record", "write"]
