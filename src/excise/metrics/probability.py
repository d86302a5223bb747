"""Probability of the gold option, outright and among the options.

Answers change only where two options swap ranks; these metrics also show movement below that.
They need option log-likelihoods and are undefined (NaN) in generation mode.
"""

from __future__ import annotations

import numpy as np

from excise.metrics.metric import mean
from excise.types import BoolArray, FloatArray, Predictions


def gold_probability(predictions: Predictions, weights: FloatArray) -> FloatArray:
    """Mean P(gold) over all instances, 0..1; see `gold_probability_ambiguous`."""
    return _gold_probability(predictions, _all(predictions), weights)


def gold_probability_ambiguous(predictions: Predictions, weights: FloatArray) -> FloatArray:
    """Mean P(gold) over ambiguous contexts, 0..1: the exponential of its total log-likelihood.

    Source: CRISPR v1 (Yang et al., arXiv 2311.09627v1), table 2, "mean logits", read as 100 times
    a probability. Longer options have smaller probabilities, so compare only within one task.

    Args:
        predictions: Answers to N instances under I instructions.
        weights: [B, N] how often each instance counts.

    Returns:
        [B, I] means, NaN where no instance qualifies or nothing was scored.

    Raises:
        NonFiniteError: A gold option that counts has no finite probability.
    """
    return _gold_probability(predictions, predictions.ambiguous, weights)


def gold_probability_disambiguated(predictions: Predictions, weights: FloatArray) -> FloatArray:
    """Mean P(gold) over contexts that decide the answer; see `gold_probability_ambiguous`."""
    return _gold_probability(predictions, predictions.disambiguated, weights)


def gold_share(predictions: Predictions, weights: FloatArray) -> FloatArray:
    """Mean share of P(gold) over all instances, 0..1; see `gold_share_ambiguous`."""
    return _gold_share(predictions, _all(predictions), weights)


def gold_share_ambiguous(predictions: Predictions, weights: FloatArray) -> FloatArray:
    """Mean over ambiguous contexts of P(gold) divided by the sum of P over the options, 0..1.

    The softmax of the total log-likelihoods over the instance's own options: unlike P(gold) it
    does not sink when the model puts its mass on texts that are no option.

    Args:
        predictions: Answers to N instances under I instructions.
        weights: [B, N] how often each instance counts.

    Returns:
        [B, I] means, NaN where no instance qualifies or nothing was scored.

    Raises:
        NonFiniteError: A gold option that counts has no finite share.
    """
    return _gold_share(predictions, predictions.ambiguous, weights)


def gold_share_disambiguated(predictions: Predictions, weights: FloatArray) -> FloatArray:
    """Mean share of P(gold) over contexts that decide the answer; see `gold_share_ambiguous`."""
    return _gold_share(predictions, predictions.disambiguated, weights)


def _all(predictions: Predictions) -> BoolArray:
    return np.ones(len(predictions.instances), dtype=np.bool_)


def _gold_probability(
    predictions: Predictions, among: BoolArray, weights: FloatArray
) -> FloatArray:
    if predictions.log_likelihood is None:
        return _undefined(predictions, weights)
    gold = _of_gold(predictions.log_likelihood, predictions)
    return mean(np.exp(gold), among, weights, predictions)


def _gold_share(predictions: Predictions, among: BoolArray, weights: FloatArray) -> FloatArray:
    if predictions.log_likelihood is None:
        return _undefined(predictions, weights)
    log_likelihood = predictions.log_likelihood
    n_options = np.array([len(i.options) for i in predictions.instances], dtype=np.int64)
    present = np.arange(log_likelihood.shape[-1]) < n_options[:, None]
    padded = np.where(present, log_likelihood, -np.inf)
    # Shifting by the largest keeps exp from underflowing for long options; where every option has
    # P = 0 the shift is not finite and the share becomes NaN, which `mean` refuses.
    largest = padded.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        relative = np.exp(padded - largest)
        shares = _of_gold(relative, predictions) / relative.sum(axis=-1)
    return mean(shares, among, weights, predictions)


def _of_gold(values: FloatArray, predictions: Predictions) -> FloatArray:
    """[I, N] the entry of the gold option out of [I, N, C]."""
    return np.take_along_axis(values, predictions.gold[None, :, None], axis=-1)[..., 0]


def _undefined(predictions: Predictions, weights: FloatArray) -> FloatArray:
    return np.full((len(weights), len(predictions.instructions)), np.nan, dtype=np.float64)
