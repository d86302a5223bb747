"""Sentences without a question: which one does a model find more likely?

What the likelihood of a sentence is depends on the kind of model. `Predictions.variant` names the
definition, since numbers of different definitions must not be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

import numpy as np

from excise.config import ScoringConfig
from excise.errors import ConfigError, ModelError, NonFiniteError
from excise.evaluation.choices import byte_counts, likeliest, normalised
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
from excise.types import FloatArray, Instance, IntArray, Normalisation, Predictions, Task

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
        config: `max_tokens` only; how sentences are compared is the task's own.
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
    widest = max(len(instance.options) for instance in instances)
    log_likelihood = np.full((1, len(instances), widest), np.nan)
    n_tokens = np.zeros((1, len(instances), widest), dtype=np.int64)
    if loaded.masked:
        compared = np.full_like(log_likelihood, np.nan)
        _fill_gaps(loaded, task, instances, config, log_likelihood, n_tokens, compared, advance)
    else:
        _read_on(loaded, task, instances, config, log_likelihood, n_tokens, advance)
        compared = normalised(
            log_likelihood, n_tokens, byte_counts(instances), _normalisation(loaded, task)
        )
    return Predictions(
        tuple(instances),
        task.instructions[:1],
        likeliest(compared),
        log_likelihood,
        n_tokens,
        compared,
        variant_of(loaded, task),
    )


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


def _normalisation(loaded: LoadedModel, task: Task) -> Normalisation:
    # Nothing published says how an encoder-decoder compares sentences: per token, as lengths differ.
    return "per_token" if loaded.encoder_decoder else task.normalisation or "per_token"


def _context(task: Task, instance: Instance) -> str:
    return task.prompt(task.instructions[0], instance).strip()


# Decoder-only and encoder-decoder models.


def _read_on(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: ScoringConfig,
    log_likelihood: FloatArray,
    n_tokens: IntArray,
    advance: Callable[[int], None] | None,
) -> None:
    encode = _encode_apart if loaded.encoder_decoder else _encode_together
    encoded = encode(loaded, [_context(task, instance) for instance in instances], instances)
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    for instance, item in zip(instances, encoded, strict=True):
        _check_tokens(instance, [len(option) for option in item.options])
        if limit and not loaded.encoder_decoder:
            _check_length(loaded, instance, len(item.prompt) + max(map(len, item.options)), limit)
    with packed_linears(loaded.model):
        scored = scorer_for(loaded, max_tokens=config.max_tokens).score(encoded, advance)
    for n, (instance, item, row) in enumerate(zip(instances, encoded, scored, strict=True)):
        _check_finite(instance, row)
        log_likelihood[0, n, : len(row)] = row
        n_tokens[0, n, : len(row)] = [len(option) for option in item.options]


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
    log_likelihood: FloatArray,
    n_tokens: IntArray,
    compared: FloatArray,
    advance: Callable[[int], None] | None,
) -> None:
    scorer = MaskedScorer(loaded, max_tokens=config.max_tokens)
    limit = longest_text(loaded)
    with packed_linears(loaded.model):
        for start in range(0, len(instances), _AT_ONCE):
            batch = instances[start : start + _AT_ONCE]
            gaps = [_gaps(loaded, task, instance) for instance in batch]
            for instance, options in zip(batch, gaps, strict=True):
                texts = [gap.tokens for option in options for gap in option]
                _check_length(loaded, instance, max(map(len, texts), default=0), limit)
            values = iter(scorer.score([gap for item in gaps for option in item for gap in option]))
            for n, (instance, options) in enumerate(zip(batch, gaps, strict=True), start):
                score = _masked_score(task, instance)
                for c, option in enumerate(options):
                    row = [next(values) for _ in option]
                    _check_finite(instance, row)
                    log_likelihood[0, n, c] = sum(row)
                    n_tokens[0, n, c] = len(row)
                    compared[0, n, c] = _compared(score, row)
            if advance:
                advance(len(batch))


def _gaps(loaded: LoadedModel, task: Task, instance: Instance) -> Sequence[list[Gap]]:
    score = _masked_score(task, instance)
    if score == "shared":
        # No shared tokens make a tie, as in the authors' script.
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


def _compared(score: str, row: Sequence[float]) -> float:
    if score == "shared":
        return round(sum(row), _DECIMALS)
    if score == "word":
        highest = max(row)
        return highest + log(sum(exp(value - highest) for value in row) / len(row))
    return sum(row) / len(row)


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


def _check_finite(instance: Instance, values: Sequence[float]) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"the log-likelihood of instance {instance.id!r} is not finite; use "
            "--dtype float32, or check the checkpoint for NaN weights."
        )
