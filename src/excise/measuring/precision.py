"""What another precision would have answered: the same items to the same states of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from excise.config import Dtype, RunConfig
from excise.errors import ConfigError, UnknownNameError
from excise.evaluation import Journal
from excise.measuring.measure import Measured, measure
from excise.patches import Patch
from excise.progress import Progress
from excise.types import Answers, Continuations, FloatArray, Predictions, Readings

_DTYPES = get_args(Dtype)


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far the answers of one state of the model are from those in another precision."""

    task: str
    state: str
    dtype: str
    """Of the evaluation."""
    other: str
    """What it is compared with."""
    answers: int
    """Items times instructions; texts of generated continuations; 0 for plain text."""
    differ: int
    """Of these, choices or texts that are not the same."""
    largest_nats: float | None
    """Largest difference of the log-likelihood of an option or a passage; None where answers were
    generated."""


def check_other_dtype(config: RunConfig, other: str) -> None:
    """Refuse a precision that there is nothing to compare with.

    Raises:
        UnknownNameError: no precision of that name.
        ConfigError: that of the evaluation itself.
    """
    if other not in _DTYPES:
        raise UnknownNameError("dtype", other, _DTYPES)
    if other == config.dtype:
        raise ConfigError(
            f"both sides are {other}: give --dtype or --compare-dtype another precision."
        )


def deviations(
    measured: Sequence[Measured],
    config: RunConfig,
    other: str,
    patch: Patch | None = None,
    progress: Progress | None = None,
    *,
    force: bool = False,
    journal: Journal | None = None,
) -> tuple[Deviation, ...]:
    """Ask everything again in another precision, and count what differs.

    Args:
        measured: what `measure` gave with the other arguments.
        config: model, tasks, and how they are asked.
        other: `float32`, `bfloat16` or `float16`.
        patch: as in `measure`.
        progress: who watches.
        force: as in `measure`.
        journal: as in `measure`; parts are kept for each precision.

    Returns:
        One for each task and state.

    Raises:
        ExciseError: see `excise.errors`.
    """
    check_other_dtype(config, other)
    again = measure(
        config.model_copy(update={"dtype": other}), patch, progress, force=force, journal=journal
    )
    return tuple(
        _deviation(entry.task.name, state, config.dtype, other, answers, reference.states[state])
        for entry, reference in zip(measured, again, strict=True)
        for state, answers in entry.states.items()
    )


def recorded(found: Sequence[Deviation]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Task -> state -> numbers, as JSON values."""
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in found:
        rows.setdefault(one.task, {})[one.state] = {
            "dtype": one.dtype,
            "other_dtype": one.other,
            "answers": one.answers,
            "differ": one.differ,
            "largest_difference_nats": one.largest_nats,
        }
    return rows


def _deviation(
    task: str, state: str, dtype: str, other: str, answers: Answers, reference: Answers
) -> Deviation:
    count = differ = 0
    largest = None
    if isinstance(answers, Predictions) and isinstance(reference, Predictions):
        count = answers.choice.size
        differ = int((answers.choice != reference.choice).sum())
        largest = _largest(answers.log_likelihood, reference.log_likelihood)
    elif isinstance(answers, Continuations) and isinstance(reference, Continuations):
        pairs = [
            (one, two)
            for texts in zip(answers.texts, reference.texts, strict=True)
            for one, two in zip(*texts, strict=True)
        ]
        count, differ = len(pairs), sum(one != two for one, two in pairs)
    elif isinstance(answers, Readings) and isinstance(reference, Readings):
        largest = _largest(answers.log_likelihood, reference.log_likelihood)
    return Deviation(task, state, dtype, other, count, differ, largest)


def _largest(values: FloatArray | None, others: FloatArray | None) -> float | None:
    if values is None or others is None:
        return None
    return float(np.nanmax(np.abs(values - others)))  # options that are missing are NaN
