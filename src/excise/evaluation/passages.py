"""Plain text: how likely does a model find it, and how far is it from the original?

A passage is read in consecutive windows of tokens; every token is predicted from what stands
before it in its own window. Models that only continue text read a window after the begin token,
or, where the tokenizer has none, leave its first token unscored. Encoder-decoder models read the
first half of a window in the encoder and are scored on the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from excise.config import TextConfig
from excise.errors import ConfigError, ModelError, NonFiniteError
from excise.models import LoadedModel, packed_linears
from excise.patches import Patch
from excise.scoring.seq2seq import pad
from excise.types import Passage, Readings, TextTask

MAX_TOKENS = 1024
"""Tokens forwarded at once."""

MAX_LOGITS = 2**26
"""Numbers of one block of logits, 256 MB in float32. A single window of an encoder-decoder model
may exceed it."""

_ROWS_AT_ONCE = 64
"""Positions whose distributions are compared at once, in float64."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Some consecutive tokens of a passage."""

    passage: int
    encoder: tuple[int, ...]
    """What the encoder reads; empty for decoder-only models."""
    inputs: tuple[int, ...]
    """What the decoder reads; each position predicts the target at the same place."""
    targets: tuple[int, ...]
    n_bytes: int
    """UTF-8 bytes of the targets."""


def read_passages(
    loaded: LoadedModel,
    task: TextTask,
    passages: Sequence[Passage],
    config: TextConfig,
    *,
    patch: Patch | None = None,
    force: bool = False,
    changed: Callable[[], AbstractContextManager[None]] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Readings:
    """Log-likelihood of passages, and divergence from the original model.

    With a patch, each batch of windows is read by the original and by the patched model; neither
    distribution outlives the batch.

    Args:
        loaded: the unpatched model.
        task: where the passages come from.
        passages: N texts.
        config: the length of a window.
        patch: what is read with; the model comes back as it was. None reads with the original,
            whose divergence is 0.
        force: accept other weights than the patch was made on.
        changed: instead of a patch, any change to the model that a `with` block undoes.
        advance: called with the number of passages just finished.

    Returns:
        Readings of N passages. `n_bytes` counts the bytes of scored tokens only; white space that
        a tokenizer drops counts with the token after it.

    Raises:
        ModelError: a model that predicts no next token, or a tokenizer without character offsets.
        ConfigError: a window that is longer than the model's positions.
        NonFiniteError: a log-likelihood that is NaN or infinite; names the passage.
        PatchMismatchError: the patch belongs to another model.
    """
    if loaded.architecture.kind not in ("encoder-decoder", "decoder-only"):
        raise ModelError(
            f"{loaded.name!r} is a {loaded.architecture.kind} language model: it predicts no next "
            f"token, so plain text has no perplexity; leave the task {task.name!r} out."
        )
    if patch is not None:
        changed = partial(patch.applied, loaded, force=force)
    windows = [w for w in _windows(loaded, passages, config.window) if w.targets]
    log_likelihood = np.zeros(len(passages))
    divergence = np.zeros(len(passages))
    n_tokens = np.zeros(len(passages), dtype=np.int64)
    n_bytes = np.zeros(len(passages), dtype=np.int64)
    left = np.bincount([w.passage for w in windows], minlength=len(passages))
    if advance and not left.all():
        advance(int((left == 0).sum()))
    for batch in _batches(windows, loaded.model.config.vocab_size):
        read = _read(loaded, batch, changed)
        for window, (likely, diverged) in zip(batch, read, strict=True):
            if not np.isfinite(likely + diverged):
                raise NonFiniteError(
                    f"the log-likelihood of passage {passages[window.passage].id!r} is not finite; "
                    "use --dtype float32, or check the checkpoint for NaN weights."
                )
            log_likelihood[window.passage] += likely
            divergence[window.passage] += diverged
            n_tokens[window.passage] += len(window.targets)
            n_bytes[window.passage] += window.n_bytes
            left[window.passage] -= 1
            if advance and left[window.passage] == 0:
                advance(1)
    return Readings(
        tuple(passages),
        log_likelihood,
        n_tokens,
        n_bytes,
        divergence,
        variant(loaded, config.window),
    )


def variant(loaded: LoadedModel, window: int) -> str:
    """What precedes the scored tokens of a model, in words."""
    if loaded.encoder_decoder:
        return (
            f"windows of at most {window} tokens, the first half read by the encoder, the second "
            "half scored"
        )
    if loaded.tokenizer.bos_token_id is not None:
        return f"windows of at most {window} tokens after the begin token, all scored"
    return f"windows of at most {window} tokens, all scored but the first"


def _windows(loaded: LoadedModel, passages: Sequence[Passage], size: int) -> list[_Window]:
    windows = []
    for number, passage in enumerate(passages):
        ids, ends = _tokens(loaded, passage)
        for start in range(0, len(ids), size):
            tokens = ids[start : start + size]
            edges = (ends[start - 1] if start else 0, *ends[start : start + size])
            windows.append(_window(loaded, number, tokens, edges))
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    longest = max((max(len(w.inputs), len(w.encoder)) for w in windows), default=0)
    if limit and longest > limit:
        raise ConfigError(
            f"text.window is {size}, but {loaded.name!r} has {limit} positions; use "
            f"--set text.window={limit} or less."
        )
    return windows


def _tokens(loaded: LoadedModel, passage: Passage) -> tuple[list[int], list[int]]:
    """Token ids without special tokens, and the byte at which each one ends."""
    if not getattr(loaded.tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of {loaded.name!r} does not say which characters a token covers; "
            "load one that is based on the tokenizers library."
        )
    encoded = loaded.tokenizer(
        passage.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    bytes_before = [0]
    for character in passage.text:
        bytes_before.append(bytes_before[-1] + len(character.encode()))
    ends, reached = [], 0
    for _, end in encoded.offset_mapping:
        # Tokens of one character of several bytes all end where it ends: the first one has it.
        reached = max(reached, bytes_before[end])
        ends.append(reached)
    if ends:
        ends[-1] = bytes_before[-1]
    return list(encoded.input_ids), ends


def _window(
    loaded: LoadedModel, passage: int, tokens: Sequence[int], edges: Sequence[int]
) -> _Window:
    """One window; `edges` are the bytes between its tokens, the outer ones included."""
    tokenizer = loaded.tokenizer
    encoder: tuple[int, ...] = ()
    if loaded.encoder_decoder:
        unscored = (len(tokens) + 1) // 2
        end = tokenizer.eos_token_id
        encoder = (*tokens[:unscored], *(() if end is None else (end,)))
        before = loaded.model.config.decoder_start_token_id
    else:
        before = tokenizer.bos_token_id
        unscored = 0 if before is not None else 1
    targets = tuple(tokens[unscored:])
    inputs = (tokens[unscored - 1] if before is None else before, *targets[:-1])
    return _Window(passage, encoder, inputs[: len(targets)], targets, edges[-1] - edges[unscored])


def _batches(windows: Sequence[_Window], vocabulary: int) -> Iterator[list[_Window]]:
    """Windows of similar length together, the longest first."""
    order = sorted(windows, key=lambda w: (-len(w.targets), -len(w.encoder)))
    start = 0
    while start < len(order):
        width = len(order[start].targets)
        tokens = width + max(len(window.encoder) for window in order[start:])
        size = max(1, min(MAX_TOKENS // tokens, MAX_LOGITS // (width * vocabulary)))
        yield order[start : start + size]
        start += size


def _read(
    loaded: LoadedModel,
    batch: Sequence[_Window],
    changed: Callable[[], AbstractContextManager[None]] | None,
) -> list[tuple[float, float]]:
    """Log-likelihood and divergence of each window."""
    result = np.zeros((len(batch), 2))
    width = len(batch[0].targets)
    step = width
    if not loaded.encoder_decoder:
        step = max(1, min(width, MAX_LOGITS // (loaded.model.config.vocab_size * len(batch))))
    for start in range(0, width, step):
        places = slice(start, min(start + step, width))
        original = None if changed is None else _logits(loaded, batch, places)
        with nullcontext() if changed is None else changed():
            logits = _logits(loaded, batch, places)
        for row, window in enumerate(batch):
            targets = window.targets[places]
            reference = None if original is None else original[row, : len(targets)]
            result[row] += compared(logits[row, : len(targets)], targets, reference)
    return [(float(likely), float(diverged)) for likely, diverged in result]


@torch.inference_mode()
def _logits(loaded: LoadedModel, batch: Sequence[_Window], places: slice) -> torch.Tensor:
    """[windows, places, vocabulary] of the model as it is now."""
    device = loaded.device
    inputs, mask = pad([window.inputs for window in batch])
    # Inside a patch: packed weights do not follow an edit.
    with packed_linears(loaded.model):
        if loaded.encoder_decoder:
            read, read_mask = pad([window.encoder for window in batch])
            logits: torch.Tensor = loaded.model(
                input_ids=read.to(device),
                attention_mask=read_mask.to(device),
                decoder_input_ids=inputs.to(device),
                use_cache=False,
            ).logits
            return logits
        logits = loaded.model(
            input_ids=inputs.to(device),
            attention_mask=mask.to(device),
            use_cache=False,
            # On no device: those of the last layer and of the first may be two.
            logits_to_keep=places,
        ).logits
        return logits


@torch.inference_mode()
def compared(
    logits: torch.Tensor, targets: Sequence[int], original: torch.Tensor | None
) -> tuple[float, float]:
    """Log-likelihood of the targets, and the divergence summed over them, in nats.

    Args:
        logits: [n, vocabulary] of this state.
        targets: [n] tokens that come.
        original: [n, vocabulary] of the original, or None for divergence 0.

    Returns:
        Both totals; the divergence is KL(original || this state), at least 0.
    """
    likely = diverged = 0.0
    wanted = torch.tensor(targets, dtype=torch.long, device=logits.device)
    for rows in pairwise([*range(0, len(targets), _ROWS_AT_ONCE), len(targets)]):
        some = slice(*rows)
        here = logits[some].double().log_softmax(-1)
        likely += float(here.gather(-1, wanted[some, None]).sum())
        if original is not None:
            there = original[some].double().log_softmax(-1)
            # Rounding alone can take the divergence of equal distributions below 0.
            diverged += float((there.exp() * (there - here)).sum(-1).clamp(min=0).sum())
    return likely, diverged
