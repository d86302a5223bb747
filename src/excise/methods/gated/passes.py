"""Which questions teach and which decide; what each pass asks, and in which batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from excise.attribution.effects import Question
from excise.config import GateConfig
from excise.errors import ConfigError
from excise.splits import sample
from excise.types import Instance, Task

_DECIDING, _ORDER = 21, 22
"""Streams of random numbers, beside those of splits."""


def held_out(
    pool: tuple[Instance, ...], share: float, seed: int
) -> tuple[tuple[Instance, ...], tuple[Instance, ...]]:
    """Instances that teach, and those of other templates that decide.

    Where there is one template only, its blocks are divided instead.

    Args:
        pool: instances of find and tune.
        share: part of the templates that decides, 0..1; at least one decides and one teaches.
        seed: decides which.

    Raises:
        ConfigError: nothing to divide.
    """
    by_template = len({instance.template for instance in pool}) > 1
    units = [instance.template if by_template else instance.block for instance in pool]
    names = sorted(set(units))
    if len(names) < 2:
        raise ConfigError(
            "method 'gated' needs two questions at least, one to learn from and one to decide by."
        )
    order = np.random.default_rng([seed, _DECIDING]).permutation(len(names))
    n_deciding = min(len(names) - 1, max(1, math.ceil(share * len(names))))
    deciding = {names[place] for place in order[:n_deciding]}
    return (
        tuple(i for i, unit in zip(pool, units, strict=True) if unit not in deciding),
        tuple(i for i, unit in zip(pool, units, strict=True) if unit in deciding),
    )


def passes(
    task: Task, pool: Sequence[Instance], gate: GateConfig, seed: int
) -> tuple[tuple[Question, ...], ...]:
    """The questions of every pass: whole blocks, new ones as long as the pool has any.

    Each block is asked under one instruction; the instructions take turns, and a block that comes
    back in a later pass is asked under the next one.

    Args:
        task: whose instructions.
        pool: what teaches.
        gate: how many instances a pass has, how many passes there are, how many instructions.
        seed: decides which blocks, and their order.
    """
    told = task.instructions[: gate.instructions]
    blocks: dict[str, list[Instance]] = {}
    for instance in sample(pool, gate.instances * gate.passes, seed=seed, unit="block"):
        blocks.setdefault(instance.block, []).append(instance)
    order = np.random.default_rng([seed, _ORDER]).permutation(len(blocks))
    names = [list(blocks)[place] for place in order]
    made: list[tuple[Question, ...]] = []
    drawn = 0
    for _ in range(gate.passes):
        asked: list[Question] = []
        taken = 0
        # A pass holds no block twice, so a small pool makes short passes.
        while taken < len(names) and len(asked) < gate.instances:
            rounds, place = divmod(drawn, len(names))
            instruction = told[(place + rounds) % len(told)]
            asked += [Question(each, instruction, 0) for each in blocks[names[place]]]
            drawn += 1
            taken += 1
        made.append(tuple(asked))
    return tuple(made)


def batches(asked: Sequence[Question], size: int) -> list[tuple[Question, ...]]:
    """Questions in steps of `size`, in their order, whole blocks together.

    A block holds the same question with and without the context that decides it. Both in one step
    pull the factors towards what tells them apart; one kind alone pulls towards "unknown"
    everywhere, or nowhere.

    Args:
        asked: questions, those of a block next to each other.
        size: questions in a batch; a larger block is a batch of its own.
    """
    made: list[tuple[Question, ...]] = []
    batch: tuple[Question, ...] = ()
    blocks: dict[str, tuple[Question, ...]] = {}
    for question in asked:
        name = question.instance.block
        blocks[name] = (*blocks.get(name, ()), question)
    for block in blocks.values():
        if batch and len(batch) + len(block) > size:
            made.append(batch)
            batch = ()
        batch += block
    return [*made, batch] if batch else made
