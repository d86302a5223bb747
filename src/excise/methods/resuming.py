"""What a fit keeps on its way, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from excise.attribution import NeuronScores
from excise.evaluation import ArrayJournal
from excise.models import LoadedModel
from excise.types import FloatArray, Item, Task

_PROMPTS = " prompts"
"""Not the name of a module: it begins with a space."""


def digest_of(
    loaded: LoadedModel, task: Task, items: Sequence[Item], purpose: str, *options: Any
) -> str:
    """Digest of everything that decides a result: weights, neurons, data, items and options.

    Args:
        loaded: the unpatched model.
        task: whose prompts.
        items: what is read, in this order.
        purpose: tells results of different kinds apart.
        options: JSON values.
    """
    decides = [
        purpose,
        loaded.digest,
        str(loaded.model.dtype),
        loaded.device.type,
        loaded.tokenizer.chat_template if loaded.chat_template else None,
        [(site.module, site.size) for site in loaded.sites],
        [task.name, task.digest, task.prompt_format, list(task.instructions)],
        [item.id for item in items],
        options,
    ]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class KeptSums:
    """The sums of one attribution, under one key of a journal."""

    journal: ArrayJournal
    key: str

    def load(self) -> tuple[int, FloatArray, int] | None:
        """How many instructions were done, their sums, and the prompts that counted."""
        kept = self.journal.get_arrays(self.key)
        if kept is None:
            return None
        done, n_prompts = (int(number) for number in kept["counts"])
        return done, kept["sums"].copy(), n_prompts

    def save(self, instructions: int, total: FloatArray, n_prompts: int) -> None:
        """Keep them in place of earlier ones."""
        counts = np.array([instructions, n_prompts], dtype=np.float64)
        self.journal.put_arrays(self.key, {"counts": counts, "sums": total})


def kept_scores(
    journal: ArrayJournal | None, key: Callable[[], str], compute: Callable[[], NeuronScores]
) -> NeuronScores:
    """Scores out of a journal, or computed now and put there."""
    if journal is None:
        return compute()
    kept = journal.get_arrays(key())
    if kept is not None:
        # A file of arrays forgets their order, which decides ties in a ranking.
        modules = {name: kept[name] for name in journal.get(f"{key()} modules") or ()}
        return NeuronScores(modules, int(kept[_PROMPTS][0]))
    scores = compute()
    count = np.array([scores.n_prompts], dtype=np.float64)
    journal.put(f"{key()} modules", list(scores.by_module))
    journal.put_arrays(key(), {**scores.by_module, _PROMPTS: count})
    return scores
