"""Encoder-decoder engine: the encoder runs once a prompt, the decoder once over all its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers.modeling_outputs import BaseModelOutput

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt


class Seq2SeqScorer:
    """Scores all options of a prompt as branches behind one encoder pass."""

    def __init__(self, loaded: LoadedModel, *, max_tokens: int = 512) -> None:
        self._loaded = loaded
        self._max_tokens = max_tokens

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> list[tuple[float, ...]]:
        """Total log-likelihood in nats of every option of every prompt."""
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].prompt))
        result: list[tuple[float, ...]] = [()] * len(prompts)
        start = 0
        while start < len(order):
            size = max(1, self._max_tokens // len(prompts[order[start]].prompt))
            batch = order[start : start + size]
            for i, values in zip(batch, self._score([prompts[i] for i in batch]), strict=True):
                result[i] = values
            if advance:
                advance(len(batch))
            start += size
        return result

    def _score(self, batch: Sequence[EncodedPrompt]) -> list[tuple[float, ...]]:
        return [
            tuple(float(total) for total in tokens.double().sum(-1))
            for tokens in token_log_likelihoods(self._loaded, batch)
        ]


def token_log_likelihoods(
    loaded: LoadedModel, batch: Sequence[EncodedPrompt]
) -> list[torch.Tensor]:
    """Token log-likelihoods of all options, the end token included; differentiable.

    Returns:
        Per prompt, [options, longest option] in nats, zero where an option has no token.
    """
    device = loaded.device
    ids, mask = pad([item.prompt for item in batch])
    encoded = loaded.model.get_encoder()(
        input_ids=ids.to(device), attention_mask=mask.to(device)
    ).last_hidden_state
    sizes = [len(item.options) for item in batch]
    repeats = torch.tensor(sizes, device=device)
    options = [option for item in batch for option in item.options]
    start = loaded.model.config.decoder_start_token_id
    inputs, _ = pad([(start, *option[:-1]) for option in options])
    targets, kept = pad(options)
    logits = loaded.model(
        encoder_outputs=BaseModelOutput(
            last_hidden_state=encoded.repeat_interleave(repeats, dim=0)
        ),
        attention_mask=mask.to(device).repeat_interleave(repeats, dim=0),
        decoder_input_ids=inputs.to(device),
        use_cache=False,
    ).logits
    scored = logits.float().log_softmax(-1).gather(-1, targets.to(device)[..., None])[..., 0]
    return list((scored * kept.to(device)).split(sizes))


def pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both [rows, longest]."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask
