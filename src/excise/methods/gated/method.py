"""Gated excision: factors by gradient, of all neurons and then of few; the decision by measure.

Questions of some templates teach the factors; questions of other templates decide how far to go: a
state counts only if what it lost there is within the limits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from excise.attribution import competing_sites
from excise.errors import ConfigError
from excise.methods.gated.deciding import Judge, best_of, moved_by
from excise.methods.gated.gates import Gates
from excise.methods.gated.passes import held_out, passes
from excise.methods.gated.training import Lesson, Steps
from excise.methods.guarded.cost import Cost
from excise.methods.guarded.guards import check_names, other_tasks, own_limits
from excise.methods.guarded.panel import Panel, questions
from excise.methods.method import Excision, Fitted, Fitting
from excise.models import packed_linears
from excise.patches import Patch
from excise.types import Neuron


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
        judge = Judge(loaded, panels[1], original, limits, others)
        fitting.progress.stage(f"{task.name}: learning factors")
        stages = _learned(lesson, gates)
        fitting.progress.stage(f"{task.name}: deciding how far")
        tried = [state for gates in stages for state in judge.down(gates, gate.strengths)]
        best = best_of(tried, original, gate.few_tolerance)
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


def _learned(lesson: Lesson, every: Gates) -> list[Gates]:
    """The factors of all neurons, and of as few as wanted; whichever may be the patch.

    Those whose reset would cost most stay, fewer in every further pass.
    """
    gate, asked = lesson.config, lesson.passes
    wide = Steps(gate.learning_rate, gate.low, gate.high, gate.sparsity)
    costs = lesson.learn(every, asked[: gate.epochs], wide)
    moved = len(moved_by(every))
    if gate.neurons is None or not moved:
        return [every]
    gates = every
    few = Steps(gate.few_learning_rate, gate.few_low, gate.few_high, 0.0)
    for number in range(1, gate.few_epochs + 1):
        ratio = min(1.0, gate.neurons / moved) ** (number / gate.few_epochs)
        gates = gates.only(costs, round(moved * ratio))
        costs = lesson.learn(gates, asked[gate.epochs + number - 1 :][:1], few)
    return [gates] if gate.few_only else [every, gates]
