"""What is known in advance: oracle responders that every metric must get right; what is at hand."""

from __future__ import annotations

from excise.doctor import classification, continuations, passages, questions, sentences
from excise.doctor.answering import RESPONDERS
from excise.doctor.environment import Finding, environment
from excise.doctor.oracle import Check, Oracle, Undefined, examine, unchecked

__all__ = [
    "RESPONDERS",
    "Check",
    "Finding",
    "Oracle",
    "Undefined",
    "environment",
    "examine",
    "oracles",
    "unchecked",
]


def oracles() -> tuple[Oracle, ...]:
    """Every responder to every synthetic benchmark; a new family of metrics is one more line."""
    return (
        *questions.oracles(),
        *classification.oracles(),
        *sentences.oracles(),
        *continuations.oracles(),
        *passages.oracles(),
    )
