"""Fits: a method on a task in one trial, what decides it, and how its patch is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from excise.config import RunConfig
from excise.evidence import provenance
from excise.models import LoadedModel
from excise.patches import Patch
from excise.splits import split_instances
from excise.types import AnyTask, FloatArray, Neuron, Split, Task

ORIGINAL = "original"

_COMMON = ("split_by", "split_seed", "scoring")
_ALL_SECTIONS = (
    "attribution",
    "selection",
    "patch",
    "guard",
    "gate",
    "finetuning",
    "calibration",
    "text",
)
_OWN_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "cc": ("calibration",),
    "gated": ("attribution", "guard", "gate", "text"),
    "dc": ("calibration",),
    "finetune": ("finetuning",),
    "crispr": ("attribution", "selection", "patch"),
    "random": ("attribution", "selection", "patch"),
    "lowest": ("attribution", "selection", "patch"),
}
"""How the name of a method begins -> the sections of the options that decide its fit."""


class MemoryJournal:
    """A journal for those who write no folder."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._arrays: dict[str, Mapping[str, FloatArray]] = {}

    def get(self, key: str) -> Any | None:
        """What was kept under a key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep JSON values under a key."""
        self._values[key] = value

    def get_arrays(self, key: str) -> Mapping[str, FloatArray] | None:
        """The arrays that were kept under a key, or None."""
        return self._arrays.get(key)

    def put_arrays(self, key: str, arrays: Mapping[str, FloatArray]) -> None:
        """Keep arrays under a key."""
        self._arrays[key] = {name: values.copy() for name, values in arrays.items()}


@dataclass(frozen=True)
class Fit:
    """A method fitted on a task in one trial."""

    method: str
    task: str
    """As the definition names it."""
    trial: int
    config: RunConfig


def fits_methods(task: AnyTask) -> bool:
    """Whether methods can be fitted on a task: it has options, and says which one is correct."""
    return (
        isinstance(task, Task)
        and task.kind == "choice"
        and all(instance.gold >= 0 for instance in task.instances)
    )


def drawn(fit: Fit, task: Task) -> tuple[RunConfig, Split]:
    """The options of a fit, and the find and tune splits of its trial.

    Args:
        fit: what is fitted.
        task: the task that it is fitted on.
    """
    config = fit.config.model_copy(update={"tasks": (task.name,)})
    split = split_instances(
        task.instances, by=config.split_by, seed=config.split_seed, trial=fit.trial
    )
    return config, split


def key_of(loaded: LoadedModel, fit: Fit, task: Task) -> str:
    """Digest of everything that decides a fit.

    Args:
        loaded: the unpatched model.
        fit: what is fitted.
        task: the task that it is fitted on.
    """
    start = next((name for name in _OWN_SECTIONS if fit.method.startswith(name)), "")
    sections = (*_COMMON, *_OWN_SECTIONS.get(start, _ALL_SECTIONS))
    return digest_of(
        "fit",
        fit.method,
        loaded.digest,
        str(loaded.model.dtype),
        loaded.tokenizer.chat_template if loaded.chat_template else None,
        task.name,
        task.digest,
        list(task.instructions),
        # Contextual calibration asks the same whatever was drawn.
        None if fit.method == "cc" else [fit.trial, fit.config.seed],
        fit.config.model_dump(mode="json", include=set(sections)),
    )


def packed_patch(patch: Patch) -> dict[str, Any]:
    """A patch as JSON values, without what the fit says anyway."""
    return {
        "neurons": [[neuron.module, neuron.index] for neuron in patch.neurons],
        "scores": list(patch.scores),
        "factor": patch.factor,
        "factors": list(patch.factors),
    }


def unpacked_patch(kept: Mapping[str, Any], loaded: LoadedModel, fit: Fit, task: Task) -> Patch:
    """The patch that `packed_patch` wrote.

    Args:
        kept: what was written.
        loaded: the model that it belongs to.
        fit: what it came from.
        task: the task that it was found on.
    """
    config, split = drawn(fit, task)
    return Patch(
        neurons=tuple(Neuron(module, index) for module, index in kept["neurons"]),
        scores=tuple(kept["scores"]),
        base_model=loaded.name,
        base_digest=loaded.digest,
        factor=kept["factor"],
        provenance=provenance(config, task, split, fit.trial),
        factors=tuple(kept["factors"]),
    )


def digest_of(*decides: Any) -> str:
    """Digest of JSON values."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
