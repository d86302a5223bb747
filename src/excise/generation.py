"""Greedy answers and the option that each one names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from excise.models import LoadedModel
from excise.scoring.encoding import prompt_text
from excise.types import Instance, Task


def generate_choices(
    loaded: LoadedModel,
    task: Task,
    instruction: str,
    instances: Sequence[Instance],
    *,
    max_new_tokens: int = 16,
    batch_size: int = 16,
    advance: Callable[[int], None] | None = None,
) -> list[int]:
    """The option that each greedily generated answer equals, -1 where it equals none.

    Args:
        loaded: the model.
        task: the prompt format.
        instruction: one of the task's instructions.
        instances: the items to ask.
        max_new_tokens: length of the answers.
        batch_size: prompts generated at once.
        advance: called with the number of prompts just finished.
    """
    choices = []
    for start in range(0, len(instances), batch_size):
        batch = instances[start : start + batch_size]
        texts = [prompt_text(loaded, task.prompt(instruction, instance)) for instance in batch]
        answers = _generate(loaded, texts, max_new_tokens)
        choices += [
            match(answer, instance.options) for answer, instance in zip(answers, batch, strict=True)
        ]
        if advance:
            advance(len(batch))
    return choices


def match(answer: str, options: Sequence[str]) -> int:
    """Index of the option that an answer equals after normalisation, -1 for none.

    The authors' rule: outer white space, then full stops at both ends, then case do not count.
    """
    wanted = normalise(answer)
    for index, option in enumerate(options):
        if normalise(option) == wanted:
            return index
    return -1


def normalise(text: str) -> str:
    """Text without outer white space, then without outer full stops, in lower case."""
    return text.strip().strip(".").lower()


@torch.inference_mode()
def _generate(loaded: LoadedModel, texts: list[str], max_new_tokens: int) -> list[str]:
    tokenizer = loaded.tokenizer
    special = loaded.encoder_decoder or not loaded.chat_template
    rows = tokenizer(texts, add_special_tokens=special).input_ids
    width = max(map(len, rows))
    end = tokenizer.eos_token_id
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    ids = torch.full((len(rows), width), filler or 0, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in enumerate(rows):
        # A decoder continues from the right end, so its prompts are padded on the left.
        place = (
            slice(0, len(tokens)) if loaded.encoder_decoder else slice(width - len(tokens), width)
        )
        ids[row, place] = torch.tensor(tokens)
        mask[row, place] = 1
    output = loaded.model.generate(
        input_ids=ids.to(loaded.device),
        attention_mask=mask.to(loaded.device),
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        pad_token_id=filler,
    )
    if not loaded.encoder_decoder:
        output = output[:, width:]
    answers: list[str] = tokenizer.batch_decode(output, skip_special_tokens=True)
    return answers
