"""The training loop: updates, measurements in between, and the choice of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

import torch
from transformers import get_scheduler

from excise.config import FinetuningConfig
from excise.methods.finetuning.change import WeightChange
from excise.methods.finetuning.objective import equalised_loss, likelihood_loss
from excise.methods.finetuning.recipes import Recipe
from excise.methods.finetuning.retention import Replay
from excise.methods.finetuning.trainable import Trainable
from excise.models import LoadedModel
from excise.scoring import EncodedPrompt

Stop = Literal["all steps done", "no better step", "loss not finite"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was measured after some updates."""

    step: int
    """Updates done; 0 is the original."""
    loss: float
    """The objective on pairs held out."""
    retention: float
    """The metric on the tune split."""


@dataclass(frozen=True)
class Training:
    """How training went, and what it left."""

    losses: tuple[float, ...]
    """The objective on each update's pairs, before the update, without replay."""
    checks: tuple[Check, ...]
    best_step: int
    stopped: Stop
    change: WeightChange


@dataclass
class _Choice:
    """The best step so far: the lowest held-out loss among those that keep enough."""

    recipe: Recipe
    checks: list[Check] = field(default_factory=list)
    best: Check | None = None
    worse: int = 0
    """Measurements in a row that were no better."""

    def add(self, check: Check) -> bool:
        """Whether this step is the best so far."""
        self.checks.append(check)
        better = self._allowed(check) and (
            self.best is None or self.recipe.keep == "last" or check.loss < self.best.loss
        )
        if better:
            self.best = check
        self.worse = 0 if better else self.worse + 1
        return better

    def _allowed(self, check: Check) -> bool:
        if not isfinite(check.loss):
            return False
        if self.recipe.tolerance is None:
            return check.step > 0
        # Shares such as 0.475 and 0.525 - 0.05 differ by rounding alone.
        return check.retention >= self.checks[0].retention - self.recipe.tolerance - 1e-9


def train(
    loaded: LoadedModel,
    trainable: Trainable,
    recipe: Recipe,
    options: FinetuningConfig,
    *,
    steps: int,
    check_every: int,
    batches: Iterator[Sequence[EncodedPrompt]],
    held_out: Sequence[EncodedPrompt],
    replay: Replay,
    retention: Callable[[], float],
    advance: Callable[[int], None],
) -> Training:
    """Train, measure every `check_every` updates, keep the best step.

    The best step has the lowest objective on held-out pairs among those whose retention is not
    more than the tolerance below the original's; the original itself competes. Training stops
    after `patience` measurements in a row without a better step.
    """
    optimizer = torch.optim.AdamW(
        trainable.parameters, lr=recipe.learning_rate, weight_decay=options.weight_decay
    )
    schedule = get_scheduler(
        "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        optimizer,
        num_warmup_steps=round(recipe.warmup * steps),
        num_training_steps=steps,
    )
    choice, losses = _Choice(recipe), []
    change = WeightChange(loaded.name, loaded.digest)

    def measure(step: int) -> bool:
        nonlocal change
        loss = held_out_loss(loaded, held_out, options, batch_size=recipe.batch_size)
        better = choice.add(Check(step, loss, retention()))
        if better and step > 0:
            change = trainable.snapshot()
        return better

    measure(0)
    stopped: Stop = "all steps done"
    for step in range(1, steps + 1):
        loaded.model.train()
        items = next(batches)
        objective = _objective(loaded, items, options)
        losses.append(objective.item())
        # One after the other: both graphs at once would take twice the memory.
        if not _backward(objective) or not all(
            _backward(term)
            for term in replay.terms(loaded, step - 1, options, kl_weight=recipe.kl_weight)
        ):
            stopped = "loss not finite"
            break
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(trainable.parameters, recipe.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        advance(len(items))
        if step % check_every == 0 or step == steps:
            measure(step)
            if recipe.tolerance is not None and choice.worse >= options.patience:
                stopped = "no better step"
                break
    best = choice.best.step if choice.best else 0
    return Training(tuple(losses), tuple(choice.checks), best, stopped, change)


@torch.no_grad()
def held_out_loss(
    loaded: LoadedModel,
    items: Sequence[EncodedPrompt],
    options: FinetuningConfig,
    *,
    batch_size: int,
) -> float:
    """The objective, mean over pairs that were not trained on."""
    loaded.model.eval()
    total = 0.0
    for start in range(0, len(items), batch_size):
        some = items[start : start + batch_size]
        total += _objective(loaded, some, options).item() * len(some)
    return total / len(items)


def _backward(loss: torch.Tensor) -> bool:
    """Add a loss's gradients to those that are there; False, and nothing is done, if it is NaN."""
    if not isfinite(loss.item()):
        return False
    loss.backward()  # type: ignore[no-untyped-call]
    return True


def _objective(
    loaded: LoadedModel, items: Sequence[EncodedPrompt], options: FinetuningConfig
) -> torch.Tensor:
    loss = equalised_loss if options.objective == "equalised" else likelihood_loss
    return loss(loaded, items)
