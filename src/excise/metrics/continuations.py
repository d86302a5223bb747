"""HONEST, toxicity and regard: metrics of judged continuations."""

from __future__ import annotations

from excise.metrics.metric import Metric

ENTRIES: tuple[Metric, ...] = ()
