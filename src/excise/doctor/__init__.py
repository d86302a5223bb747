"""What is known in advance: oracle responders that every metric must get right; what is at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from excise.doctor import (
    classification,
    continuations,
    passages,
    pronouns,
    questions,
    sentences,
)
from excise.doctor.answering import NOBODY, RESPONDERS
from excise.doctor.machine import Finding, environment
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


_NOTHING = Undefined("no item counts")


def oracles() -> tuple[Oracle, ...]:
    """Every responder to every synthetic benchmark.

    A new family of metrics is one more line. To each benchmark comes a resample that draws none of
    its items, of which every metric must be undefined.
    """
    answered = (
        *questions.oracles(),
        *classification.oracles(),
        *sentences.oracles(),
        *pronouns.oracles(),
        *continuations.oracles(),
        *passages.oracles(),
    )
    benchmarks = dict.fromkeys(oracle.benchmark for oracle in answered)
    return (
        *answered,
        *(_uncounted([o for o in answered if o.benchmark == name]) for name in benchmarks),
    )


def _uncounted(several: Sequence[Oracle]) -> Oracle:
    """The responder of a benchmark with the most defined values, each item counted 0 times."""
    oracle = min(
        several, key=lambda o: sum(isinstance(value, Undefined) for value in o.expected.values())
    )
    return Oracle(
        oracle.benchmark,
        NOBODY,
        oracle.answers,
        dict.fromkeys(oracle.expected, _NOTHING),
        np.zeros(len(oracle.answers.instances)),
    )
