"""Attention with cheaper gradients on CPUs, in place of a model's own kernel for one forward pass.

Two backward passes follow each forward pass. PyTorch's kernel computes the attention probabilities
anew in both, and transformers repeats keys and values for every head that shares them. Here queries
that share keys are one matrix, and the probabilities are kept while they are no larger than what
the kernel would keep. Values and gradients are the same up to rounding.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from excise.models.kernels import attending

_NAME = "excise_kept_probabilities"
_OWN = "sdpa"
"""What it stands in for; elsewhere nothing changes."""


def kept_probabilities(model: Any) -> AbstractContextManager[None]:
    """Let a forward pass with gradients keep its attention probabilities, where that is cheap.

    Args:
        model: a transformers model, given a four-dimensional boolean mask (True: attends).
    """
    if model.config._attn_implementation != _OWN or not torch.is_grad_enabled():
        return nullcontext()
    return attending(model, _NAME, _attend)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer; [rows, heads, n, size] of queries, as transformers calls it."""
    if _worth(query, key, value, attention_mask) and not dropout:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = _Attention.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]
        return output.transpose(1, 2).contiguous(), None
    attend = AttentionInterface()[_OWN]
    result: tuple[torch.Tensor, None] = attend(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )
    return result


def _worth(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> bool:
    """Whether the probabilities take no more memory than queries and output."""
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and mask is not None
        and mask.dtype == torch.bool
        and key.shape[2] == query.shape[2]
        and key.shape[2] <= query.shape[3] + value.shape[3]
    )


class _Attention(torch.autograd.Function):
    """softmax(s Q K' + mask) V, with the heads that share keys below one another."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows, heads, n, size = query.shape
        shared = key.shape[1]
        asked = (query * scale).reshape(rows, shared, -1, size)
        key, value = key.contiguous(), value.contiguous()
        logits = (asked @ key.mT).view(rows, heads, n, n).masked_fill_(~mask, -torch.inf)
        p = logits.softmax(-1).view(rows, shared, -1, n)
        ctx.save_for_backward(asked, key, value, p)
        ctx.scale, ctx.heads = scale, heads
        return (p @ value).view(rows, heads, n, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        asked, key, value, p = ctx.saved_tensors
        rows, size = asked.shape[0], asked.shape[-1]
        gradient = gradient.reshape(*p.shape[:3], -1)
        by_value = p.mT @ gradient
        # Of the logits: p (g - sum of p g), in one pass over the matrix.
        by_p = gradient @ value.mT
        by_logits = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype)
        by_query = (by_logits @ key).view(rows, ctx.heads, -1, size) * ctx.scale
        return by_query, by_logits.mT @ asked, by_value, None, None
