"""Encoder-decoder engine: the encoder reads each prompt once, the decoder each beginning once.

Prompts of like length are read together. The start token of all options is decoded once a prompt;
behind it the distinct options branch off, over cross-attention keys and values that were computed
once, in batches of like length. Logits over the vocabulary exist at scored positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt
from excise.scoring.memory import Budget, budget, in_batches
from excise.scoring.reusing import scoring
from excise.scoring.rows import log_likelihoods, only_rows, widened
from excise.types import FloatArray

_PADDING = 1.25
"""Longest over shortest text of a batch; a larger batch of less like texts computes padding."""


@dataclass
class _Question:
    """A distinct prompt with the options of all items that ask it."""

    prompt: tuple[int, ...]
    members: list[tuple[int, int, tuple[int, ...]]]
    """(item, place of the option, its tokens)."""

    @property
    def beginnings(self) -> list[tuple[int, ...]]:
        """What the decoder reads behind the start token, each once, the shortest first."""
        distinct = {option[:-1] for _, _, option in self.members if len(option) > 1}
        return sorted(distinct, key=lambda tokens: (len(tokens), tokens))


class Seq2SeqScorer:
    """Scores all options of a prompt as branches behind one encoder pass."""

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
        questions = _questions(prompts)
        result = [np.zeros(len(item.options)) for item in prompts]

        def take(start: int, limit: Budget) -> int:
            longest = len(questions[start].prompt)
            rows = 0
            for count, question in enumerate(questions[start:]):
                rows += 1 + sum(map(len, question.beginnings))
                if count and (
                    (count + 1) * longest > limit.tokens
                    or rows > limit.rows
                    or longest > _PADDING * len(question.prompt)
                ):
                    return count
            return len(questions) - start

        for _, finished in in_batches(
            range(len(questions)),
            self._budget,
            take,
            lambda batch: self._score([questions[k] for k in batch], result),
            lambda batch: len(batch) * len(questions[batch[0]].prompt),
        ):
            if advance:
                advance(sum(finished))
        return [tuple(float(v) for v in values) for values in result]

    def _score(self, batch: Sequence[_Question], result: list[FloatArray]) -> list[int]:
        """Write the scores of all members; the number of items that each question finishes."""
        device, model = self._loaded.device, self._loaded.model
        encoded, mask = self._encoded(batch)
        start = torch.full((len(batch), 1), model.config.decoder_start_token_id, device=device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        # (question, tokens read behind the start token) -> token -> nats
        wanted = [_wanted(question) for question in batch]
        found: list[dict[tuple[int, ...], dict[int, float]]] = [{} for _ in batch]

        def decode(
            decoder_ids: torch.Tensor, rows: Sequence[int], cache: Any, read: Sequence[_Read]
        ) -> None:
            places = torch.tensor([r.place for r in read], device=device)
            at = [(k, token) for k, r in enumerate(read) for token in wanted[r.question][r.tokens]]
            with only_rows(model, places):
                logits = model(
                    encoder_outputs=BaseModelOutput(last_hidden_state=encoded[list(rows)]),
                    attention_mask=mask[list(rows)],
                    decoder_input_ids=decoder_ids,
                    past_key_values=cache,
                    use_cache=True,
                ).logits[0]
            values = log_likelihoods(
                logits,
                torch.tensor([k for k, _ in at], device=device),
                torch.tensor([token for _, token in at], device=device),
            )
            for (k, token), value in zip(at, values.tolist(), strict=True):
                found[read[k].question].setdefault(read[k].tokens, {})[token] = value

        every = range(len(batch))
        decode(start, every, cache, [_Read(k, (), k) for k in every])
        texts = [(k, tokens) for k in every for tokens in batch[k].beginnings]
        seen: set[tuple[int, tuple[int, ...]]] = set()
        for bucket in _buckets(sorted(texts, key=lambda text: len(text[1]))):
            rows = [k for k, _ in bucket]
            decoder_ids, _ = pad([tokens for _, tokens in bucket])
            read = []
            for row, (k, tokens) in enumerate(bucket):
                for length in range(1, len(tokens) + 1):
                    # A beginning that another option has too is scored once.
                    if (key := (k, tokens[:length])) not in seen and tokens[:length] in wanted[k]:
                        seen.add(key)
                        read.append(_Read(*key, row * decoder_ids.shape[1] + length - 1))
            if read:
                decode(decoder_ids.to(device), rows, _branched(cache, rows), read)
        for question, known in zip(batch, found, strict=True):
            for item, place, option in question.members:
                result[item][place] = sum(known[option[:n]][t] for n, t in enumerate(option))
        return [len({item for item, *_ in question.members}) for question in batch]

    def _encoded(self, batch: Sequence[_Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's output for the prompts, [prompts, tokens, hidden], and their mask."""
        ids, mask = pad([question.prompt for question in batch])
        under_way = scoring(self._loaded, ids.numpy(), mask.numpy())
        ids, mask = ids.to(self._loaded.device), mask.to(self._loaded.device)
        if under_way.output is not None:
            return under_way.output.view(*ids.shape, -1), mask
        with under_way.forward(0, ids.numel()):
            encoder = self._loaded.model.get_encoder()
            # Logits come to where the first of the inputs is, which is this.
            encoded = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.to(ids.device)
            under_way.encoded(encoded)
        under_way.finished()
        return encoded, mask


@dataclass(frozen=True, slots=True)
class _Read:
    """A position of a decoder batch that predicts something."""

    question: int
    tokens: tuple[int, ...]
    """What was read behind the start token."""
    place: int
    """Position in the flattened rows x tokens."""


def _questions(prompts: Sequence[EncodedPrompt]) -> list[_Question]:
    """Distinct prompts, the longest first."""
    found: dict[tuple[int, ...], _Question] = {}
    for number, item in enumerate(prompts):
        question = found.setdefault(item.prompt, _Question(item.prompt, []))
        question.members.extend((number, place, o) for place, o in enumerate(item.options))
    return sorted(found.values(), key=lambda question: -len(question.prompt))


def _wanted(question: _Question) -> dict[tuple[int, ...], list[int]]:
    """What was read -> the tokens that are scored behind it."""
    found: dict[tuple[int, ...], set[int]] = {}
    for _, _, option in question.members:
        for place, token in enumerate(option):
            found.setdefault(option[:place], set()).add(token)
    return {tokens: sorted(targets) for tokens, targets in found.items()}


def _buckets(
    texts: Sequence[tuple[int, tuple[int, ...]]],
) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """Texts of like length, given the shortest first."""
    bucket: list[tuple[int, tuple[int, ...]]] = []
    for text in texts:
        if bucket and len(text[1]) > _PADDING * len(bucket[0][1]):
            yield bucket
            bucket = []
        bucket.append(text)
    if bucket:
        yield bucket


def _branched(cache: Any, rows: Sequence[int]) -> Any:
    """A copy of a decoder's cache with a row for each branch."""
    halves = []
    for half in (cache.self_attention_cache, cache.cross_attention_cache):
        copy = DynamicCache()
        for number, layer in enumerate(half.layers):
            index = torch.tensor(list(rows), device=layer.keys.device)
            copy.update(layer.keys[index], layer.values[index], number)
        halves.append(copy)
    return EncoderDecoderCache(*halves)


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
    ).last_hidden_state.to(device)
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
    scored = widened(logits).log_softmax(-1).gather(-1, targets.to(device)[..., None])[..., 0]
    return list(torch.split(scored * kept.to(device), sizes))


def pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both [rows, longest]."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask
