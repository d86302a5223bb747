"""Limits on damage: what a patch may cost, measured on questions that took no part in the report.

A guard compares a state of the model with the original on the same questions and gives one number,
the loss; the search accepts no state whose loss is above the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.config import RunConfig
from excise.errors import ConfigError, UnknownNameError
from excise.methods.guarded.panel import Panel, Reading, questions
from excise.models import LoadedModel
from excise.splits import split_instances
from excise.tasks import TASKS, load_task
from excise.types import Instance, Task

DISAMBIGUATED = "disambiguated"
GOLD_PROBABILITY = "gold_probability"

Loss = Callable[[Reading, Reading], float]
"""From the original's and a state's reading of the same questions to a loss, 0 for no change."""


def accuracy_loss(original: Reading, now: Reading) -> float:
    """Accuracy lost over all questions, -1..1."""
    return float(original.correct.mean() - now.correct.mean())


def disambiguated_loss(original: Reading, now: Reading) -> float:
    """Accuracy lost in contexts that decide the answer, -1..1: the price of over-abstention."""
    among = original.decided
    return float(original.correct[among].mean() - now.correct[among].mean())


def gold_probability_loss(original: Reading, now: Reading) -> float:
    """Share of P(gold) lost per token where the context decides the answer, at most 1.

    One minus the ratio of geometric means. In ambiguous contexts the gold text is "unknown", whose
    gain would hide that the model no longer produces any other.
    """
    among = original.decided
    return 1.0 - math.exp(float((now.gold[among] - original.gold[among]).mean()))


OWN: Mapping[str, Loss] = {
    DISAMBIGUATED: disambiguated_loss,
    GOLD_PROBABILITY: gold_probability_loss,
}
"""Guards that are read off the task's own questions."""


@dataclass(frozen=True)
class OtherTask:
    """A guard on the accuracy of another task."""

    name: str
    limit: float
    panel: Panel
    original: Reading

    def loss(self) -> float:
        """Accuracy lost by the model in the state that it is in."""
        return accuracy_loss(self.original, self.panel.read())


def own_limits(max_loss: Mapping[str, float], original: Reading) -> dict[str, float]:
    """The limits that the task's own questions can check.

    A task without contexts that decide the answer has no such answers to lose.
    """
    own = {name: limit for name, limit in max_loss.items() if name in OWN}
    return own if original.decided.any() else {}


def check_names(max_loss: Mapping[str, float], task: Task) -> None:
    """Refuse guards that nothing measures, before any work is done.

    Raises:
        UnknownNameError: neither a guard of the task's own questions nor another task.
        ConfigError: the task itself as a guard.
    """
    for name in max_loss:
        if name == task.name:
            raise ConfigError(
                f"guard {name!r} is the task that the patch is for; limit what it may lose in "
                f"contexts that decide the answer with {DISAMBIGUATED!r}."
            )
        if name not in OWN and name not in TASKS and not Path(name).exists():
            raise UnknownNameError("guard", name, (*OWN, *TASKS))


def other_tasks(
    loaded: LoadedModel,
    task: Task,
    config: RunConfig,
    *,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[OtherTask, ...]:
    """Guards on other tasks, on a seeded sample of their find and tune splits.

    Their test split and the mitigated tasks' items, which are reported, are left alone.

    Raises:
        ConfigError: a task without options to choose from, or without items of its own.
    """
    guard = config.guard
    mitigated = [task]
    if len(config.tasks) > 1 and not guard.max_loss.keys() <= OWN.keys():
        folder = Path(config.data_dir) if config.data_dir else None
        found = [load_task(name, data_dir=folder) for name in config.tasks]
        mitigated += [other for other in found if isinstance(other, Task)]
    made = []
    for name, limit in guard.max_loss.items():
        if name in OWN:
            continue
        other, pool = guard_pool(name, config, mitigated)
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


def guarding_items(config: RunConfig, mitigated: Sequence[Task]) -> tuple[Instance, ...]:
    """The items of all guards on other tasks, which decide about patches.

    Raises:
        ConfigError: see `guard_pool`.
    """
    names = [name for name in config.guard.max_loss if name not in OWN]
    return tuple(item for name in names for item in guard_pool(name, config, mitigated)[1])


def guard_pool(
    name: str, config: RunConfig, mitigated: Sequence[Task]
) -> tuple[Task, tuple[Instance, ...]]:
    """A guard's task, and the items that it draws from.

    These are its find and tune splits, without items of the tasks that are mitigated: a category
    overlaps with the whole of its benchmark, whose split is another.

    Args:
        name: of a task, or a file.
        config: where the data are, and how they are split.
        mitigated: all tasks of the run. One that guards another has the same split there.

    Raises:
        ConfigError: the task has no correct options, or no item of its own.
    """
    folder = Path(config.data_dir) if config.data_dir else None
    task = load_task(name, data_dir=folder)
    if (
        not isinstance(task, Task)
        or task.kind != "choice"
        or any(item.gold < 0 for item in task.instances)
    ):
        raise ConfigError(
            f"guard {name!r} has no correct option to choose; take a task with answers."
        )
    others = [other for other in mitigated if other.digest != task.digest]
    taken = {item.content for other in others for item in other.instances}
    split = split_instances(task.instances, by=config.split_by, seed=config.split_seed)
    pool = tuple(item for item in split.find + split.tune if item.content not in taken)
    if not pool:
        raise ConfigError(f"guard {name!r} holds nothing but items of the tasks of this run.")
    return task, pool
