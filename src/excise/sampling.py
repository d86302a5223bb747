"""Sampled continuations whose noise belongs to the prompt, not to the batch.

A token drawn from a softmax is the token with the largest log-probability after independent Gumbel
noise is added to each (the Gumbel-max trick; Maddison et al. 2014). The noise here is a function of
seed, prompt, continuation and position, so a prompt is continued alike in any batch, in any order
and after an interruption (up to the rounding of logits, which batches differ in). And two states of
a model see the same noise: they differ where their probabilities do, not by chance, which narrows
the intervals of paired differences (common random numbers).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from excise.config import ContinuationConfig
from excise.errors import ConfigError, NonFiniteError
from excise.models import LoadedModel, packed_linears
from excise.types import FloatArray


@dataclass(frozen=True, slots=True)
class _Row:
    """One continuation to draw."""

    prompt: int
    """Position of its prompt."""
    id: str
    continuation: int
    tokens: tuple[int, ...]


@torch.inference_mode()
def sample_continuations(
    loaded: LoadedModel,
    texts: Sequence[str],
    ids: Sequence[str],
    config: ContinuationConfig,
    *,
    advance: Callable[[int], None] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """Continue prompts, each `config.continuations` times.

    The prompts are read bare, without a chat template and without trailing space; for
    encoder-decoder models they are the encoder's input. Nothing of the checkpoint's own generation
    settings applies but its end tokens. A continuation ends at an end token, and for decoder-only
    models at any special token: what follows belongs to another text.

    Args:
        loaded: the model in the state to be asked, patched or not.
        texts: N prompts.
        ids: [N] name of each prompt, unique; decides its noise together with the seed.
        config: how many, how long, temperature, nucleus, seed.
        advance: called with the number of prompts just finished.

    Returns:
        [N][K] continuations without their prompts, without special tokens and outer white space.

    Raises:
        ConfigError: a prompt without text, two with one name, or one that is too long.
        NonFiniteError: a next-token distribution that is NaN or infinite; names the prompt.
    """
    rows = _rows(loaded, texts, ids, config)
    # Rows of similar length share a batch; a prompt's own rows stay together.
    rows.sort(key=lambda row: len(row.tokens))
    found: list[list[str]] = [[""] * config.continuations for _ in texts]
    finished = 0
    with _plain_generation(loaded) as ends, packed_linears(loaded.model):
        for start in range(0, len(rows), config.batch_size):
            batch = rows[start : start + config.batch_size]
            for row, text in zip(batch, _continue(loaded, batch, config, ends), strict=True):
                found[row.prompt][row.continuation] = text
            done = (start + len(batch)) // config.continuations
            if advance and done > finished:
                advance(done - finished)
            finished = done
    return tuple(tuple(row) for row in found)


def uniform_noise(seed: int, id: str, continuation: int, step: int, size: int) -> FloatArray:
    """Independent uniform numbers for one position of one continuation.

    They come from the counter-based generator Philox, whose raw output NumPy keeps stable between
    versions.

    Args:
        seed: 0 or larger.
        id: name of the prompt.
        continuation: which of its continuations, from 0.
        step: position in the continuation, from 0.
        size: how many.

    Returns:
        [size] numbers, strictly between 0 and 1.
    """
    name = json.dumps([seed, id, continuation]).encode()
    key = np.frombuffer(hashlib.sha256(name).digest()[:16], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=[0, step, 0, 0])
    # 52 bits and a half: the largest value is still less than 1 after rounding.
    bits = generator.random_raw(size) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, temperature: float, top_p: float
) -> torch.Tensor:
    """One token per row, by temperature, nucleus (top-p) and the Gumbel-max trick.

    The nucleus (Holtzman et al., ICLR 2020) is the smallest set of most probable tokens that
    together have at least `top_p` of the probability; of equal tokens the first counts as more
    probable. The largest noisy token is in it if the tokens before it have less than `top_p`. If it
    is not, neither is any less probable one, and the best of the others is looked at. This saves
    sorting the vocabulary.

    Args:
        logits: [R, V]; minus infinity forbids a token.
        uniform: [R, V] noise, strictly between 0 and 1.
        temperature: above 0, divides the logits.
        top_p: above 0, at most 1.

    Returns:
        [R] token ids; a row whose logits make no distribution gives an arbitrary one.
    """
    log_p = torch.log_softmax(logits.double() / temperature, dim=-1)
    noisy = log_p - torch.log(-torch.log(uniform))
    tokens = noisy.argmax(dim=-1)
    if top_p >= 1:
        return tokens
    p = log_p.exp()
    index = torch.arange(log_p.shape[-1], device=log_p.device)
    while True:
        chosen = tokens[:, None]
        level = log_p.gather(-1, chosen)
        before = (log_p > level) | ((log_p == level) & (index < chosen))
        outside = (p * before).sum(-1) >= top_p
        if not outside.any():
            return tokens
        noisy = noisy.masked_fill(outside[:, None] & ~before, -torch.inf)
        tokens = noisy.argmax(dim=-1)


class _Sampler(LogitsProcessor):  # type: ignore[misc]
    """Leaves greedy decoding the drawn token as the only one."""

    def __init__(self, rows: Sequence[_Row], config: ContinuationConfig) -> None:
        self.rows = rows
        self.config = config
        self.start: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.start = input_ids.shape[1] if self.start is None else self.start
        step = input_ids.shape[1] - self.start
        for row, finite in zip(self.rows, scores.logsumexp(-1).isfinite().tolist(), strict=True):
            if not finite:
                raise NonFiniteError(
                    f"the next-token distribution of prompt {row.id!r} is not finite; use "
                    "--dtype float32, or check the checkpoint for NaN weights."
                )
        noise = [
            uniform_noise(self.config.seed, row.id, row.continuation, step, scores.shape[1])
            for row in self.rows
        ]
        tokens = draw(
            scores,
            torch.from_numpy(np.stack(noise)).to(scores.device),
            temperature=self.config.temperature,
            top_p=self.config.top_p,
        )
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, tokens[:, None], 0.0)


def _rows(
    loaded: LoadedModel, texts: Sequence[str], ids: Sequence[str], config: ContinuationConfig
) -> list[_Row]:
    if len(set(ids)) != len(texts):
        raise ConfigError("prompts need names of their own; give each another id.")
    stripped = [text.rstrip() for text in texts]
    for id, text in zip(ids, stripped, strict=True):
        if not text:
            raise ConfigError(f"prompt {id!r} has no text to continue; leave it out.")
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    rows = []
    encoded = loaded.tokenizer(stripped).input_ids if stripped else []
    for prompt, (id, tokens) in enumerate(zip(ids, encoded, strict=True)):
        closed = len(tokens) > 1 and tokens[-1] == loaded.tokenizer.eos_token_id
        if closed and not loaded.encoder_decoder:
            # Some tokenizers close every text, after which there is nothing to continue.
            tokens = tokens[:-1]
        length = loaded.positions_for(len(tokens), config.max_new_tokens)
        if limit and length > limit:
            raise ConfigError(
                f"prompt {id!r} needs {length} tokens with its continuation, but "
                f"{loaded.name!r} has {limit} positions; lower max_new_tokens."
            )
        rows += [_Row(prompt, id, k, tuple(tokens)) for k in range(config.continuations)]
    return rows


@contextmanager
def _plain_generation(loaded: LoadedModel) -> Iterator[frozenset[int]]:
    """Puts the checkpoint's own generation settings aside; gives the tokens that end a text.

    Penalties and minimum lengths that a checkpoint brings along would change the distribution.
    """
    own = loaded.model.generation_config
    tokenizer = loaded.tokenizer
    given = own.eos_token_id
    ends = set(given) if isinstance(given, list | tuple) else {given}
    ends.add(tokenizer.eos_token_id)
    if not loaded.encoder_decoder:
        ends.update(tokenizer.all_special_ids)
    ends.discard(None)
    filler = tokenizer.pad_token_id
    loaded.model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
        eos_token_id=sorted(ends) or None,
        pad_token_id=filler if filler is not None else min(ends, default=0),
    )
    try:
        yield frozenset(ends)
    finally:
        loaded.model.generation_config = own


def _continue(
    loaded: LoadedModel, batch: Sequence[_Row], config: ContinuationConfig, ends: frozenset[int]
) -> list[str]:
    filler = loaded.model.generation_config.pad_token_id
    width = max(len(row.tokens) for row in batch)
    ids = torch.full((len(batch), width), filler, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    for place, row in enumerate(batch):
        # A decoder continues from the right end, so its prompts are padded on the left.
        start = 0 if loaded.encoder_decoder else width - len(row.tokens)
        ids[place, start : start + len(row.tokens)] = torch.tensor(row.tokens)
        mask[place, start : start + len(row.tokens)] = 1
    output = loaded.model.generate(
        input_ids=ids.to(loaded.device),
        attention_mask=mask.to(loaded.device),
        do_sample=False,
        num_beams=1,
        max_new_tokens=config.max_new_tokens,
        logits_processor=LogitsProcessorList([_Sampler(batch, config)]),
    )
    made = output[:, 1 if loaded.encoder_decoder else width :].tolist()
    kept = []
    for tokens in made:
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        kept.append(tokens[:end])
    texts = loaded.tokenizer.batch_decode(kept, skip_special_tokens=True)
    # Whether a tokenizer keeps the space before the first word must not reach the judge.
    return [text.strip() for text in texts]
