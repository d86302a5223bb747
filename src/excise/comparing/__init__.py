"""Mitigation methods side by side: same splits, prompts, metrics and retention tasks."""

from excise.comparing.comparison import Comparison, State, compare
from excise.comparing.record import record
from excise.comparing.retention import DEFAULT as DEFAULT_RETENTION
from excise.comparing.writing import write

__all__ = ["DEFAULT_RETENTION", "Comparison", "State", "compare", "record", "write"]
