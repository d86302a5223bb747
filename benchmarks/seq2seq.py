"""Options of BBQ-Age scored by an encoder-decoder model of Flan-T5-small's shape: against lm-eval.

Weights are random, and token ids come from the default model's tokenizer, cut to the vocabulary:
both cost what real ones cost. The head is scaled as where it is the embeddings' own weights:
without that and without training a token would have tens of nats, and rounding is relative.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

import excise
from benchmarks.harness import Harness, sampled
from benchmarks.timing import alternate
from excise.models import LoadedModel, packed_linears, wrap
from excise.scoring import EncodedPrompt, scorer_for
from excise.types import Task

END = 1


def measure(items: int = 400, rounds: int = 3, every: int = 4) -> dict[str, Any]:
    """The ratio of scoring three options an item.

    Args:
        items: the first items of BBQ-Age.
        rounds: how often each side is timed.
        every: the harness is timed on every n-th of its batches.
    """
    loaded, prompts = small_t5(items)
    harness = Harness(loaded)
    few, scale = sampled(prompts, every)
    scores: dict[str, Any] = {}

    def ours() -> None:
        with packed_linears(loaded.model):
            scores["ours"] = scorer_for(loaded).score(prompts)

    sides = alternate(
        {"excise": ours, "lm-eval": lambda: scores.update(theirs=harness.score(few))},
        rounds,
        scale={"lm-eval": scale},
    )
    found = sides.described("lm-eval", "excise")
    known = {id(i): values for i, values in zip(prompts, scores["ours"], strict=True)}
    found["items"] = items
    found["largest_difference_nats"] = max(
        abs(known[id(item)][place] - value)
        for (item, place), value in zip(few, scores["theirs"], strict=True)
    )
    return {
        "keys": {"seq2seq_vs_lm_eval": found["ratio"]},
        "details": {"seq2seq_vs_lm_eval": found},
    }


def small_t5(items: int) -> tuple[LoadedModel, list[EncodedPrompt]]:
    """The model, and the items as its token ids."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_decoder_layers=8,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=END,
    )
    tokenizer = excise.load().tokenizer
    task = excise.load_task("bbq-age")
    assert isinstance(task, Task)

    def ids(text: str) -> tuple[int, ...]:
        return (*(2 + token % (config.vocab_size - 2) for token in tokenizer(text).input_ids), END)

    prompts = [
        EncodedPrompt(ids(task.prompt(task.instructions[0], i)), tuple(map(ids, i.options)))
        for i in task.instances[:items]
    ]
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(config.d_model**-0.5)
    loaded = wrap(model, tokenizer, name="t5", apply_chat_template="no")
    return loaded, prompts
