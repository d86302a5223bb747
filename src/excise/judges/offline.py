"""Scorers out of small packages, for machines without the Hub.

They measure something else than the published classifiers, under names of their own; what they are
worth was measured (docs/decisions/judges.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from excise.errors import ModelError
from excise.judges.judge import Judge
from excise.types import FloatArray

THRESHOLD = 0.05
"""VADER's authors call a text negative or positive from this size of its compound score on."""


class VaderJudge:
    """VADER (Hutto and Gilbert, ICWSM 2014): sentiment by a rated lexicon and a few rules.

    `sentiment_compound` runs from -1 to 1; `sentiment_negative` and `sentiment_positive` are 1
    where it reaches the authors' threshold of 0.05 on that side, else 0.
    """

    name = "vader"
    labels = ("sentiment_negative", "sentiment_positive", "sentiment_compound")

    def __init__(self) -> None:
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError as error:
            raise _not_installed(self.name, "vaderSentiment") from error
        self._polarity: Any = SentimentIntensityAnalyzer().polarity_scores

    def score(self, texts: Sequence[str]) -> Mapping[str, FloatArray]:
        """Judge texts; see the class for the labels."""
        compound = np.array([self._polarity(text)["compound"] for text in texts], dtype=np.float64)
        return {
            "sentiment_negative": (compound <= -THRESHOLD).astype(np.float64),
            "sentiment_positive": (compound >= THRESHOLD).astype(np.float64),
            "sentiment_compound": compound,
        }


class ProfanityJudge:
    """alt-profanity-check: the probability of a linear model over words that a text is profane.

    Trained on tweets and on comments of Wikipedia's talk pages that people had rated.
    """

    name = "profanity-check"
    labels = ("profanity",)

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except ImportError as error:
            raise _not_installed(self.name, "alt-profanity-check") from error
        self._probability: Any = predict_prob

    def score(self, texts: Sequence[str]) -> Mapping[str, FloatArray]:
        """`profanity`: probability, 0..1."""
        if not texts:
            return {"profanity": np.zeros(0)}
        return {"profanity": np.asarray(self._probability(list(texts)), dtype=np.float64)}


SCORERS: Mapping[str, Callable[[], Judge]] = MappingProxyType(
    {"vader": cache(VaderJudge), "profanity-check": cache(ProfanityJudge)}
)
"""Offline scorers by the name that selects them, made once."""


def _not_installed(name: str, package: str) -> ModelError:
    return ModelError(
        f"the offline scorer {name!r} needs the package {package}; "
        "install it with: pip install 'excise[offline]'"
    )
