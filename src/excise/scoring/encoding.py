"""Prompts and options as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from excise.errors import ConfigError
from excise.models import LoadedModel
from excise.types import Instance, Task


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt with its options, each as the tokens that are scored."""

    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


def encode(
    loaded: LoadedModel,
    task: Task,
    instruction: str,
    instances: Sequence[Instance],
    *,
    end_token: bool,
) -> list[EncodedPrompt]:
    """Tokenise the prompts of one instruction.

    Encoder-decoder: prompt and options are tokenised on their own, each closed by the end token
    (the authors' code). Decoder-only: prompt and option are tokenised together and cut where the
    prompt ends (lm-eval's rule), because some tokenizers join text differently in context; the
    option follows a chat template directly, and a bare prompt after one space.

    Args:
        loaded: the model whose tokenizer and chat template are used.
        task: the prompt format.
        instruction: one of the task's instructions.
        instances: the items to ask.
        end_token: score the end token after each option of a decoder-only model, so that an option
            competes with its own continuations.

    Raises:
        ModelError: a masked language model.
        ConfigError: a prompt that is longer than the model's positions, an option without tokens,
            or an end token that the tokenizer does not have.
    """
    loaded.refuse_masked(f"task {task.name!r}")
    texts = [task.prompt(instruction, instance) for instance in instances]
    encoded = (
        _encode_apart(loaded, texts, instances)
        if loaded.encoder_decoder
        else _encode_together(loaded, texts, instances, end_token)
    )
    for instance, item in zip(instances, encoded, strict=True):
        if not all(item.options):
            # Nothing to score would mean log-likelihood 0, better than every other option.
            raise ConfigError(
                f"an option of instance {instance.id!r} has no tokens of its own; "
                "give every option a text."
            )
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit:
        for instance, item in zip(instances, encoded, strict=True):
            length = loaded.positions_for(len(item.prompt), max(map(len, item.options)))
            if length > limit:
                raise ConfigError(
                    f"instance {instance.id!r} needs {length} tokens, but {loaded.name!r} has "
                    f"{limit} positions; shorten its text or leave it out."
                )
    return encoded


def _encode_apart(
    loaded: LoadedModel, texts: Sequence[str], instances: Sequence[Instance]
) -> list[EncodedPrompt]:
    prompts = loaded.tokenizer([prompt_text(loaded, text) for text in texts]).input_ids
    options = [option for instance in instances for option in instance.options]
    labels = iter(loaded.tokenizer(options).input_ids)
    return [
        EncodedPrompt(tuple(prompt), tuple(tuple(next(labels)) for _ in instance.options))
        for prompt, instance in zip(prompts, instances, strict=True)
    ]


def _encode_together(
    loaded: LoadedModel, texts: Sequence[str], instances: Sequence[Instance], end_token: bool
) -> list[EncodedPrompt]:
    tokenizer = loaded.tokenizer
    prompts = [prompt_text(loaded, text) for text in texts]
    joint = "" if loaded.chat_template else " "
    # A chat template writes its own special tokens.
    special = not loaded.chat_template
    prompt_ids = tokenizer(prompts, add_special_tokens=special).input_ids
    whole = [
        prompt + joint + option
        for prompt, instance in zip(prompts, instances, strict=True)
        for option in instance.options
    ]
    whole_ids = iter(tokenizer(whole, add_special_tokens=special).input_ids)
    if end_token and tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer of {loaded.name!r} has no end token to score.")
    end = (tokenizer.eos_token_id,) if end_token else ()
    result = []
    for ids, instance in zip(prompt_ids, instances, strict=True):
        closing = _closing(tokenizer, ids) if special else 0
        prompt = tuple(ids[: len(ids) - closing])
        options = []
        for _ in instance.options:
            joined = next(whole_ids)
            options.append(tuple(joined[len(prompt) : len(joined) - closing]) + end)
        result.append(EncodedPrompt(prompt, tuple(options)))
    return result


def prompt_text(loaded: LoadedModel, text: str) -> str:
    """The prompt as the model reads it: in its chat template, or bare without trailing space.

    Encoder-decoder models read it as it is: their options follow no space.
    """
    if loaded.encoder_decoder:
        return text
    if not loaded.chat_template:
        return text.rstrip()
    rendered: str = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return rendered


def _closing(tokenizer: object, ids: Sequence[int]) -> int:
    """1 where the tokenizer closes every text with an end token, which must not be scored."""
    end = getattr(tokenizer, "eos_token_id", None)
    return int(len(ids) > 1 and ids[-1] == end)
