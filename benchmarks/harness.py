"""The other side: EleutherAI's lm-evaluation-harness, `hf` backend, on the same token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from excise.models import LoadedModel
from excise.scoring import EncodedPrompt

BATCH = 16

Request = tuple[tuple[str, str], list[int], list[int]]


class Harness:
    """Scores (prompt, option) pairs, or an even sample of the batches it would make of them."""

    def __init__(self, loaded: LoadedModel) -> None:
        from lm_eval.models.huggingface import HFLM

        self._model = HFLM(
            pretrained=loaded.model,
            backend="seq2seq" if loaded.encoder_decoder else "causal",
            tokenizer=loaded.tokenizer,
            batch_size=BATCH,
        )

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[EncodedPrompt, int]]) -> list[float]:
        """Total log-likelihood in nats of each pair."""
        requests: list[Request] = [
            (("", f"{n}"), list(item.prompt), list(item.options[place]))
            for n, (item, place) in enumerate(pairs)
        ]
        answers: Any = self._model._loglikelihood_tokens(requests, disable_tqdm=True)
        return [float(value) for value, _ in answers]


def sampled(
    items: Sequence[EncodedPrompt], every: int
) -> tuple[list[tuple[EncodedPrompt, int]], float]:
    """Every n-th batch of the pairs in the order of the harness, the longest first.

    Its time is the sum over batches that do not depend on each other, so an even sample of whole
    batches costs as much a pair as all of them do.

    Returns:
        The pairs, and what their time is multiplied by (all tokens over the sample's).
    """
    pairs = [(item, place) for item in items for place in range(len(item.options))]
    pairs.sort(key=lambda pair: -_length(pair))
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    # From the middle of each stretch, so that neither the long nor the short ones lead.
    chosen = [pair for batch in batches[every // 2 :: every] for pair in batch]
    return chosen, sum(map(_length, pairs)) / sum(map(_length, chosen))


def _length(pair: tuple[EncodedPrompt, int]) -> int:
    return len(pair[0].prompt) + len(pair[0].options[pair[1]])
