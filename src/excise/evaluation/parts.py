"""The parts that a long evaluation is made of: asked one by one, kept, and joined again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from excise.config import Preset
from excise.models import LoadedModel
from excise.patches import Patch
from excise.types import (
    Answers,
    AnyTask,
    Continuations,
    FloatArray,
    Item,
    Predictions,
    PromptTask,
    Readings,
    TextTask,
)

_ITEMS = 256
_FEWEST, _SMALLEST = 4, 24
"""Parts of a short evaluation, and items of its parts, at least."""
_PROMPTS = 32
_PASSAGES = 16


class Journal(Protocol):
    """Keeps finished parts, so that an interrupted evaluation goes on where it stopped."""

    def get(self, key: str) -> Any | None:
        """What was kept under a key, as JSON values, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Keep JSON values under a key, durably."""
        ...


class ArrayJournal(Journal, Protocol):
    """A journal that also keeps tables of numbers, too large to be written as text."""

    def get_arrays(self, key: str) -> Mapping[str, FloatArray] | None:
        """What was kept under a key, or None."""
        ...

    def put_arrays(self, key: str, arrays: Mapping[str, FloatArray]) -> None:
        """Keep arrays under a key, durably, bit for bit."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """Some items under one instruction."""

    instruction: int
    """Position of the instruction."""
    start: int
    stop: int


def parts(task: AnyTask, n_items: int, n_instructions: int) -> list[Part]:
    """The parts of an evaluation, in the order in which they are asked.

    Args:
        task: decides how many items make a part.
        n_items: number of items asked.
        n_instructions: number of instructions they are asked under.
    """
    most = {PromptTask: _PROMPTS, TextTask: _PASSAGES}.get(type(task), _ITEMS)
    edges = [*range(0, n_items, most), n_items]
    if most == _ITEMS and n_items:
        # Several processes take turns over parts, so a short evaluation needs some, too. How many
        # does not depend on the processes: what is forwarded together decides the last digits.
        wanted = min(-(-_FEWEST // max(n_instructions, 1)), n_items // _SMALLEST)
        count = max(len(edges) - 1, wanted)
        edges = [n_items * place // count for place in range(count + 1)]
    return [
        Part(instruction, start, stop)
        for instruction in range(n_instructions)
        for start, stop in pairwise(edges)
    ]


def key(
    loaded: LoadedModel,
    patch: Patch | None,
    task: AnyTask,
    items: Sequence[Item],
    instruction: str,
    config: Preset,
) -> str:
    """Digest of everything that decides a part's answers."""
    decides = {
        "model": loaded.digest,
        "dtype": str(loaded.model.dtype),
        "device": loaded.device.type,
        "chat_template": loaded.tokenizer.chat_template if loaded.chat_template else None,
        "patch": None
        if patch is None
        else [
            patch.factor,
            sorted((n.module, n.index) for n in patch.neurons),
            *sorted((n.module, n.index, f) for n, f in patch.by_neuron.items() if patch.factors),
        ],
        "task": [task.name, task.digest],
        "items": [item.id for item in items],
        "instruction": instruction,
        "prompt_format": getattr(task, "prompt_format", ""),
        "how": config.continuation.model_dump(mode="json")
        if isinstance(task, PromptTask)
        else config.text.model_dump(mode="json")
        if isinstance(task, TextTask)
        else config.scoring.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def packed(answers: Answers) -> dict[str, Any]:
    """One part's answers as JSON values; exact for every number."""
    if isinstance(answers, Predictions):
        return {
            "choice": answers.choice.tolist(),
            "log_likelihood": _listed(answers.log_likelihood),
            "n_tokens": None if answers.n_tokens is None else answers.n_tokens.tolist(),
            "compared": _listed(answers.compared),
            "variant": answers.variant,
        }
    if isinstance(answers, Continuations):
        return {
            "texts": [list(texts) for texts in answers.texts],
            "scores": {label: values.tolist() for label, values in answers.scores.items()},
            "judge": answers.judge,
        }
    assert isinstance(answers, Readings)
    return {
        "log_likelihood": answers.log_likelihood.tolist(),
        "n_tokens": answers.n_tokens.tolist(),
        "n_bytes": answers.n_bytes.tolist(),
        "divergence": answers.divergence.tolist(),
        "variant": answers.variant,
    }


def unpacked(values: dict[str, Any], task: AnyTask, items: Sequence[Any], told: str) -> Answers:
    """The answers that `packed` wrote.

    Args:
        values: what was written.
        task: the task that was asked.
        items: the items of the part.
        told: the instruction of the part.
    """
    if isinstance(task, PromptTask):
        return Continuations(
            tuple(items),
            tuple(tuple(texts) for texts in values["texts"]),
            {label: _floats(scores) for label, scores in values["scores"].items()},
            values["judge"],
            (told,),
        )
    if isinstance(task, TextTask):
        return Readings(
            tuple(items),
            _floats(values["log_likelihood"]),
            np.array(values["n_tokens"], dtype=np.int64),
            np.array(values["n_bytes"], dtype=np.int64),
            _floats(values["divergence"]),
            values["variant"],
            (told,),
        )
    n_tokens = values["n_tokens"]
    return Predictions(
        tuple(items),
        (told,),
        np.array(values["choice"], dtype=np.int64),
        _unlisted(values["log_likelihood"]),
        None if n_tokens is None else np.array(n_tokens, dtype=np.int64),
        _unlisted(values["compared"]),
        values["variant"],
    )


def joined(pieces: Sequence[Answers], n_instructions: int) -> Answers:
    """Parts in the order of `parts` as one.

    Args:
        pieces: at least one for each instruction.
        n_instructions: number of instructions.
    """
    first = pieces[0]
    if isinstance(first, Continuations):
        several = [piece for piece in pieces if isinstance(piece, Continuations)]
        return Continuations(
            tuple(i for piece in several for i in piece.instances),
            tuple(texts for piece in several for texts in piece.texts),
            {
                label: np.concatenate([piece.scores[label] for piece in several])
                for label in first.scores
            },
            first.judge,
            first.instructions,
        )
    if isinstance(first, Readings):
        read = [piece for piece in pieces if isinstance(piece, Readings)]
        return Readings(
            tuple(i for piece in read for i in piece.instances),
            np.concatenate([piece.log_likelihood for piece in read]),
            np.concatenate([piece.n_tokens for piece in read]),
            np.concatenate([piece.n_bytes for piece in read]),
            np.concatenate([piece.divergence for piece in read]),
            first.variant,
            first.instructions,
        )
    predicted = [piece for piece in pieces if isinstance(piece, Predictions)]
    size = len(predicted) // n_instructions
    rows = [predicted[i * size : (i + 1) * size] for i in range(n_instructions)]
    widest = max(len(i.options) for piece in rows[0] for i in piece.instances)

    def table(name: str, filler: float) -> Any:
        if getattr(predicted[0], name) is None:
            return None
        return np.concatenate(
            [
                np.concatenate(
                    [_widened(getattr(piece, name), widest, filler) for piece in row], axis=1
                )
                for row in rows
            ]
        )

    return Predictions(
        tuple(i for piece in rows[0] for i in piece.instances),
        tuple(row[0].instructions[0] for row in rows),
        np.concatenate([np.concatenate([p.choice for p in row], axis=1) for row in rows]),
        table("log_likelihood", np.nan),
        table("n_tokens", 0),
        table("compared", np.nan),
        predicted[0].variant,
    )


def _widened(values: Any, widest: int, filler: float) -> Any:
    missing = widest - values.shape[-1]
    return np.pad(values, ((0, 0), (0, 0), (0, missing)), constant_values=filler)


def _listed(values: FloatArray | None) -> Any:
    """Nested lists with None for NaN, which JSON does not know."""
    if values is None:
        return None
    listed = values.astype(object)
    listed[np.isnan(values)] = None
    return listed.tolist()


def _unlisted(values: Any) -> FloatArray | None:
    return None if values is None else _floats(values)


def _floats(values: Any) -> FloatArray:
    return np.array(values, dtype=np.float64)
