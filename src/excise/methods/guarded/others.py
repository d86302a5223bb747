"""Limits on damage elsewhere: the accuracy of other tasks, the perplexity of plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from excise.config import RunConfig, TextConfig
from excise.errors import ConfigError
from excise.evaluation.passages import read_passages
from excise.methods.guarded.guards import OWN
from excise.methods.guarded.panel import Panel, Reading, questions
from excise.methods.guarded.pools import pool_of, tasks_of_run
from excise.metrics.text import perplexity
from excise.models import LoadedModel, packed_linears
from excise.splits import sample
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

    See `pool_of` for what that is.

    Raises:
        ConfigError: a task without options to choose from, or without items of its own; a text
            without a token to score.
    """
    guard = config.guard
    limits = {name: limit for name, limit in guard.max_loss.items() if name not in OWN}
    mitigated = tasks_of_run(task, config) if limits else []
    made: list[Other] = []
    for name, limit in limits.items():
        other, pool = pool_of(name, config, mitigated)
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
