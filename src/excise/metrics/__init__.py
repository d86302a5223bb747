"""Metrics of answers, in one registry.

To add one, write a pure function of answers and weights (see `excise.metrics.metric`), put it into
the `ENTRIES` of its module, and name it in the `metrics` of the tasks that it applies to;
evaluation, statistics and reports pick it up by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from excise.errors import UnknownNameError
from excise.metrics import (
    choice,
    continuations,
    crows_pairs,
    glue,
    stereoset,
    stereoset_choice,
    text,
    winobias,
)
from excise.metrics.metric import Metric, MetricFunction, evaluate_metric, spread, value
from excise.types import AnyTask

__all__ = [
    "CHOICE",
    "METRICS",
    "Metric",
    "MetricFunction",
    "evaluate_metric",
    "metric_named",
    "metrics_of",
    "spread",
    "value",
]

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for module in (
            choice,
            glue,
            stereoset,
            stereoset_choice,
            crows_pairs,
            winobias,
            continuations,
            text,
        )
        for metric in module.ENTRIES
    }
)
"""Every metric by name, in the order of tables."""

CHOICE: tuple[str, ...] = tuple(metric.name for metric in choice.ENTRIES)
"""The metrics of tasks that name none: BBQ, and the user's own."""


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Args:
        name: A key of `METRICS`.

    Returns:
        The metric.

    Raises:
        UnknownNameError: No metric has that name.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise UnknownNameError("metric", name, METRICS) from None


def metrics_of(task: AnyTask) -> tuple[Metric, ...]:
    """The metrics that apply to a task, in the order of its tables."""
    return tuple(metric_named(name) for name in task.metrics or CHOICE)
