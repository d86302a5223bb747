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
from excise.models import LoadedModel
from excise.scoring import encode
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

    They come from the find and tune splits of these tasks, without items of the tasks that the run
    mitigates and of those that guard, in random order; the tasks take turns, and the instructions
    of each. Items without a condition count as decided.

    Args:
        task: that the patch is for; where it is named itself, it is left out.
        config: which tasks are kept, and under how many instructions (`gate.instructions`).
        count: how many blocks; small tasks come back.
        seed: decides which, and their order.

    Returns:
        Nothing where no other task is kept.

    Raises:
        UnknownNameError: a task that nobody knows.
        SplitError: a task with too few templates for find, tune and test.
        ConfigError: the only task of the run is the only one that is named; a text; a task without
            correct options, without items of its own, or without a context that decides the answer.
    """
    names = list(dict.fromkeys(config.gate.keep))
    if not names:
        return ()
    mitigated = tasks_of_run(task, config)
    taken = {item.content for item in task.instances}
    taken |= {
        item.content for item in guarding_items(config, mitigated) if not isinstance(item, Passage)
    }
    pools: list[tuple[Task, list[Instance]]] = []
    for name in names:
        other, pool = pool_of(name, config, mitigated, role="kept task")
        assert isinstance(other, Task)
        if other.digest == task.digest:
            continue
        decided = [i for i in pool if i.condition != "ambiguous" and i.content not in taken]
        if not decided:
            raise ConfigError(
                f"kept task {name!r} holds no question of its own whose context decides the answer "
                "and that guards nothing."
            )
        pools.append((other, decided))
    if not pools and len(mitigated) == 1:
        raise ConfigError(
            f"gate.keep names {task.name!r} alone, which the patch is for; name other tasks."
        )
    each = -(-count // max(len(pools), 1))
    turns = [
        _asked(other, decided, config.gate.instructions, count=each, seed=seed)
        for other, decided in pools
    ]
    ordered = (kept for several in zip(*turns, strict=True) for kept in several)
    return tuple(islice(ordered, count))


def check_encodable(loaded: LoadedModel, kept: Sequence[Kept], *, end_token: bool) -> None:
    """Encode every kept question once, so that none fails after an hour of learning.

    Raises:
        ConfigError: as `excise.scoring.encode`; names the task.
    """
    for each in kept:
        asked = [question.instance for question in each.questions]
        try:
            encode(loaded, each.task, each.questions[0].instruction, asked, end_token=end_token)
        except ConfigError as error:
            raise ConfigError(f"kept task {each.task.name!r}: {error}") from error


def _asked(
    task: Task, pool: Sequence[Instance], instructions: int | None, *, count: int, seed: int
) -> list[Kept]:
    """`count` blocks of one task; all that are drawn are asked before one comes back."""
    blocks: dict[str, list[Instance]] = {}
    for instance in pool:
        blocks.setdefault(instance.block, []).append(instance)
    largest = max(map(len, blocks.values()))
    drawn = sample(pool, count * largest, seed=seed, unit="block")
    names = list(dict.fromkeys(instance.block for instance in drawn))
    order = np.random.default_rng([seed, _KEPT]).permutation(len(names))
    told = task.instructions[:instructions]
    made = []
    for turn in range(count):
        rounds, place = divmod(turn, len(names))
        instruction = told[(place + rounds) % len(told)]
        asked = (Question(each, instruction, 0) for each in blocks[names[order[place]]])
        made.append(Kept(task, tuple(asked)))
    return made
