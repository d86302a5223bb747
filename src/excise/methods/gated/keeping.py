"""Questions of other tasks that are asked in each step, so that what they ask is kept.

Eight templates say little about which contexts decide an answer; those of other tasks say more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from excise.attribution.effects import Question
from excise.config import RunConfig
from excise.errors import ConfigError
from excise.methods.guarded.pools import guarding_items, pool_of, tasks_of_run
from excise.splits import sample
from excise.types import Instance, Passage, Task

_KEPT = 23
"""Stream of random numbers, beside those of splits and passes."""


@dataclass(frozen=True)
class Kept:
    """Questions of one block of another task, whose context decides the answer."""

    task: Task
    questions: tuple[Question, ...]


def kept_questions(task: Task, config: RunConfig, *, count: int, seed: int) -> tuple[Kept, ...]:
    """The blocks of kept tasks (`gate.keep`) that steps ask, one after the other.

    They are drawn from the find and tune splits of these tasks, without items of the tasks that the
    run mitigates and of those that guard; the tasks take turns, and within each its templates and
    its instructions.

    Args:
        task: that the patch is for; where it is named itself, it is left out.
        config: which tasks are kept.
        count: how many blocks; small tasks come back.
        seed: decides which, and their order.

    Returns:
        Nothing where no task is kept.

    Raises:
        UnknownNameError: a task that nobody knows.
        ConfigError: nothing is named but the task itself; a text; a task without correct options,
            without items of its own, or without a context that decides the answer.
    """
    names = [name for name in dict.fromkeys(config.gate.keep) if name != task.name]
    if config.gate.keep and not names:
        raise ConfigError(
            f"gate.keep names {task.name!r} alone, which the patch is for; name other tasks."
        )
    mitigated = tasks_of_run(task, config) if names else []
    guarding = {
        item.content
        for item in (guarding_items(config, mitigated) if names else ())
        if not isinstance(item, Passage)
    }
    turns = []
    for name in names:
        other, pool = pool_of(name, config, mitigated, role="kept task")
        assert isinstance(other, Task)
        decided = [i for i in pool if i.condition != "ambiguous" and i.content not in guarding]
        if not decided:
            raise ConfigError(
                f"kept task {name!r} holds no question of its own whose context decides the answer "
                "and that guards nothing."
            )
        turns.append(_asked(other, decided, count=-(-count // len(names)), seed=seed))
    # The tasks take turns.
    ordered = (kept for several in zip(*turns, strict=True) for kept in several)
    return tuple(islice(ordered, count))


def _asked(task: Task, pool: Sequence[Instance], *, count: int, seed: int) -> list[Kept]:
    """`count` blocks of one task; the templates take turns before a block comes back."""
    blocks: dict[str, list[Instance]] = {}
    for instance in pool:
        blocks.setdefault(instance.block, []).append(instance)
    largest = max(map(len, blocks.values()))
    drawn = sample(pool, count * largest, seed=seed, unit="block")
    names = list(dict.fromkeys(instance.block for instance in drawn))
    order = np.random.default_rng([seed, _KEPT]).permutation(len(names))
    told = task.instructions
    made = []
    for turn in range(count):
        rounds, place = divmod(turn, len(names))
        instruction = told[(place + rounds) % len(told)]
        asked = (Question(each, instruction, 0) for each in blocks[names[order[place]]])
        made.append(Kept(task, tuple(asked)))
    return made
