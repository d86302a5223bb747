"""Other tasks and texts that are asked while a patch is made: which of their items.

Some guard, so they decide about patches; some are kept, so they teach. What is reported must be
neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from excise.config import RunConfig
from excise.errors import ConfigError
from excise.methods.guarded.guards import OWN
from excise.splits import sample, split_instances
from excise.tasks import load_task
from excise.types import Task, TextTask

Role = Literal["guard", "kept task"]
"""What an error calls it."""


def tasks_of_run(task: Task, config: RunConfig) -> list[Task]:
    """The task that a patch is for, and the others that the run mitigates.

    Args:
        task: an already loaded one; a configuration of one task need not name it.
        config: of the run.
    """
    if len(config.tasks) < 2:
        return [task]
    found = [load_task(name, data_dir=_folder(config)) for name in config.tasks]
    others = [o for o in found if isinstance(o, Task) and o.digest != task.digest]
    return [task, *others]


def guarding_items(config: RunConfig, mitigated: Sequence[Task]) -> tuple[Any, ...]:
    """The instances and passages of all other guards, which decide about patches.

    Raises:
        ConfigError: see `pool_of`.
    """
    names = [name for name in config.guard.max_loss if name not in OWN]
    return tuple(item for name in names for item in pool_of(name, config, mitigated)[1])


def kept_items(config: RunConfig, mitigated: Sequence[Task]) -> tuple[Any, ...]:
    """The instances of all kept tasks, which teach.

    Raises:
        ConfigError: see `pool_of`.
    """
    pools = (pool_of(n, config, mitigated, role="kept task") for n in config.gate.keep)
    return tuple(item for _, pool in pools for item in pool)


def pool_of(
    name: str, config: RunConfig, mitigated: Sequence[Task], *, role: Role = "guard"
) -> tuple[Task | TextTask, tuple[Any, ...]]:
    """A guard or a kept task, and the instances or passages that are drawn from.

    Of a task these are its find and tune splits, without items of the tasks that are mitigated: a
    category overlaps with the whole of its benchmark, whose split is another. Of a text it is about
    half of the passages: those that are drawn last where it is reported.

    Args:
        name: of a task, or a file.
        config: where the data are, and how they are split.
        mitigated: all tasks of the run. One that guards another has the same split there.
        role: for errors.

    Raises:
        ConfigError: the task has no correct options, or no item of its own; a text of one passage,
            or one that is to be kept.
    """
    task = load_task(name, data_dir=_folder(config))
    if isinstance(task, TextTask):
        if role == "kept task":
            raise ConfigError(
                f"{role} {name!r} is a text, which asks nothing; limit the rise of its perplexity "
                f"with --max-loss {name}=0.2."
            )
        if len({passage.block for passage in task.instances}) < 2:
            raise ConfigError(
                f"{role} {name!r} holds one passage, and half of a text guards; separate at "
                "least two by empty lines."
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
            f"{role} {name!r} has no correct option to choose; take a task with answers"
            + (", or a text." if role == "guard" else ".")
        )
    others = [other for other in mitigated if other.digest != task.digest]
    taken = {item.content for other in others for item in other.instances}
    split = split_instances(task.instances, by=config.split_by, seed=config.split_seed)
    pool = tuple(item for item in split.find + split.tune if item.content not in taken)
    if not pool:
        raise ConfigError(f"{role} {name!r} holds nothing but items of the tasks of this run.")
    return task, pool


def _folder(config: RunConfig) -> Path | None:
    return Path(config.data_dir) if config.data_dir else None
