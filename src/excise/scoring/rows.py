"""Logits at the positions that are scored, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_AT_ONCE = 32
"""Rows normalised at once: their copy in float32 stays small."""


@contextmanager
def only_rows(model: Any, rows: torch.Tensor) -> Iterator[None]:
    """Let a model's head see some positions only, for one forward pass.

    Args:
        model: a transformers model with a language-model head.
        rows: [r] positions in the flattened batch x tokens; the logits become [1, r, vocabulary].
    """

    def choose(_head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[rows.to(hidden.device)][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def widened(logits: torch.Tensor) -> torch.Tensor:
    """Logits in float32 at least, as they are normalised; those in float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def log_likelihoods(
    logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Log-likelihood of tokens.

    Args:
        logits: [r, vocabulary].
        rows: [s] rows of `logits`, in any order.
        targets: [s] tokens.

    Returns:
        [s] nats, float64 on the CPU.
    """
    values = torch.zeros(len(rows), dtype=torch.float32, device=logits.device)
    for start in range(0, len(logits), _AT_ONCE):
        normalised = logits[start : start + _AT_ONCE].float().log_softmax(-1)
        chosen = (rows >= start) & (rows < start + _AT_ONCE)
        values[chosen] = normalised[rows[chosen] - start, targets[chosen]]
    return values.double().cpu()
