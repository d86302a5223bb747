"""Sentences without a question: which one does a model find more likely?

What the likelihood of a sentence is depends on the kind of model. `Predictions.variant` names the
definition, since numbers of different definitions must not be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

import numpy as np

from excise.config import ScoringConfig
from excise.errors import ConfigError, ModelError, NonFiniteError
from excise.evaluation.choices import likeliest
from excise.models import LoadedModel, packed_linears
from excise.scoring import EncodedPrompt, scorer_for
from excise.scoring.masked import (
    Gap,
    MaskedScorer,
    every_token,
    filled_word,
    longest_text,
    shared_tokens,
)
from excise.tasks.stereoset import word_at_blank
from excise.types import Instance, Predictions, Task

_DECIMALS = 3
"""CrowS-Pairs' script compares scores rounded to so many decimals; closer ones are ties."""

_AT_ONCE = 16
"""Items whose masked copies are batched together."""


def compare_sentences(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: ScoringConfig,
    *,
    advance: Callable[[int], None] | None = None,
) -> Predictions:
    """Likelihoods of the sentences of each item; never in a chat template.

    Decoder-only: log P(sentence | context), or from its first token on behind the token that begins
    texts. Encoder-decoder: log P(sentence | context or empty input), per token. Masked: the
    sub-tokens of the word that fills a blank (`fields["blank"]`, StereoSet); the tokens that a pair
    shares (two options without a context, CrowS-Pairs); else every token of the sentence.

    Args:
        loaded: the model in the state to be asked, patched or not.
        task: its `prompt_format` is what stands before the sentences.
        instances: the items to compare.
        config: `max_tokens` and `max_memory_mib` only; how sentences are compared is the task's
            own.
        advance: called with the number of items just finished.

    Returns:
        Predictions whose `compared` decides: log-likelihoods as the task normalises them; for
        masked models the log of the mean probability of the filled word's sub-tokens, sums rounded
        to 3 decimals, or means per token.

    Raises:
        ModelError: a tokenizer without the special token that the score needs.
        ConfigError: a sentence without tokens, or one that is longer than the model's positions.
        NonFiniteError: a log-likelihood that is NaN or infinite; names the instance.
    """
    score = _fill_gaps if loaded.masked else _read_on
    rows = score(loaded, task, instances, config, advance)
    shape = (1, len(rows), max(map(len, rows)))
    log_likelihood, compared = np.full(shape, np.nan), np.full(shape, np.nan)
    n_tokens = np.zeros(shape, dtype=np.int64)
    for n, (instance, row) in enumerate(zip(instances, rows, strict=True)):
        for c, option in enumerate(row):
            if not np.isfinite(option.log_likelihood):
                raise NonFiniteError(
                    f"the log-likelihood of instance {instance.id!r} is not finite; use "
                    "--dtype float32, or check the checkpoint for NaN weights."
                )
            log_likelihood[0, n, c] = option.log_likelihood
            n_tokens[0, n, c] = option.n_tokens
            compared[0, n, c] = option.compared
    return Predictions(
        tuple(instances),
        task.instructions[:1],
        likeliest(compared),
        log_likelihood,
        n_tokens,
        compared,
        variant_of(loaded, task),
    )


@dataclass(frozen=True, slots=True)
class _Score:
    """How likely one sentence is."""

    log_likelihood: float
    """Total over the scored tokens in nats."""
    n_tokens: int
    compared: float
    """What the sentence is compared by."""


def variant_of(loaded: LoadedModel, task: Task) -> str:
    """Which definitions of the score this kind of model allows for a task's items."""
    found = (_variant(loaded, task, instance) for instance in task.instances)
    return "; ".join(dict.fromkeys(found))


def _variant(loaded: LoadedModel, task: Task, instance: Instance) -> str:
    context = bool(_context(task, instance))
    no_head = "no NSP head: " if context else ""  # StereoSet trained one for contexts
    given = "context" if context else "empty input"
    if loaded.masked:
        return {
            "word": "masked: mean probability of the filled word's tokens",
            "shared": "masked: sum of log P(token | rest) over the shared tokens",
            "sentence": f"masked, {no_head}mean log P(token | rest) over the sentence",
        }[_masked_score(task, instance)]
    if loaded.encoder_decoder:
        return f"encoder-decoder, {no_head}mean log P(sentence | {given})"
    if context:
        return f"causal, {no_head}mean log P(sentence | context)"
    total = _normalisation(loaded, task) == "total"
    return "causal: " + (
        "total log-likelihood of the sentence"
        if total
        else "geometric mean token probability of the sentence"
    )


def _normalisation(loaded: LoadedModel, task: Task) -> Literal["total", "per_token"]:
    # Nothing published says how an encoder-decoder compares sentences; their lengths differ.
    total = task.normalisation == "total" and not loaded.encoder_decoder
    return "total" if total else "per_token"


def _context(task: Task, instance: Instance) -> str:
    return task.prompt(task.instructions[0], instance).strip()


# Decoder-only and encoder-decoder models.


def _read_on(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: ScoringConfig,
    advance: Callable[[int], None] | None,
) -> list[list[_Score]]:
    encode = _encode_apart if loaded.encoder_decoder else _encode_together
    encoded = encode(loaded, [_context(task, instance) for instance in instances], instances)
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    for instance, item in zip(instances, encoded, strict=True):
        _check_tokens(instance, [len(option) for option in item.options])
        if limit:
            length = loaded.positions_for(len(item.prompt), max(map(len, item.options)))
            _check_length(loaded, instance, length, limit)
    with packed_linears(loaded.model):
        scorer = scorer_for(
            loaded, max_tokens=config.max_tokens, max_memory_mib=config.max_memory_mib
        )
        scored = scorer.score(encoded, advance)
    per_token = _normalisation(loaded, task) == "per_token"
    return [
        [
            _Score(total, len(option), total / len(option) if per_token else total)
            for option, total in zip(item.options, row, strict=True)
        ]
        for item, row in zip(encoded, scored, strict=True)
    ]


def _encode_apart(
    loaded: LoadedModel, contexts: Sequence[str], instances: Sequence[Instance]
) -> list[EncodedPrompt]:
    """The encoder reads the context, or just its end token; the decoder the sentence."""
    tokenizer = loaded.tokenizer
    prompts = tokenizer(list(contexts)).input_ids
    labels = iter(tokenizer([o for i in instances for o in i.options]).input_ids)
    return [
        EncodedPrompt(
            tuple(prompt) or (tokenizer.eos_token_id,),
            tuple(tuple(next(labels)) for _ in instance.options),
        )
        for prompt, instance in zip(prompts, instances, strict=True)
    ]


def _encode_together(
    loaded: LoadedModel, contexts: Sequence[str], instances: Sequence[Instance]
) -> list[EncodedPrompt]:
    """Context and sentence tokenised together behind the token that begins texts, then cut."""
    begin = beginning(loaded)
    whole = [
        f"{context} {option}" if context else option
        for context, instance in zip(contexts, instances, strict=True)
        for option in instance.options
    ]
    whole_ids = iter(loaded.tokenizer(whole, add_special_tokens=False).input_ids)
    context_ids = loaded.tokenizer(list(contexts), add_special_tokens=False).input_ids
    return [
        EncodedPrompt(
            (begin, *before), tuple(tuple(next(whole_ids)[len(before) :]) for _ in instance.options)
        )
        for before, instance in zip(context_ids, instances, strict=True)
    ]


def beginning(loaded: LoadedModel) -> int:
    """Id of the token that the first token of a text is predicted from.

    The beginning-of-text token, or the end-of-text token where the tokenizer has no such (GPT-2
    has one token for both).

    Raises:
        ModelError: the tokenizer has neither.
    """
    tokenizer = loaded.tokenizer
    for found in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if found is not None:
            return int(found)
    raise ModelError(
        f"the tokenizer of {loaded.name!r} has neither a beginning nor an end token, from which "
        "the first token of a sentence is predicted; load the tokenizer that belongs to the model."
    )


# Masked models.


def _masked_score(task: Task, instance: Instance) -> str:
    """What of a sentence is masked: `word`, `shared` or `sentence`."""
    if instance.fields.get("blank"):
        return "word"
    return "shared" if len(instance.options) == 2 and not _context(task, instance) else "sentence"


def _fill_gaps(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: ScoringConfig,
    advance: Callable[[int], None] | None,
) -> list[list[_Score]]:
    scorer = MaskedScorer(
        loaded, max_tokens=config.max_tokens, max_memory_mib=config.max_memory_mib
    )
    limit = longest_text(loaded)
    rows: list[list[_Score]] = []
    with packed_linears(loaded.model):
        for start in range(0, len(instances), _AT_ONCE):
            batch = instances[start : start + _AT_ONCE]
            gaps = [_gaps(loaded, task, instance) for instance in batch]
            for instance, options in zip(batch, gaps, strict=True):
                texts = [gap.tokens for option in options for gap in option]
                _check_length(loaded, instance, max(map(len, texts), default=0), limit)
            values = iter(scorer.score([gap for item in gaps for option in item for gap in option]))
            for instance, options in zip(batch, gaps, strict=True):
                what = _masked_score(task, instance)
                rows.append([_scored(what, [next(values) for _ in option]) for option in options])
            if advance:
                advance(len(batch))
    return rows


def _gaps(loaded: LoadedModel, task: Task, instance: Instance) -> Sequence[list[Gap]]:
    score = _masked_score(task, instance)
    if score == "shared":
        # No shared tokens make a tie, and difflib's alignment depends on which sentence comes
        # first: both as in the authors' script.
        if instance.fields.get("direction") == "antistereo":
            return shared_tokens(loaded, *instance.options[::-1])[::-1]
        return shared_tokens(loaded, *instance.options)
    if score == "word":
        template = instance.fields["blank"]
        gaps = [
            filled_word(loaded, template, word_at_blank(template, option))
            for option in instance.options
        ]
    else:
        context = _context(task, instance)
        gaps = [every_token(loaded, context, option) for option in instance.options]
    _check_tokens(instance, [len(option) for option in gaps])
    return gaps


def _scored(what: str, values: Sequence[float]) -> _Score:
    total = sum(values)
    if what == "shared":
        compared = round(total, _DECIMALS)
    elif what == "word":
        highest = max(values)
        compared = highest + log(sum(exp(value - highest) for value in values) / len(values))
    else:
        compared = total / len(values)
    return _Score(total, len(values), compared)


# What cannot be scored.


def _check_tokens(instance: Instance, counts: Sequence[int]) -> None:
    if not all(counts):
        # Nothing to score would mean log-likelihood 0, better than every other option.
        raise ConfigError(
            f"an option of instance {instance.id!r} has no tokens of its own; "
            "give every option a text."
        )


def _check_length(loaded: LoadedModel, instance: Instance, length: int, limit: int) -> None:
    if length > limit:
        raise ConfigError(
            f"instance {instance.id!r} needs {length} tokens, but {loaded.name!r} has "
            f"{limit} positions; shorten its text or leave it out."
        )
