"""Gated excision: candidates by first-order effects, factors by gradient, the decision by measure.

Questions of some templates teach the factors; questions of other templates decide how far to go: a
state counts only if what it lost there is within the limits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from excise.attribution import competing_sites
from excise.attribution.effects import Question
from excise.errors import ConfigError
from excise.methods.gated.gates import Gates
from excise.methods.gated.training import Lesson
from excise.methods.guarded.cost import Cost
from excise.methods.guarded.guards import OWN, OtherTask, check_names, other_tasks, own_limits
from excise.methods.guarded.panel import Panel, Reading, questions
from excise.methods.guarded.proposals import Proposer
from excise.methods.method import Excision, Fitted, Fitting
from excise.models import LoadedModel, packed_linears
from excise.patches import Patch, scaled_outputs
from excise.types import Instance, Neuron

_UNCHANGED = 0.02
"""Factors that differ from 1 by less are left at 1."""

State = dict[Neuron, float]


@dataclass(frozen=True)
class Tried:
    """One state that was measured on the deciding questions."""

    epoch: int
    strength: float
    factors: State
    reading: Reading
    losses: Mapping[str, float]
    exceeded: str | None
    """The first guard whose limit does not hold."""

    def described(self) -> dict[str, Any]:
        """Values as JSON."""
        return {
            "epoch": self.epoch,
            "strength": self.strength,
            "neurons": len(self.factors),
            **self.reading.summary(),
            "losses": dict(self.losses),
            "exceeded": self.exceeded,
        }


@dataclass(frozen=True)
class Gated:
    """Scale a few neurons by learned factors, as far as the limits on damage allow."""

    name: str = "gated"
    description: str = (
        "outputs scaled by learned factors, as far as declared limits on damage allow"
    )

    def fit(self, fitting: Fitting) -> Fitted:
        """Learn on some templates of find and tune, decide on the others."""
        return self.excise(fitting)

    def excise(self, fitting: Fitting) -> Excision:
        """As `fit`; the result is a patch, empty where nothing helps within the limits.

        Raises:
            UnknownNameError: a guard that nothing measures.
            ConfigError: generated answers, whose shares have no gradient; float16.
        """
        config, loaded, task = fitting.config, fitting.loaded, fitting.task
        check_names(config.guard.max_loss, task)
        if config.scoring.mode == "generation":
            raise ConfigError(
                f"method {self.name!r} learns from shares of options, and generated answers have "
                "none; use --set scoring.mode=scoring or leave the method out."
            )
        began, cost = time.monotonic(), Cost(fitting.progress)
        gate = config.gate
        teach, decide = held_out(
            fitting.split.find + fitting.split.tune, gate.deciding_share, fitting.seed
        )
        asked = [
            questions(task, pool, sizes=(size,), instructions=gate.instructions, seed=fitting.seed)[
                0
            ]
            for pool, size in ((teach, gate.instances), (decide, gate.deciding_instances))
        ]
        panels = [Panel(loaded, task, each, config.scoring, cost.scored) for each in asked]
        with packed_linears(loaded.model):
            teaching, original = (panel.read() for panel in panels)
        others = other_tasks(loaded, task, config, seed=fitting.seed, advance=cost.scored)
        limits = own_limits(config.guard.max_loss, original) | {o.name: o.limit for o in others}
        fitting.progress.stage(f"{task.name}: proposing neurons")
        gates = Gates.of(loaded, _candidates(fitting, asked[0], cost))
        lesson = Lesson(loaded, task, asked[0], teaching, config.scoring, gate, cost.attributed)
        judge = _Judge(loaded, panels[1], original, limits, others)
        tried: list[Tried] = []
        fitting.progress.stage(f"{task.name}: learning factors")
        for epoch in lesson.epochs(gates, fitting.seed):
            for strength in gate.strengths:
                factors = dict(zip(gates.neurons, gates.factors(strength), strict=True))
                tried.append(judge.tried(epoch, strength, _changed(factors)))
        best = self._best(tried, original)
        state = best.factors if best else {}
        patch = Patch(
            neurons=tuple(state),
            scores=tuple(abs(1.0 - factor) for factor in state.values()),
            base_model=loaded.name,
            base_digest=loaded.digest,
            provenance={**fitting.provenance, "method": self.name},
            factors=tuple(state.values()),
        )
        facts = {
            "candidates": len(gates.neurons),
            "templates": {
                "teach": len({i.template for i in teach}),
                "decide": len({i.template for i in decide}),
            },
            "original": original.summary(),
            "chosen": best.described() if best else None,
            "tried": [each.described() for each in tried],
            "limits": dict(limits),
            "cost": cost.described(),
            "seconds": round(time.monotonic() - began, 1),
        }
        return Excision(self.name, patch, facts)

    def _best(self, tried: list[Tried], original: Reading) -> Tried | None:
        """The best measured state within the limits, if it is better than the original.

        By accuracy, contexts of both kinds with equal weight, which is what is reported; the
        objective breaks ties.
        """
        within = [each for each in tried if each.exceeded is None and each.factors]
        best = max(within, key=lambda each: _worth(each.reading), default=None)
        return best if best and _worth(best.reading) > _worth(original) else None


@dataclass(frozen=True)
class _Judge:
    """Measures states on the deciding questions."""

    loaded: LoadedModel
    panel: Panel
    original: Reading
    limits: Mapping[str, float]
    others: tuple[OtherTask, ...]

    def tried(self, epoch: int, strength: float, factors: State) -> Tried:
        """One state, other tasks asked only where the own limits hold."""
        neurons = tuple(factors)
        with (
            scaled_outputs(self.loaded.model, neurons, [factors[n] for n in neurons]),
            packed_linears(self.loaded.model),
        ):
            reading = self.panel.read()
            losses = {n: OWN[n](self.original, reading) for n in self.limits if n in OWN}
            if self._exceeded(losses) is None:
                losses |= {other.name: other.loss() for other in self.others}
        return Tried(epoch, strength, factors, reading, losses, self._exceeded(losses))

    def _exceeded(self, losses: Mapping[str, float]) -> str | None:
        # Rounding: 1/2 - 0.48 is a hair above 0.02. A NaN is above every limit.
        held = {name: loss <= self.limits[name] + 1e-9 for name, loss in losses.items()}
        return next((name for name, holds in held.items() if not holds), None)


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
    order = np.random.default_rng([seed, 2]).permutation(len(names))
    n_deciding = min(len(names) - 1, max(1, math.ceil(share * len(names))))
    deciding = {names[place] for place in order[:n_deciding]}
    return (
        tuple(i for i, unit in zip(pool, units, strict=True) if unit not in deciding),
        tuple(i for i, unit in zip(pool, units, strict=True) if unit in deciding),
    )


def _worth(reading: Reading) -> tuple[float, float]:
    parts = [reading.accuracy(among) for among in (reading.decided, ~reading.decided)]
    known = [part for part in parts if part is not None]
    return float(np.mean(known)), reading.objective


def _changed(factors: State) -> State:
    return {n: factor for n, factor in factors.items() if abs(factor - 1.0) >= _UNCHANGED}


def _candidates(fitting: Fitting, asked: tuple[Question, ...], cost: Cost) -> Sequence[Neuron]:
    """All neurons that compete, or the best by first-order effects in either direction."""
    config = fitting.config
    if config.gate.neurons is None:
        sites = competing_sites(fitting.loaded, config.attribution)
        return [Neuron(site.module, index) for site in sites for index in range(site.size)]
    guard = config.guard.model_copy(
        update={"factors": (0.0, 2.0), "candidates": config.gate.neurons}
    )
    proposing = config.model_copy(update={"guard": guard})
    proposer = Proposer(fitting.loaded, fitting.task, proposing, asked, cost.attributed)
    return [move.neuron for move in proposer.by_effects()]
