"""Audits of finished folders: recompute one, compare two, hold one against limits."""

from excise.auditing.diff import Difference, TaskDifference, diff
from excise.auditing.gate import Decision, Gate, Limit, gate
from excise.auditing.verify import Check, Verification, verify

__all__ = [
    "Check",
    "Decision",
    "Difference",
    "Gate",
    "Limit",
    "TaskDifference",
    "Verification",
    "diff",
    "gate",
    "verify",
]
