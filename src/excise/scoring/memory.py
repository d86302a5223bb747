"""How much is forwarded at once: a memory rule, and less where memory runs out all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from excise.models import LoadedModel

log = logging.getLogger(__name__)

_MIB = 2**20
Scored = TypeVar("Scored")


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that one forward pass may hold."""

    tokens: int
    """Tokens forwarded."""
    rows: int
    """Positions with logits over the vocabulary."""

    def halved(self, tokens: int) -> Budget:
        """Half of a pass that did not fit, of `tokens` tokens."""
        return replace(self, tokens=max(1, tokens // 2), rows=max(1, self.rows // 2))


def budget(loaded: LoadedModel, *, max_tokens: int, max_memory_mib: int) -> Budget:
    """What fits into a given memory beside the weights.

    Half is for activations: a token's hidden states (12 copies: residual, norms, queries, keys,
    values, outputs) and its feed-forward activations (4 copies). Half is for logits: two copies of
    a row over the vocabulary, the second in float32.

    Args:
        loaded: decides how large a token and a row of logits are.
        max_tokens: upper bound of the tokens, whatever the memory.
        max_memory_mib: memory in MiB.
    """
    half = max_memory_mib * _MIB // 2
    token, row = _costs(loaded)
    return Budget(
        tokens=max(1, min(max_tokens, half // max(token, 1))), rows=max(1, half // max(row, 1))
    )


def unused(loaded: LoadedModel, *, max_tokens: int, max_memory_mib: int) -> int:
    """Bytes of the given memory that a pass within `budget` leaves free, by the same rule."""
    limit = budget(loaded, max_tokens=max_tokens, max_memory_mib=max_memory_mib)
    token, row = _costs(loaded)
    # No more positions are scored than tokens forwarded.
    used = limit.tokens * token + min(limit.rows, limit.tokens) * row
    return max(0, max_memory_mib * _MIB - used)


def hidden_size(loaded: LoadedModel) -> int:
    """Values of a token's hidden state; 0 where the configuration does not say."""
    return _size(loaded.model.config, "hidden_size", "d_model", "n_embd")


def _costs(loaded: LoadedModel) -> tuple[int, int]:
    """Bytes of a token's activations, and of a row of logits."""
    config, bytes_each = loaded.model.config, loaded.model.dtype.itemsize
    hidden = hidden_size(loaded)
    inner = _size(config, "intermediate_size", "d_ff", "ffn_dim", "n_inner") or 4 * hidden
    return (12 * hidden + 4 * inner) * bytes_each, _size(config, "vocab_size") * (bytes_each + 4)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the CPU's allocator had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "out of memory" in text or "not enough memory" in text
    )


def in_batches(
    order: Sequence[int],
    limit: Budget,
    take: Callable[[int, Budget], int],
    score: Callable[[Sequence[int]], Sequence[Scored]],
    tokens: Callable[[Sequence[int]], int],
) -> Iterator[tuple[Sequence[int], Sequence[Scored]]]:
    """Score in batches; one that runs out of memory is tried again in halves.

    Args:
        order: what is scored, neighbours alike.
        limit: the first budget.
        take: (place in `order`, budget) -> how many to take from there; at least one.
        score: the values of a batch.
        tokens: how many tokens a batch has.

    Raises:
        RuntimeError: the allocator's own error, where even a single one does not fit.
    """
    start = 0
    while start < len(order):
        batch = order[start : start + take(start, limit)]
        try:
            values = score(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(batch) == 1:
                raise
            limit = shrunk(limit, tokens(batch))
            continue
        yield batch, values
        start += len(batch)


def shrunk(limit: Budget, tokens: int) -> Budget:
    """The budget after a pass of so many tokens ran out of memory."""
    log.warning("out of memory with %d tokens at once; going on with half", tokens)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return limit.halved(tokens)


def _size(config: Any, *names: str) -> int:
    return next((int(v) for n in names if (v := getattr(config, n, None)) is not None), 0)
