"""Limits on damage: what a patch may cost, measured on questions that took no part in the report.

A guard compares a state of the model with the original on the same questions and gives one number,
the loss; the search accepts no state whose loss is above the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from excise.errors import ConfigError, UnknownNameError
from excise.methods.guarded.panel import Reading
from excise.tasks import TASKS
from excise.types import Task

DISAMBIGUATED = "disambiguated"
GOLD_PROBABILITY = "gold_probability"

Loss = Callable[[Reading, Reading], float]
"""From the original's and a state's reading of the same questions to a loss, 0 for no change."""


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


def own_limits(max_loss: Mapping[str, float], original: Reading) -> dict[str, float]:
    """The limits that the task's own questions can check.

    A task without contexts that decide the answer has no such answers to lose.
    """
    own = {name: limit for name, limit in max_loss.items() if name in OWN}
    return own if original.decided.any() else {}


def check_names(max_loss: Mapping[str, float], task: Task) -> None:
    """Refuse guards that nothing measures, before any work is done.

    Raises:
        UnknownNameError: neither a guard of the task's own questions nor another task or text.
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
