"""Gated excision: factors by gradient, of all neurons and then of few; the decision by measure.

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
from excise.errors import ConfigError
from excise.methods.gated.gates import Gates
from excise.methods.gated.passes import passes
from excise.methods.gated.training import Lesson, Steps
from excise.methods.guarded.cost import Cost
from excise.methods.guarded.guards import OWN, OtherTask, check_names, other_tasks, own_limits
from excise.methods.guarded.panel import Panel, Reading, questions
from excise.methods.method import Excision, Fitted, Fitting
from excise.models import LoadedModel, packed_linears
from excise.patches import Patch, scaled_outputs
from excise.types import Instance, Neuron

_UNCHANGED = 0.02
"""Factors that differ from 1 by less are left at 1."""

_DECIDING = 21
"""Stream of random numbers of its own, beside those of splits and passes."""

State = dict[Neuron, float]


@dataclass(frozen=True)
class Tried:
    """One state that was measured on the deciding questions."""

    strength: float
    factors: State
    reading: Reading
    losses: Mapping[str, float]
    exceeded: str | None
    """The first guard whose limit does not hold."""

    def described(self) -> dict[str, Any]:
        """Values as JSON."""
        return {
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
        sites = competing_sites(loaded, config.attribution)
        gates = Gates.of(loaded, [Neuron(s.module, i) for s in sites for i in range(s.size)])
        teach, decide = held_out(
            fitting.split.find + fitting.split.tune, gate.deciding_share, fitting.seed
        )
        taught = passes(task, teach, gate, fitting.seed)
        asked = tuple(question for each in taught for question in each)
        deciding, _ = questions(
            task,
            decide,
            sizes=(gate.deciding_instances,),
            instructions=gate.instructions,
            seed=fitting.seed,
        )
        panels = [Panel(loaded, task, q, config.scoring, cost.scored) for q in (asked, deciding)]
        with packed_linears(loaded.model):
            teaching, original = (panel.read() for panel in panels)
        others = other_tasks(loaded, task, config, seed=fitting.seed, advance=cost.scored)
        limits = own_limits(config.guard.max_loss, original) | {o.name: o.limit for o in others}
        lesson = Lesson(loaded, task, taught, teaching, config.scoring, gate, cost.attributed)
        judge = _Judge(loaded, panels[1], original, limits, others)
        fitting.progress.stage(f"{task.name}: learning factors")
        stages = _learned(lesson, gates)
        fitting.progress.stage(f"{task.name}: deciding how far")
        tried = [state for gates in stages for state in judge.down(gates, gate.strengths)]
        best = _best(tried, original, gate.few_tolerance)
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
            "neurons_with_factors": [len(gates.neurons) for gates in stages],
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


@dataclass(frozen=True)
class _Judge:
    """Measures states on the deciding questions."""

    loaded: LoadedModel
    panel: Panel
    original: Reading
    limits: Mapping[str, float]
    others: tuple[OtherTask, ...]

    def tried(self, strength: float, factors: State) -> Tried:
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
        return Tried(strength, factors, reading, losses, self._exceeded(losses))

    def down(self, gates: Gates, strengths: Sequence[float]) -> list[Tried]:
        """States from the strongest down, until one holds the limits.

        The best of many would hold them by luck.
        """
        states: list[Tried] = []
        for strength in sorted(strengths, reverse=True):
            states.append(self.tried(strength, _moved(gates, strength)))
            if states[-1].exceeded is None:
                break
        return states

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
    order = np.random.default_rng([seed, _DECIDING]).permutation(len(names))
    n_deciding = min(len(names) - 1, max(1, math.ceil(share * len(names))))
    deciding = {names[place] for place in order[:n_deciding]}
    return (
        tuple(i for i, unit in zip(pool, units, strict=True) if unit not in deciding),
        tuple(i for i, unit in zip(pool, units, strict=True) if unit in deciding),
    )


def _worth(state: Tried) -> tuple[float, float]:
    return _worth_of(state.reading)


def _worth_of(reading: Reading) -> tuple[float, float]:
    parts = [reading.accuracy(among) for among in (reading.decided, ~reading.decided)]
    known = [part for part in parts if part is not None]
    return float(np.mean(known)), reading.objective


def _moved(gates: Gates, strength: float = 1.0) -> State:
    """Neurons whose learned factors differ from 1, with factors part of the way."""
    learned = zip(gates.neurons, gates.factors(), gates.factors(strength), strict=True)
    return {n: part for n, whole, part in learned if abs(whole - 1.0) >= _UNCHANGED}


def _learned(lesson: Lesson, every: Gates) -> list[Gates]:
    """The factors of all neurons, and of as few as wanted; whichever may be the patch.

    Those whose reset would cost most stay, fewer in every further pass.
    """
    gate, asked = lesson.config, lesson.passes
    wide = Steps(gate.learning_rate, gate.low, gate.high, gate.sparsity)
    costs = lesson.learn(every, asked[: gate.epochs], wide)
    moved = len(_moved(every))
    if gate.neurons is None or not moved:
        return [every]
    gates = every
    few = Steps(gate.few_learning_rate, gate.few_low, gate.few_high, 0.0)
    for number in range(1, gate.few_epochs + 1):
        ratio = min(1.0, gate.neurons / moved) ** (number / gate.few_epochs)
        gates = gates.only(costs, round(moved * ratio))
        costs = lesson.learn(gates, asked[gate.epochs + number - 1 :][:1], few)
    return [gates] if gate.few_only else [every, gates]


def _best(tried: Sequence[Tried], original: Reading, tolerance: float) -> Tried | None:
    """A state within the limits that is better than the original: as few neurons as will do.

    Accuracy decides, contexts of both kinds with equal weight, which is what is reported; the
    objective breaks ties between states.
    """
    within = [each for each in tried if each.exceeded is None]
    better = [each for each in within if _worth(each)[0] > _worth_of(original)[0]]
    best = max(better, key=_worth, default=None)
    if best is None:
        return None
    as_good = [each for each in better if _worth(each)[0] >= _worth(best)[0] - tolerance]
    return min(as_good, key=lambda each: len(each.factors))
