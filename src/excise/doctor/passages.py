"""Three passages of 4, 12 and 2 tokens over a vocabulary of eight.

The token that comes has some probability p, the other seven share the rest. In the original model
p is 1/2, unless a responder is the original itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log

import numpy as np
import torch

from excise.doctor import answering
from excise.doctor.oracle import Expectation, Oracle, Undefined
from excise.evaluation.passages import compared
from excise.types import Passage, Readings

TEXT = "Plain text"

_VOCABULARY = 8
_TEXTS = ("The rain fell.", "An hour later the whole street was under water.", "Ducks came.")
_LENGTHS = (4, 12, 2)
_TOKENS = sum(_LENGTHS)
_BYTES = sum(len(text.encode()) for text in _TEXTS)
_ORIGINAL = 1 / 2
_UNSCORED = Undefined("no token was scored")


def oracles() -> Iterator[Oracle]:
    """Every responder."""
    yield _oracle(answering.PERFECT, (1.0, 1.0, 1.0), perplexity=1.0, bits=0.0, divergence=0.0)
    # 1/2 goes to the token that comes instead of 1/8, and 1/14 to each of seven others.
    moved = _ORIGINAL * log(_ORIGINAL * 8) + 7 * (1 / 14) * log(1 / 14 * 8)
    yield _oracle(
        answering.UNIFORM,
        (1 / 8, 1 / 8, 1 / 8),
        perplexity=8.0,
        bits=3 * _TOKENS,
        divergence=moved,
    )
    # The longest passage as the uniform responder, the others as the original: 3 bits for each of
    # 12 tokens, 1 bit for each of 6.
    yield _oracle(
        answering.MIXED,
        (_ORIGINAL, 1 / 8, _ORIGINAL),
        perplexity=2 ** ((3 * 12 + 6) / 18),
        bits=3 * 12 + 6,
        divergence=moved * 12 / 18,
    )
    nothing = _readings((), ())
    yield Oracle(
        TEXT,
        answering.EMPTY,
        nothing,
        dict.fromkeys(("perplexity", "bits_per_byte", "kl_divergence"), _UNSCORED),
    )


def _oracle(
    responder: str,
    probability: Sequence[float],
    *,
    perplexity: float,
    bits: float,
    divergence: float,
) -> Oracle:
    expected: dict[str, Expectation] = {
        "perplexity": perplexity,
        "bits_per_byte": bits / _BYTES,
        "kl_divergence": divergence,
    }
    return Oracle(TEXT, responder, _readings(probability, _LENGTHS), expected)


def _readings(probability: Sequence[float], lengths: Sequence[int]) -> Readings:
    """Passages whose tokens come with some probability; without any, one passage of no tokens."""
    texts = _TEXTS[: len(lengths)] or ("",)
    totals = [_compared(p, length) for p, length in zip(probability, lengths, strict=True)] or [
        (0.0, 0.0)
    ]
    log_likelihood, divergence = np.array(totals, dtype=np.float64).T
    return Readings(
        tuple(Passage(str(n), text, str(n), str(n)) for n, text in enumerate(texts)),
        log_likelihood,
        n_tokens=np.array([*lengths] or [0], dtype=np.int64),
        n_bytes=np.array([len(text.encode()) for text in texts], dtype=np.int64),
        divergence=divergence,
        variant="synthetic",
    )


def _compared(probability: float, n: int) -> tuple[float, float]:
    targets = [place % _VOCABULARY for place in range(n)]
    original = None if probability == 1.0 else _logits(_ORIGINAL, targets)
    return compared(_logits(probability, targets), targets, original)


def _logits(probability: float, targets: Sequence[int]) -> torch.Tensor:
    rest = (1 - probability) / (_VOCABULARY - 1)
    rows = torch.full((len(targets), _VOCABULARY), log(rest) if rest else -1e4, dtype=torch.float64)
    rows[range(len(targets)), list(targets)] = log(probability)
    return rows
