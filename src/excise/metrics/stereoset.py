"""StereoSet: language modelling, stereotype and combined scores, canonical and prompted."""

from __future__ import annotations

from excise.metrics.metric import Metric

ENTRIES: tuple[Metric, ...] = ()
