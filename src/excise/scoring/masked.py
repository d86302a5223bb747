"""Masked language models: which gaps a sentence is scored by, and how likely each token fills one.

A masked model sees everything but the gap. The sum of log P(token | all others) over a sentence is
its pseudo-log-likelihood (Salazar et al., "Masked Language Model Scoring", ACL 2020, equation 2);
StereoSet and CrowS-Pairs each score some tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch

from excise.errors import ModelError
from excise.models import LoadedModel
from excise.scoring.memory import budget, in_batches
from excise.scoring.rows import log_likelihoods, only_rows
from excise.tasks.stereoset import BLANK

_Text = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids and token types."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One masked token of a text, and the token whose probability is wanted there."""

    tokens: tuple[int, ...]
    """The whole text with its special tokens; the mask token stands at `place`."""
    segments: tuple[int, ...]
    """Token type of each token: 1 in the second of two texts, else 0."""
    place: int
    target: int


class MaskedScorer:
    """Scores gaps; texts with the same gap are forwarded once, whatever is wanted there."""

    def __init__(
        self, loaded: LoadedModel, *, max_tokens: int = 768, max_memory_mib: int = 1024
    ) -> None:
        self._loaded = loaded
        self._budget = budget(loaded, max_tokens=max_tokens, max_memory_mib=max_memory_mib)

    @torch.inference_mode()
    def score(self, gaps: Sequence[Gap]) -> list[float]:
        """Log-probability in nats of each gap's target, in the given order.

        Args:
            gaps: of texts no longer than `longest_text`.
        """
        wanted: dict[_Text, list[int]] = {}
        for number, gap in enumerate(gaps):
            wanted.setdefault((gap.tokens, gap.segments), []).append(number)
        result = [0.0] * len(gaps)
        texts = sorted(wanted, key=lambda text: -len(text[0]))

        def wanted_of(batch: Sequence[int]) -> list[tuple[int, int]]:
            """(row, number of the gap) of each gap in a batch of texts."""
            return [(row, n) for row, k in enumerate(batch) for n in wanted[texts[k]]]

        for batch, values in in_batches(
            range(len(texts)),
            self._budget,
            lambda start, limit: max(
                1, min(limit.tokens // len(texts[start][0]), limit.rows)
            ),  # the longest of the batch; one row of logits each
            lambda batch: self._log_probabilities(
                [texts[k] for k in batch], [(row, gaps[n]) for row, n in wanted_of(batch)]
            ),
            lambda batch: len(batch) * len(texts[batch[0]][0]),
        ):
            for (_, n), value in zip(wanted_of(batch), values, strict=True):
                result[n] = value
        return result

    def _log_probabilities(
        self, batch: Sequence[_Text], gaps: Sequence[tuple[int, Gap]]
    ) -> list[float]:
        shape = (len(batch), len(batch[0][0]))
        # Padded on the right, so that RoBERTa counts the positions of a text as without padding.
        ids = torch.zeros(shape, dtype=torch.long)
        segments = torch.zeros(shape, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, (tokens, types) in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            segments[row, : len(tokens)] = torch.tensor(types)
            mask[row, : len(tokens)] = 1
        device = self._loaded.device
        # A text may have several masked places.
        places = sorted({row * shape[1] + gap.place for row, gap in gaps})
        number = {place: k for k, place in enumerate(places)}
        at = torch.tensor([number[row * shape[1] + gap.place] for row, gap in gaps])
        rows = torch.tensor(places, device=device)
        with only_rows(self._loaded.model, rows):
            logits = self._loaded.model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                token_type_ids=segments.to(device),
            ).logits[0]
        targets = torch.tensor([gap.target for _, gap in gaps], device=device)
        values: list[float] = log_likelihoods(logits, at.to(device), targets).tolist()
        return values


def every_token(loaded: LoadedModel, context: str, sentence: str) -> list[Gap]:
    """Each token of a sentence masked in turn; special tokens and the context are only seen.

    Args:
        loaded: a masked model.
        context: stands before the sentence as a text of its own; empty for none.
        sentence: what is scored.

    Raises:
        ModelError: the tokenizer has no mask token.
    """
    encoded = _encoded(loaded, *((context, sentence) if context else (sentence,)))
    owner = 1 if context else 0
    places = [p for p, text in enumerate(encoded.sequence_ids(0)) if text == owner]
    return _masked_in_turn(loaded, encoded, places)


def shared_tokens(loaded: LoadedModel, first: str, second: str) -> tuple[list[Gap], list[Gap]]:
    """The tokens that two sentences share, masked in turn in each of them.

    The changed tokens stay in view, so both sums run over the same tokens and the frequency of the
    changed words does not count (Nangia et al., "CrowS-Pairs", EMNLP 2020, section 3). The token
    ids are aligned; the first and the last shared one, the special tokens, are left out.

    Args:
        loaded: a masked model.
        first: one sentence.
        second: its minimally changed counterpart.

    Returns:
        As many gaps for each; none where only the special tokens are shared.

    Raises:
        ModelError: the tokenizer has no mask token.
    """
    one, other = _encoded(loaded, first), _encoded(loaded, second)
    blocks = SequenceMatcher(None, one.input_ids, other.input_ids).get_matching_blocks()
    pairs = [(b.a + k, b.b + k) for b in blocks for k in range(b.size)][1:-1]
    return (
        _masked_in_turn(loaded, one, [place for place, _ in pairs]),
        _masked_in_turn(loaded, other, [place for _, place in pairs]),
    )


def filled_word(loaded: LoadedModel, template: str, word: str) -> list[Gap]:
    """The sub-tokens of a word that fills a template's blank, left to right.

    Each sub-token is asked for at one mask behind those before it; nothing of the word stands
    behind the mask. As in StereoSet's code the word is tokenised on its own, so tokenizers that
    mark the space before a word (RoBERTa's) ask for a token without that mark.

    Args:
        loaded: a masked model.
        template: a sentence with `BLANK` for the word, twice in some: then it is asked for at both.
        word: what stands there.

    Raises:
        ModelError: the tokenizer has no mask token.
    """
    mask = _mask(loaded)
    tokenizer = loaded.tokenizer
    targets = tokenizer(word, add_special_tokens=False).input_ids
    gaps = []
    for known, target in enumerate(targets):
        before = tokenizer.decode(targets[:known])
        encoded = _encoded(loaded, template.replace(BLANK, f"{before}{tokenizer.mask_token}"))
        tokens, segments = tuple(encoded.input_ids), _segments(loaded, encoded)
        gaps += [Gap(tokens, segments, p, target) for p, t in enumerate(tokens) if t == mask]
    return gaps


def longest_text(loaded: LoadedModel) -> int:
    """Tokens, special ones included, that the positions of a masked model suffice for."""
    # RoBERTa's positions begin behind the id of its padding.
    padding = getattr(loaded.model.base_model.embeddings, "padding_idx", None)
    longest: int = loaded.model.config.max_position_embeddings
    return longest - (0 if padding is None else padding + 1)


def _masked_in_turn(loaded: LoadedModel, encoded: Any, places: Sequence[int]) -> list[Gap]:
    mask = _mask(loaded)
    tokens, segments = tuple(encoded.input_ids), _segments(loaded, encoded)
    return [Gap((*tokens[:p], mask, *tokens[p + 1 :]), segments, p, tokens[p]) for p in places]


def _encoded(loaded: LoadedModel, *texts: str) -> Any:
    """One text or a pair with its special tokens; not every tokenizer gives types unasked."""
    return loaded.tokenizer(*texts, return_token_type_ids=True)


def _segments(loaded: LoadedModel, encoded: Any) -> tuple[int, ...]:
    """Token types as the model knows them: RoBERTa has one only, whatever its tokenizer says."""
    types = tuple(encoded.token_type_ids)
    return types if loaded.model.config.type_vocab_size > 1 else (0,) * len(types)


def _mask(loaded: LoadedModel) -> int:
    """Id of the mask token."""
    found: int | None = loaded.tokenizer.mask_token_id
    if found is None:
        raise ModelError(
            f"the tokenizer of {loaded.name!r} has no mask token, which a masked language model "
            "is asked with; load the tokenizer that belongs to the model."
        )
    return found
