"""The seam for scoring engines: prompts with options in, log-likelihoods out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt
from excise.scoring.plain import PlainScorer
from excise.scoring.prefix_tree import PrefixTreeScorer
from excise.scoring.seq2seq import Seq2SeqScorer

Advance = Callable[[int], None]
"""Called with the number of prompts just finished."""


class Scorer(Protocol):
    """An engine that scores options; all engines agree within 1e-4 in float32."""

    def score(
        self, prompts: Sequence[EncodedPrompt], advance: Advance | None = None
    ) -> list[tuple[float, ...]]:
        """Total log-likelihood in nats of every option of every prompt, in the given order."""
        ...


def scorer_for(loaded: LoadedModel, *, max_tokens: int = 768, max_memory_mib: int = 1024) -> Scorer:
    """The fastest engine that is exact for this model.

    Args:
        loaded: the model.
        max_tokens: most tokens forwarded at once.
        max_memory_mib: memory in MiB for activations and logits, beside the weights; fewer tokens
            are forwarded at once where it asks for that.
    """
    if loaded.encoder_decoder:
        return Seq2SeqScorer(loaded, max_tokens=max_tokens, max_memory_mib=max_memory_mib)
    if loaded.branches:
        return PrefixTreeScorer(loaded, max_tokens=max_tokens, max_memory_mib=max_memory_mib)
    return PlainScorer(loaded, max_tokens=max_tokens, max_memory_mib=max_memory_mib)
