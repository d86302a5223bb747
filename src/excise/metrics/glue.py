"""Metrics of the classification tasks that show what an edit costs."""

from __future__ import annotations

from excise.metrics.metric import Metric

ENTRIES: tuple[Metric, ...] = ()
