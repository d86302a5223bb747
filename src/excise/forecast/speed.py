"""How fast this machine is, from a few seconds of the work itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from excise.attribution import attribute
from excise.config import RunConfig
from excise.evaluation import predict
from excise.models import LoadedModel
from excise.types import Task

_SUSTAINED = 0.6
"""Share of the speed of a large matrix product that forward passes reach."""
_INSTANCES = 24
_ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """FLOPs per second, as `excise.forecast.costs` counts them."""

    scoring: float
    attribution: float


def measured_speed(
    loaded: LoadedModel,
    task: Task,
    config: RunConfig,
    flops: Callable[[int, str], float],
) -> Speed:
    """The speed of scoring and attributing some instances, or of matrix products without weights.

    Args:
        loaded: the model, perhaps on the meta device.
        task: whose first instances are asked.
        config: the options of the run.
        flops: what a number of its first instances under one instruction costs, by kind of work.
    """
    if loaded.device.type == "meta":
        product = _product() * _SUSTAINED
        return Speed(product, product)
    some = task.instances[:_INSTANCES]
    few = some[: 2 * config.attribution.batch_size]
    told = task.instructions[:1]
    scoring = _seconds(lambda: predict(loaded, task, some, config.scoring, instructions=told))
    attribution = _seconds(
        lambda: attribute(loaded, task, few, config.attribution, instructions=told)
    )
    return Speed(
        flops(len(some), "original") / scoring,
        flops(len(few), "find") / attribution,
    )


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _product(size: int = 1024) -> float:
    """FLOPs per second of a float32 matrix product."""
    one = torch.ones(size, size)
    one @ one
    return float(2 * size**3 / _seconds(lambda: one @ one))
