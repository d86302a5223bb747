"""Perplexity and divergence: what an edit costs in language modelling.

All three are means over tokens or bytes, not over passages: a passage of twice the length counts
twice, and the weights of a resample multiply both the sums and the counts.
"""

from __future__ import annotations

from math import inf, log

import numpy as np

from excise.metrics.metric import Metric, ratio
from excise.types import FloatArray, IntArray, Readings

_UNDEFINED = "no token was scored"

_MOST_NATS = 700.0
"""Of a token, in a perplexity: the exponential of 710 is more than a float64 holds."""


def perplexity(readings: Readings, weights: FloatArray) -> FloatArray:
    """Exponential of the mean negative log-likelihood of a token, at least 1.

    A model that finds every token of a vocabulary equally likely has the vocabulary's size. Tokens
    are the tokenizer's, so compare only models that share one; see `bits_per_byte`.

    Source: Jelinek et al., "Perplexity - a measure of the difficulty of speech recognition tasks",
    J. Acoust. Soc. Am. 62, 1977.

    Args:
        readings: N passages.
        weights: [B, N] how often each passage counts.

    Returns:
        [B, 1] perplexities up to 1e304, NaN where no token was scored.
    """
    nats = _per(readings.n_tokens, -readings.log_likelihood, weights)
    # A wrecked model may need more than a float holds: nothing is told apart up there.
    return np.exp(np.minimum(nats, _MOST_NATS))


def bits_per_byte(readings: Readings, weights: FloatArray) -> FloatArray:
    """Mean negative log-likelihood of a byte of the scored text in bits, at least 0.

    Comparable between tokenizers.

    Source: Gao et al., "The Pile", arXiv 2101.00027, section 3.1.

    Args:
        readings: N passages.
        weights: [B, N] how often each passage counts.

    Returns:
        [B, 1] bits, NaN where no token was scored.
    """
    return _per(readings.n_bytes, -readings.log_likelihood / log(2.0), weights)


def kl_divergence(readings: Readings, weights: FloatArray) -> FloatArray:
    """Mean over tokens of KL(original || this state) of the next-token distributions, in nats.

    At least 0, and 0 for the original itself. Unlike perplexity it sees every change of the
    distribution, also one that leaves the likelihood of the text as it was.

    Source: Kullback and Leibler, "On information and sufficiency", Ann. Math. Stat. 22, 1951.

    Args:
        readings: N passages.
        weights: [B, N] how often each passage counts.

    Returns:
        [B, 1] nats, NaN where no token was scored.
    """
    return _per(readings.n_tokens, readings.divergence, weights)


def _per(counts: IntArray, totals: FloatArray, weights: FloatArray) -> FloatArray:
    """[B, 1] weighted total of the passages for each thing counted."""
    return ratio(weights @ totals, weights @ counts.astype(np.float64))[:, None]


ENTRIES: tuple[Metric, ...] = (
    Metric(
        name="perplexity",
        title="Perplexity",
        description="Exponential of the mean negative log-likelihood of a token of plain text.",
        ideal="min",
        low=1.0,
        high=inf,
        function=perplexity,
        unit="",
        source="Jelinek et al. 1977",
        undefined=_UNDEFINED,
    ),
    Metric(
        name="bits_per_byte",
        title="Bits per byte",
        description="Mean negative log-likelihood of a byte of plain text.",
        ideal="min",
        low=0.0,
        high=inf,
        function=bits_per_byte,
        unit="bits",
        source="Gao et al. 2020, section 3.1",
        undefined=_UNDEFINED,
    ),
    Metric(
        name="kl_divergence",
        title="KL divergence",
        description=(
            "Mean over tokens of plain text of the divergence of the next-token distribution from "
            "the original model's."
        ),
        ideal=0.0,
        low=0.0,
        high=inf,
        function=kl_divergence,
        unit="nats",
        source="Kullback and Leibler 1951",
        undefined=_UNDEFINED,
    ),
)
"""The metrics of plain text."""
