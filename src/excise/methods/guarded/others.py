"""Limits on damage elsewhere: the accuracy of other tasks, the perplexity of plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from excise.config import RunConfig, TextConfig
from excise.errors import ConfigError
from excise.evaluation.passages import read_passages
from excise.methods.guarded.guards import OWN
from excise.methods.guarded.panel import Panel, Reading, questions
from excise.metrics.text import perplexity
from excise.models import LoadedModel, packed_linears
from excise.splits import sample, split_instances
from excise.tasks import load_task
from excise.types import Passage, Task, TextTask


class Other(Protocol):
    """A guard that the mitigated task's own questions do not show."""

    @property
    def name(self) -> str:
        """As it was declared."""
        ...

    @property
    def limit(self) -> float:
        """The largest loss that is accepted."""
        ...

    @property
    def digest(self) -> str:
        """Of the task that it asks."""
        ...

    def loss(self) -> float:
        """What the model has lost in the state that it is in."""
        ...


@dataclass(frozen=True)
class OtherTask:
    """A guard on the accuracy of another task."""

    name: str
    limit: float
    panel: Panel
    original: Reading

    @property
    def digest(self) -> str:
        """Of the task."""
        return self.panel.task.digest

    def loss(self) -> float:
        """Accuracy lost over all questions, -1..1."""
        return float(self.original.correct.mean() - self.panel.read().correct.mean())


@dataclass(frozen=True)
class Text:
    """Passages, and how they are read."""

    loaded: LoadedModel
    task: TextTask
    passages: tuple[Passage, ...]
    config: TextConfig
    advance: Callable[[int], None]

    def perplexity(self) -> float:
        """Of the model in the state that it is in; NaN where no token is scored."""
        with packed_linears(self.loaded.model):
            read = read_passages(
                self.loaded, self.task, self.passages, self.config, advance=self.advance
            )
        return float(perplexity(read, np.ones((1, len(self.passages))))[0, 0])


@dataclass(frozen=True)
class OtherText:
    """A guard on the perplexity of plain text."""

    name: str
    limit: float
    text: Text
    original: float

    @property
    def digest(self) -> str:
        """Of the text."""
        return self.text.task.digest

    def loss(self) -> float:
        """Rise of the perplexity as a share of the original's, above -1."""
        return self.text.perplexity() / self.original - 1.0


def other_guards(
    loaded: LoadedModel,
    task: Task,
    config: RunConfig,
    *,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[Other, ...]:
    """Guards on other tasks and texts, on a seeded sample of what they may ask.

    See `guard_pool` for what that is.

    Raises:
        ConfigError: a task without options to choose from, or without items of its own; a text
            without a token to score.
    """
    guard = config.guard
    mitigated = [task]
    if len(config.tasks) > 1 and not guard.max_loss.keys() <= OWN.keys():
        folder = Path(config.data_dir) if config.data_dir else None
        found = [load_task(name, data_dir=folder) for name in config.tasks]
        mitigated += [other for other in found if isinstance(other, Task)]
    made: list[Other] = []
    for name, limit in guard.max_loss.items():
        if name in OWN:
            continue
        other, pool = guard_pool(name, config, mitigated)
        if isinstance(other, TextTask):
            passages = sample(pool, guard.other_instances, seed=seed, unit="block")
            text = Text(loaded, other, passages, config.text, advance)
            original = text.perplexity()
            if not np.isfinite(original):
                raise ConfigError(f"guard {name!r} holds no token to score; give a longer text.")
            made.append(OtherText(name, limit, text, original))
            continue
        asked, _ = questions(
            other,
            pool,
            sizes=(guard.other_instances,),
            instructions=guard.instructions,
            seed=seed,
        )
        panel = Panel(loaded, other, asked, config.scoring, advance)
        made.append(OtherTask(name, limit, panel, panel.read()))
    return tuple(made)


def guarding_items(config: RunConfig, mitigated: Sequence[Task]) -> tuple[Any, ...]:
    """The instances and passages of all other guards, which decide about patches.

    Raises:
        ConfigError: see `guard_pool`.
    """
    names = [name for name in config.guard.max_loss if name not in OWN]
    return tuple(item for name in names for item in guard_pool(name, config, mitigated)[1])


def guard_pool(
    name: str, config: RunConfig, mitigated: Sequence[Task]
) -> tuple[Task | TextTask, tuple[Any, ...]]:
    """A guard's task, and the instances or passages that it draws from.

    Of a task these are its find and tune splits, without items of the tasks that are mitigated: a
    category overlaps with the whole of its benchmark, whose split is another. Of a text it is about
    half of the passages: those that are drawn last where it is reported.

    Args:
        name: of a task, or a file.
        config: where the data are, and how they are split.
        mitigated: all tasks of the run. One that guards another has the same split there.

    Raises:
        ConfigError: the task has no correct options, or no item of its own; a text of one passage.
    """
    folder = Path(config.data_dir) if config.data_dir else None
    task = load_task(name, data_dir=folder)
    if isinstance(task, TextTask):
        if len({passage.block for passage in task.instances}) < 2:
            raise ConfigError(
                f"guard {name!r} holds one passage, and half of a text guards; separate at least "
                "two by empty lines."
            )
        # A smaller sample is a part of a larger one: up to this size none meets the rest.
        half = (len(task.instances) + 1) // 2
        reported = sample(task.instances, half, seed=config.split_seed, unit="block")
        blocks = {passage.block for passage in reported}
        return task, tuple(passage for passage in task.instances if passage.block not in blocks)
    if (
        not isinstance(task, Task)
        or task.kind != "choice"
        or any(item.gold < 0 for item in task.instances)
    ):
        raise ConfigError(
            f"guard {name!r} has no correct option to choose; take a task with answers, or a text."
        )
    others = [other for other in mitigated if other.digest != task.digest]
    taken = {item.content for other in others for item in other.instances}
    split = split_instances(task.instances, by=config.split_by, seed=config.split_seed)
    pool = tuple(item for item in split.find + split.tune if item.content not in taken)
    if not pool:
        raise ConfigError(f"guard {name!r} holds nothing but items of the tasks of this run.")
    return task, pool
