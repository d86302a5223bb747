"""Options of BBQ-Age scored by a decoder-only model: against lm-eval and against the floor.

The floor is what no exact engine that forwards each distinct prefix once can beat by much: dense
causal forward passes of as many tokens as the tree has nodes, without padding, with the same
kernels, the head at as many positions as the tree scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import excise
from benchmarks.harness import Harness, sampled
from benchmarks.timing import alternate, peak_rss_mib
from excise.models import LoadedModel, packed_linears
from excise.scoring import EncodedPrompt, encode, scorer_for
from excise.scoring.tree import prefix_tree
from excise.types import Task

FLOOR_TOKENS = 256
"""Tokens of one dense pass: a token then attends to about as many as in BBQ's prompts, and shorter
and longer ones were slower."""


def measure(items: int = 400, rounds: int = 3, every: int = 8) -> dict[str, Any]:
    """Ratios of scoring.

    Args:
        items: the first items of BBQ-Age.
        rounds: how often each side is timed.
        every: the harness is timed on every n-th of its batches.
    """
    loaded = excise.load()
    task = excise.load_task("bbq-age")
    assert isinstance(task, Task)
    three = encode(loaded, task, task.instructions[0], task.instances[:items], end_token=False)
    twelve = lm_eval_items(loaded, task, items)
    scores: dict[str, Any] = {}

    def ours(name: str, prompts: list[EncodedPrompt]) -> None:
        with packed_linears(loaded.model):
            scores[name] = scorer_for(loaded).score(prompts)

    ours("three", three)
    peak = peak_rss_mib()
    harness = Harness(loaded)
    few, few_scale = sampled(three, every)
    many, many_scale = sampled(twelve, every * 3)
    sides = alternate(
        {
            "excise": lambda: ours("three", three),
            "floor": lambda: dense(loaded, three),
            "lm-eval": lambda: scores.update(few=harness.score(few)),
            "excise, 12 options": lambda: ours("twelve", twelve),
            "lm-eval, 12 options": lambda: scores.update(many=harness.score(many)),
        },
        rounds,
        scale={"lm-eval": few_scale, "lm-eval, 12 options": many_scale},
    )
    lm_eval = sides.described("lm-eval", "excise")
    lm_eval_12 = sides.described("lm-eval, 12 options", "excise, 12 options")
    floor = sides.described("floor", "excise")
    for found in (lm_eval, lm_eval_12, floor):
        found["items"] = items
    tree = prefix_tree(three)
    return {
        "keys": {
            "scoring_vs_lm_eval": lm_eval["ratio"],
            "scoring_vs_lm_eval_12": lm_eval_12["ratio"],
            "scoring_vs_floor": floor["ratio"],
            "peak_rss_mib": round(peak),
        },
        "details": {
            "items": items,
            "scoring_vs_lm_eval": lm_eval,
            "scoring_vs_lm_eval_12": lm_eval_12,
            "scoring_vs_floor": floor,
            "tokens": {
                "pairs": sum(len(i.prompt) + len(o) - 1 for i in three for o in i.options),
                "distinct": len(tree),
                "computed": len(tree),
            },
            "largest_difference_nats": max(
                _difference(few, three, scores["three"], scores["few"]),
                _difference(many, twelve, scores["twelve"], scores["many"]),
            ),
            "bfloat16": in_bfloat16(loaded, three, scores["three"]),
        },
    }


def lm_eval_items(loaded: LoadedModel, task: Task, items: int) -> list[EncodedPrompt]:
    """The items as lm-eval's own `bbq` asks them: its prompt, ten ways to say unknown."""
    from lm_eval.tasks.bbq.utils import UNKNOWN_RESPONSES

    tokenizer = loaded.tokenizer
    found = []
    for item in task.instances[:items]:
        named = [o for place, o in enumerate(item.options) if place != item.unknown]
        text = f"{item.fields['context']}\n\nQ: {item.fields['question']}\nA:"
        prompt = tuple(tokenizer(text).input_ids)
        options = [f" {option}" for option in (*named, *UNKNOWN_RESPONSES)]
        found.append(
            EncodedPrompt(
                prompt,
                tuple(tuple(tokenizer(text + o).input_ids[len(prompt) :]) for o in options),
            )
        )
    return found


@torch.inference_mode()
def dense(loaded: LoadedModel, prompts: list[EncodedPrompt]) -> None:
    """Forward as many tokens as the tree has, densely, and score as many positions."""
    tree = prefix_tree(prompts)
    share = len(np.unique(tree.predicting)) / len(tree)
    with packed_linears(loaded.model):
        for start in range(0, len(tree), FLOOR_TOKENS):
            ids = torch.from_numpy(tree.tokens[start : start + FLOOR_TOKENS])[None]
            rows = torch.linspace(0, ids.shape[1] - 1, max(1, round(share * ids.shape[1])))
            logits = loaded.model(
                input_ids=ids, use_cache=False, logits_to_keep=rows.long()
            ).logits[0]
            logits.float().log_softmax(-1)


def in_bfloat16(
    loaded: LoadedModel, prompts: list[EncodedPrompt], exact: list[tuple[float, ...]]
) -> dict[str, int]:
    """How many choices, per token, differ with weights and activations in bfloat16."""
    model = loaded.model.to(torch.bfloat16)
    few = prompts[:100]
    rough = scorer_for(loaded).score(few)
    model.to(torch.float32)
    changed = sum(
        _choice(item, a) != _choice(item, b)
        for item, a, b in zip(few, exact[:100], rough, strict=True)
    )
    return {"items": len(few), "choices_changed": changed}


def _choice(item: EncodedPrompt, values: tuple[float, ...]) -> int:
    each = [value / len(o) for value, o in zip(values, item.options, strict=True)]
    return int(np.argmax(each))


def _difference(
    pairs: list[tuple[EncodedPrompt, int]],
    prompts: list[EncodedPrompt],
    ours: list[tuple[float, ...]],
    theirs: list[float],
) -> float:
    known = {id(item): values for item, values in zip(prompts, ours, strict=True)}
    return max(
        abs(known[id(item)][place] - value)
        for (item, place), value in zip(pairs, theirs, strict=True)
    )
