"""CrowS-Pairs: how often the more stereotypical of two sentences is the likelier one."""

from __future__ import annotations

from excise.metrics.metric import Metric

ENTRIES: tuple[Metric, ...] = ()
