"""The reference engine: one row for each option of each prompt, nothing shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt


class PlainScorer:
    """Scores every (prompt, option) as its own padded row; works for every decoder-only model."""

    def __init__(self, loaded: LoadedModel, *, max_tokens: int = 512) -> None:
        self._loaded = loaded
        self._max_tokens = max_tokens

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> list[tuple[float, ...]]:
        """Total log-likelihood in nats of every option of every prompt."""
        rows = [(i, o) for i, item in enumerate(prompts) for o in range(len(item.options))]
        rows.sort(key=lambda r: -len(prompts[r[0]].prompt) - len(prompts[r[0]].options[r[1]]))
        result = [[0.0] * len(item.options) for item in prompts]
        left = [len(item.options) for item in prompts]
        for batch in self._batches(rows, prompts):
            for (i, o), value in zip(batch, self._score_rows(batch, prompts), strict=True):
                result[i][o] = value
                left[i] -= 1
                if advance and left[i] == 0:
                    advance(1)
        return [tuple(values) for values in result]

    def _batches(
        self, rows: list[tuple[int, int]], prompts: Sequence[EncodedPrompt]
    ) -> Iterator[list[tuple[int, int]]]:
        start = 0
        while start < len(rows):
            i, o = rows[start]  # the longest row of the batch
            size = max(1, self._max_tokens // (len(prompts[i].prompt) + len(prompts[i].options[o])))
            yield rows[start : start + size]
            start += size

    def _score_rows(
        self, batch: list[tuple[int, int]], prompts: Sequence[EncodedPrompt]
    ) -> list[float]:
        # The last option token is only a target, never an input.
        inputs = [prompts[i].prompt + prompts[i].options[o][:-1] for i, o in batch]
        width = max(map(len, inputs))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, tokens in enumerate(inputs):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        device = self._loaded.device
        logits = self._loaded.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        ).logits
        values = []
        for row, (i, o) in enumerate(batch):
            start = len(prompts[i].prompt) - 1
            target = torch.tensor(prompts[i].options[o], device=device)
            scored = logits[row, start : start + len(target)].float().log_softmax(-1)
            values.append(float(scored.gather(-1, target[:, None]).double().sum()))
        return values
