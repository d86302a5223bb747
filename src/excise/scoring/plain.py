"""The reference engine: one row for each option of each prompt, nothing shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt
from excise.scoring.memory import Budget, budget, in_batches
from excise.scoring.reusing import scoring
from excise.scoring.rows import log_likelihoods, only_rows


class PlainScorer:
    """Scores every (prompt, option) as its own padded row; works for every decoder-only model."""

    def __init__(
        self, loaded: LoadedModel, *, max_tokens: int = 768, max_memory_mib: int = 1024
    ) -> None:
        self._loaded = loaded
        self._budget = budget(loaded, max_tokens=max_tokens, max_memory_mib=max_memory_mib)

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> list[tuple[float, ...]]:
        """Total log-likelihood in nats of every option of every prompt."""
        # The last option token is only a target, never an input.
        rows = [
            (i, o, item.prompt + option[:-1], len(option))
            for i, item in enumerate(prompts)
            for o, option in enumerate(item.options)
        ]
        rows.sort(key=lambda row: -len(row[2]))
        result = [[0.0] * len(item.options) for item in prompts]
        left = [len(item.options) for item in prompts]

        def take(start: int, limit: Budget) -> int:
            """Rows are as wide as the first; positions that are scored are bounded too."""
            size = max(1, limit.tokens // len(rows[start][2]))
            scored = 0
            for count, row in enumerate(rows[start : start + size]):
                scored += row[3]
                if scored > limit.rows:
                    return max(1, count)
            return size

        for batch, values in in_batches(
            range(len(rows)),
            self._budget,
            take,
            lambda batch: self._score_rows([rows[k] for k in batch], prompts),
            lambda batch: len(batch) * len(rows[batch[0]][2]),
        ):
            for k, value in zip(batch, values, strict=True):
                i, o = rows[k][:2]
                result[i][o] = value
                left[i] -= 1
                if advance and left[i] == 0:
                    advance(1)
        return [tuple(values) for values in result]

    def _score_rows(
        self,
        batch: Sequence[tuple[int, int, tuple[int, ...], int]],
        prompts: Sequence[EncodedPrompt],
    ) -> list[float]:
        width = max(len(inputs) for _, _, inputs, _ in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        places: list[int] = []
        targets: list[int] = []
        for row, (i, o, inputs, scored) in enumerate(batch):
            ids[row, : len(inputs)] = torch.tensor(inputs)
            mask[row, : len(inputs)] = 1
            first = row * width + len(inputs) - scored
            places.extend(range(first, first + scored))
            targets.extend(prompts[i].options[o])
        device = self._loaded.device
        under_way = scoring(self._loaded, ids.numpy(), mask.numpy())
        with (
            only_rows(self._loaded.model, torch.tensor(places, device=device)),
            under_way.forward(0, ids.numel()),
        ):
            logits = self._loaded.model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).logits[0]
        under_way.finished()
        at = torch.arange(len(targets), device=device)
        values = log_likelihoods(logits, at, torch.tensor(targets, device=device))
        sizes = [scored for *_, scored in batch]
        return [float(part.sum()) for part in torch.split(values, sizes)]
