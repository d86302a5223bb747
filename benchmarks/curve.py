"""Choosing the number of neurons out of ten: the race against one evaluation, and the full grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import excise
from benchmarks.timing import alternate
from excise.attribution import NeuronScores
from excise.config import PRESETS
from excise.evaluation import ask
from excise.methods import Choice, choose_patch, locate
from excise.splits import sample, split_instances
from excise.types import Predictions, Task

GRID = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50)


def measure(items: int = 48, rounds: int = 1) -> dict[str, Any]:
    """Cost of the choice in evaluations, and how far the choice is from the grid's.

    Args:
        items: tune instances under one instruction.
        rounds: how often each side is timed.
    """
    torch.set_num_threads(1)
    loaded = excise.load()
    task = excise.load_task("bbq-age")
    assert isinstance(task, Task)
    quick = PRESETS["quick"]
    few = quick.attribution.model_copy(update={"instances": 4, "instructions": 1})
    settings = {"grid": GRID, "tune_instances": items}
    config = quick.model_copy(
        update={"attribution": few, "selection": quick.selection.model_copy(update=settings)}
    )
    racing = config.model_copy(
        update={"selection": config.selection.model_copy(update={"search": "racing"})}
    )
    split = split_instances(task.instances, by="template", seed=0)
    scores: NeuronScores = locate(loaded, task, split.find, config, seed=0)
    found: dict[str, Choice] = {}
    instances = sample(split.tune, items, seed=0, unit="block")

    def choose(name: str, options: Any) -> None:
        found[name] = choose_patch(loaded, task, split.tune, scores, options, seed=0, provenance={})

    def evaluate() -> None:
        said = ask(loaded, task, instances, config, instructions=task.instructions[:1])
        assert isinstance(said, Predictions)

    sides = alternate(
        {
            "race": lambda: choose("race", racing),
            "evaluation": evaluate,
            "grid": lambda: choose("grid", config),
        },
        rounds,
    )
    race, grid = (
        {**sides.described(name, "evaluation"), "items": items} for name in ("race", "grid")
    )
    full = {point.n: point.objective for point in found["grid"].curve}
    chosen = {name: len(choice.patch) for name, choice in found.items()}
    lost = full[chosen["grid"]] - full[chosen["race"]]
    return {
        "keys": {"curve_cost": race["ratio"]},
        "details": {
            "curve_cost": race,
            "curve_cost_of_the_grid": grid,
            "curve_chosen": chosen,
            "curve_accuracy_lost": lost,
            # Two standard errors of a difference, were the answers independent.
            "curve_tune_interval": 1.96 * float(np.sqrt(0.5 / len(instances))),
        },
    }
