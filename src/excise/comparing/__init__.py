"""Mitigation methods side by side: same splits, prompts, metrics and retention tasks."""

from excise.comparing.comparison import Comparison, State, compare
from excise.comparing.record import record
from excise.comparing.retention import default_retention
from excise.comparing.writing import write

__all__ = ["Comparison", "State", "compare", "default_retention", "record", "write"]
