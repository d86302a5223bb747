"""Metrics of the classification tasks: GLUE's F1, and the gold option's probability over all items.

Retention is read off these tasks: what an edit made against bias costs in accuracy elsewhere.
"""

from __future__ import annotations

import numpy as np

from excise.metrics import probability
from excise.metrics.metric import Metric, count, ratio
from excise.types import FloatArray, Predictions

POSITIVE = 0
"""Index of the option that stands for the positive class."""


def f1(predictions: Predictions, weights: FloatArray) -> FloatArray:
    """F1 of the positive class, 0..1: 2 * TP / (2 * TP + FP + FN).

    The positive class is the option at index `POSITIVE` of every instance. A generated answer that
    matched no option is no prediction of it: a miss where the gold option is positive, and no false
    alarm where it is not.

    Source: GLUE (Wang et al., ICLR 2019, section 3.2), which reports it for MRPC.

    Args:
        predictions: Answers to N instances under I instructions.
        weights: [B, N] how often each instance counts.

    Returns:
        [B, I] values; 0 where only misses and false alarms are left, NaN where no instance is
        positive and none was called so.
    """
    said = predictions.choice == POSITIVE
    true = np.broadcast_to(predictions.gold == POSITIVE, said.shape)
    # TP + FP are the answers "positive", TP + FN the positive instances.
    return ratio(2.0 * count(said & true, weights), count(said, weights) + count(true, weights))


ENTRIES: tuple[Metric, ...] = (
    Metric(
        name="f1",
        title="F1",
        description="Harmonic mean of precision and recall of the first option, the positive one.",
        ideal="max",
        low=0.0,
        high=1.0,
        function=f1,
        unit="%",
        source="Wang et al., GLUE, ICLR 2019, section 3.2",
        undefined="no item is positive and none was called so",
    ),
    Metric(
        name="gold_probability",
        title="P(gold)",
        description="Mean probability of the gold option's text over all items.",
        ideal="max",
        low=0.0,
        high=1.0,
        function=probability.gold_probability,
        unit="%",
        source="Yang et al., arXiv 2311.09627v1, table 2",
        undefined="answers were generated, not scored",
    ),
    Metric(
        name="gold_share",
        title="Share of gold",
        description="Mean share of the gold option in the probability of all options, all items.",
        ideal="max",
        low=0.0,
        high=1.0,
        function=probability.gold_share,
        unit="%",
        undefined="answers were generated, not scored",
    ),
)
"""The metrics of this family, for the table in `excise.metrics`."""
