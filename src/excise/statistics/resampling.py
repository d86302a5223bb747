"""Draws of question templates, and a metric's value under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from excise.types import Answers, FloatArray, IntArray

MetricFunction = Callable[[Any, FloatArray], FloatArray]
"""From answers and weights [B, N] to values [B, I], NaN where undefined."""

CHUNK_ENTRIES = 4_000_000
"""Weights held at a time, 32 MB: memory does not grow with the number of resamples."""


def template_weights(templates: Sequence[str], n_resamples: int, seed: int) -> FloatArray:
    """How often each instance counts when templates are drawn with replacement.

    Args:
        templates: [N] template of each instance.
        n_resamples: B, the number of resamples.
        seed: Start of the random numbers; equal seeds give equal weights.

    Returns:
        [B, N] non-negative whole numbers; all instances of a template share one.

    Raises:
        ValueError: There is no instance, or no resample.
    """
    if not templates or n_resamples < 1:
        raise ValueError("need at least 1 instance and 1 resample")
    (index,), n_templates = template_index([templates])
    generator = np.random.default_rng([seed, 0])
    draws = template_counts(n_templates, len(templates), n_resamples, generator)
    return np.concatenate([counts[:, index] for counts in draws])


def template_counts(
    n_templates: int, n_instances: int, n_resamples: int, generator: np.random.Generator
) -> Iterator[FloatArray]:
    """Chunks [b, T]: how often each template is drawn; the chunks leave the draws unchanged."""
    for rows in chunks(n_resamples, max(n_instances, n_templates)):
        drawn = generator.integers(n_templates, size=(len(rows), n_templates))
        cells = drawn + n_templates * np.arange(len(rows))[:, None]
        counts = np.bincount(cells.ravel(), minlength=len(rows) * n_templates)
        yield counts.reshape(len(rows), n_templates).astype(np.float64)


def chunks(n_rows: int, width: int) -> Iterator[range]:
    """Ranges of rows of which each holds at most `CHUNK_ENTRIES` entries."""
    size = max(1, CHUNK_ENTRIES // max(width, 1))
    for start in range(0, n_rows, size):
        yield range(start, min(start + size, n_rows))


def template_index(templates: Sequence[Sequence[str]]) -> tuple[list[IntArray], int]:
    """Position of each instance's template among all of them sorted, and how many there are."""
    position = {name: i for i, name in enumerate(sorted(set(chain.from_iterable(templates))))}
    index = [np.array([position[name] for name in each], dtype=np.int64) for each in templates]
    return index, len(position)


def point(function: MetricFunction, answers: Answers) -> float:
    """The metric with every instance counted once, NaN where undefined."""
    weights = np.ones((1, len(answers.instances)))
    return float(over_instructions(function(answers, weights))[0])


def over_instructions(values: FloatArray) -> FloatArray:
    """[B] mean of [B, I] over the defined instructions, NaN where there is none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    n_defined = defined.sum(axis=1)
    means = np.full(len(values), np.nan)
    np.divide(total, n_defined, out=means, where=n_defined > 0)
    return means


def optional(value: float) -> float | None:
    """None in place of NaN."""
    return None if np.isnan(value) else float(value)
