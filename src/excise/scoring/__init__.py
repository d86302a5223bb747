"""Scoring: the log-likelihood of every option given the prompt."""

from excise.scoring.encoding import EncodedPrompt, encode, prompt_text
from excise.scoring.reusing import KeptStates, reusing
from excise.scoring.scorer import Advance, Scorer, scorer_for

__all__ = [
    "Advance",
    "EncodedPrompt",
    "KeptStates",
    "Scorer",
    "encode",
    "prompt_text",
    "reusing",
    "scorer_for",
]
