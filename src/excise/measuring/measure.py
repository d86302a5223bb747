"""Tasks of any kind put to one model, original and patched, without splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from excise.config import RunConfig
from excise.evaluation import Journal, ask
from excise.models import LoadedModel
from excise.patches import Patch
from excise.pipeline import load_model, load_tasks
from excise.progress import Progress, Silent
from excise.questioning import weights_unchanged
from excise.splits import sample
from excise.types import Answers, AnyTask, Item, PromptTask, TextTask

_WHOLES = ("bbq", "stereoset", "stereoset-choice")
"""Tasks that hold the items of all tasks whose names begin with theirs."""

_WORK_OF_PASSAGE = 5
_TOKENS_PER_WORK = 8
"""Cost of reading a passage and of sampling tokens, in units of one scored prompt."""


@dataclass(frozen=True)
class Measured:
    """What the states of one model answered to one task."""

    task: AnyTask
    model: str
    model_digest: str
    original: Answers
    patched: Answers | None
    patch: Patch | None
    weights_unchanged: bool = False
    """Whether the patch leaves every weight as it was: both states are then one model."""

    @property
    def states(self) -> dict[str, Answers]:
        """State -> answers."""
        patched = {} if self.patched is None else {"patched": self.patched}
        return {"original": self.original, **patched}

    @property
    def found_on_this_task(self) -> bool:
        """Whether the patch was found on the data that is asked here, a part of it, or a whole."""
        return self.patch is not None and any(
            digest == self.task.digest
            or _part_of(name, self.task.name)
            or _part_of(self.task.name, name)
            for name, digest in _found_on(self.patch.provenance)
        )


def measure(
    config: RunConfig,
    patch: Patch | None = None,
    progress: Progress | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    force: bool = False,
    journal: Journal | None = None,
) -> tuple[Measured, ...]:
    """Ask all items of every task, or a sample of `config.limit` of them by block.

    Args:
        config: model, tasks, and how they are asked.
        patch: what to compare the original with.
        progress: who watches.
        model: an already loaded `PreTrainedModel`, instead of `config.model`.
        tokenizer: its tokenizer.
        force: accept other weights than the patch was made on.
        journal: keeps finished parts; what it holds is not computed again.

    Raises:
        ExciseError: see `excise.errors`.
    """
    progress = progress or Silent()
    tasks = load_tasks(config)
    progress.stage("loading the model")
    loaded = load_model(config, model, tokenizer)
    if patch is not None:
        patch.check(loaded, force=force)
    asked = {
        task.name: sample(task.instances, config.limit, seed=config.split_seed, unit="block")
        for task in tasks
    }
    unchanged = patch is not None and weights_unchanged(loaded, patch, force=force)
    states: list[Patch | None] = [None] if patch is None or unchanged else [None, patch]
    progress.plan(
        sum(_work(task, config) * _asked(task, asked[task.name], config) for task in tasks)
        * len(states)
    )
    results = []
    for task in tasks:
        answers = []
        for state in states:
            which = "original" if state is None else "patched"
            progress.stage(f"{task.name}: asking the {which} model")
            answers.append(
                _ask(loaded, task, asked[task.name], config, state, force, journal, progress)
            )
        # The same model is not asked twice: a difference to itself would be rounding.
        patched = None if patch is None else answers[-1]
        results.append(
            Measured(task, loaded.name, loaded.digest, answers[0], patched, patch, unchanged)
        )
    return tuple(results)


def _ask(
    loaded: LoadedModel,
    task: AnyTask,
    items: tuple[Item, ...],
    config: RunConfig,
    patch: Patch | None,
    force: bool,
    journal: Journal | None,
    progress: Progress,
) -> Answers:
    work = _work(task, config)
    return ask(
        loaded,
        task,
        items,
        config,
        patch=patch,
        force=force,
        instructions=_instructions(task, config),
        journal=journal,
        advance=lambda items: progress.advance(items * work),
    )


def _instructions(task: AnyTask, config: RunConfig) -> tuple[str, ...]:
    return task.instructions[: config.test_instructions]


def _asked(task: AnyTask, items: tuple[Item, ...], config: RunConfig) -> int:
    return len(items) * len(_instructions(task, config))


def _work(task: AnyTask, config: RunConfig) -> int:
    """Estimated work of one item, in units of one scored prompt."""
    if isinstance(task, PromptTask):
        how = config.continuation
        return max(1, how.continuations * how.max_new_tokens // _TOKENS_PER_WORK)
    return _WORK_OF_PASSAGE if isinstance(task, TextTask) else 1


def _part_of(part: str, whole: str) -> bool:
    return whole in _WHOLES and part.startswith(f"{whole}-")


def _found_on(provenance: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Task and data digest of all data that a patch, or any part of a union, was found on.

    Kept tasks have taught, too.
    """
    own = {
        (str(each.get("task", "")), str(each.get("data_digest", "")))
        for each in (provenance, *provenance.get("kept", ()))
    }
    return own.union(*(_found_on(part) for part in provenance.get("union_of", ())))
