"""What a method costs elsewhere: other tasks, asked before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from excise.config import RunConfig
from excise.errors import ConfigError
from excise.evaluation import ask
from excise.evaluation.passages import read_passages
from excise.methods import Fitted
from excise.models import LoadedModel
from excise.progress import Progress
from excise.splits import sample
from excise.tasks import load_task
from excise.types import Answers, AnyTask, PromptTask, Task, TextTask

ORIGINAL = "original"
"""The method that changes nothing."""

DEFAULT = ("bbq", "mrpc", "rte", "qnli", "wikipedia-sentences")
"""Retention tasks of a comparison; of `bbq`, the categories that are not mitigated."""

DIVERGENCE = "kl_divergence"
"""How far a method takes the next-token distributions of plain text from the original's."""


@dataclass(frozen=True)
class Retention:
    """A task that no method is fitted on."""

    name: str
    task: AnyTask
    instances: tuple[Any, ...]
    metrics: tuple[str, ...]
    """What stands for it in tables."""

    @classmethod
    def of(
        cls, name: str, mitigated: Sequence[Task], config: RunConfig, *, limit: int
    ) -> Retention:
        """Load a retention task and draw its items, without those of the mitigated tasks.

        Raises:
            ConfigError: nothing is left, or the task's continuations would have to be judged.
        """
        folder = Path(config.data_dir) if config.data_dir else None
        task = load_task(name, data_dir=folder)
        if isinstance(task, PromptTask):
            raise ConfigError(
                f"retention task {name!r}: continuations say little about retained abilities; "
                "measure them with `excise evaluate --patch`."
            )
        if isinstance(task, TextTask):
            items: tuple[Any, ...] = sample(
                task.instances, limit, seed=config.split_seed, unit="block"
            )
            return cls(name, task, items, ("perplexity", DIVERGENCE))
        taken = {instance.group for other in mitigated for instance in other.instances}
        ids = {instance.id for other in mitigated for instance in other.instances}
        left = [
            instance
            for instance in task.instances
            if instance.id not in ids and not (task.name == "bbq" and instance.group in taken)
        ]
        if not left:
            raise ConfigError(f"retention task {name!r} holds nothing but mitigated items.")
        items = sample(left, limit, seed=config.split_seed, unit="block")
        kept = replace(task, instances=tuple(left), instructions=task.instructions[:1])
        return cls(name, kept, items, ("accuracy",))

    def answers(
        self, loaded: LoadedModel, fitted: Fitted, config: RunConfig, progress: Progress
    ) -> Answers:
        """The answers under a fitted method.

        Raises:
            ConfigError: the method was trained on this task.
        """
        refuses = getattr(fitted, "refuses", None)
        reason = refuses(self.task) if refuses else None
        if reason:
            raise ConfigError(reason)
        if isinstance(self.task, Task) and self.task.kind == "choice":
            return fitted.answers(
                loaded, self.task, self.instances, config.scoring, advance=progress.advance
            )
        if isinstance(self.task, TextTask):
            # Read under both models at once: only so is there a divergence.
            changed = None if fitted.name == ORIGINAL else partial(fitted.applied, loaded)
            return read_passages(
                loaded,
                self.task,
                self.instances,
                config.text,
                changed=changed,
                advance=progress.advance,
            )
        with fitted.applied(loaded):
            return ask(loaded, self.task, self.instances, config, advance=progress.advance)
