"""Perplexity and divergence: what an edit costs in language modelling."""

from __future__ import annotations

from excise.metrics.metric import Metric

ENTRIES: tuple[Metric, ...] = ()
