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
from excise.methods.guarded import guarding_items, kept_items
from excise.models import LoadedModel
from excise.progress import Progress
from excise.splits import sample
from excise.tasks import load_task
from excise.types import Answers, AnyTask, Passage, PromptTask, Task, TextTask

ORIGINAL = "original"
"""The method that changes nothing."""

_DEFAULT = ("bbq", "mrpc", "rte", "qnli", "wikipedia-sentences")

_NOTHING_LEFT = "retention task {name!r} holds nothing but items that methods are fitted on."

DIVERGENCE = "kl_divergence"
"""How far a method takes the next-token distributions of plain text from the original's."""


def default_retention(tasks: Sequence[str]) -> list[str]:
    """What a comparison of these tasks is asked beside them.

    Of `bbq`, that is the categories that are not mitigated.
    """
    return [name for name in _DEFAULT if name not in tasks]


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
        """Load a retention task and draw its items.

        Items of the mitigated tasks are left out, and those that guards or kept tasks may ask.

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
        asked = (*guarding_items(config, mitigated), *kept_items(config, mitigated))
        if isinstance(task, TextTask):
            read = {item.text for item in asked if isinstance(item, Passage)}
            unread = [passage for passage in task.instances if passage.text not in read]
            if not unread:
                raise ConfigError(_NOTHING_LEFT.format(name=name))
            items: tuple[Any, ...] = sample(unread, limit, seed=config.split_seed, unit="block")
            return cls(name, task, items, ("perplexity", DIVERGENCE))
        taken = {instance.group for other in mitigated for instance in other.instances}
        used = {instance.content for other in mitigated for instance in other.instances}
        used |= {item.content for item in asked if not isinstance(item, Passage)}
        left = [
            instance
            for instance in task.instances
            if instance.content not in used and not (task.name == "bbq" and instance.group in taken)
        ]
        if not left:
            raise ConfigError(_NOTHING_LEFT.format(name=name))
        items = sample(left, limit, seed=config.split_seed, unit="block")
        kept = replace(task, instances=tuple(left), instructions=task.instructions[:1])
        if all(instance.gold >= 0 for instance in items):
            return cls(name, kept, items, ("accuracy",))
        if not task.metrics:
            raise ConfigError(f"retention task {name!r} has no correct options to lose.")
        return cls(name, kept, items, task.metrics[:1])

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
