"""Gated excision: factors by gradient, of all neurons and then of few; the decision by measure.

Questions of some templates teach the factors; questions of other templates decide how far to go: a
state counts only if what it lost there is within the limits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.attribution import competing_sites
from excise.attribution.effects import Question
from excise.config import GateConfig
from excise.errors import ConfigError
from excise.methods.gated.deciding import Judge, chosen_of
from excise.methods.gated.gates import Gates
from excise.methods.gated.keeping import Kept, check_encodable, kept_questions
from excise.methods.gated.passes import batches, held_out, passes
from excise.methods.gated.training import Lesson, Steps, gold_of
from excise.methods.guarded.cost import Cost
from excise.methods.guarded.guards import OWN, check_names, own_limits
from excise.methods.guarded.others import other_guards
from excise.methods.guarded.panel import Panel, questions
from excise.methods.method import Excision, Fitted, Fitting
from excise.models import packed_linears
from excise.patches import Patch
from excise.types import Instance, Neuron


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
            ConfigError: generated answers, whose shares have no gradient; float16; damage that no
                deciding question could show.
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
        deciding, _ = questions(
            task,
            decide,
            sizes=(gate.deciding_instances,),
            instructions=gate.instructions,
            seed=fitting.seed,
        )
        _check_shown(config.guard.max_loss, teach + decide, deciding)
        kept = kept_questions(task, config, count=_kept_steps(taught, gate), seed=fitting.seed)
        check_encodable(loaded, kept, end_token=config.scoring.end_token)
        others = other_guards(loaded, task, config, seed=fitting.seed, advance=cost.scored)
        panel = Panel(loaded, task, deciding, config.scoring, cost.scored)
        with packed_linears(loaded.model):
            original = panel.read()
            teaching = gold_of(loaded, task, taught, config.scoring, cost.scored)
        limits = own_limits(config.guard.max_loss, original) | {o.name: o.limit for o in others}
        lesson = Lesson(loaded, task, taught, teaching, config.scoring, gate, cost.attributed)
        judge = Judge(loaded, panel, original, limits, others)
        fitting.progress.stage(f"{task.name}: learning factors")
        gates = _learned(lesson, gates, kept)
        fitting.progress.stage(f"{task.name}: deciding how far")
        tried = judge.down(gates, gate.strengths)
        best = chosen_of(tried, original)
        moved = best.factors if best else {}
        state = dict(sorted(moved.items(), key=lambda item: -abs(1.0 - item[1])))
        patch = Patch(
            neurons=tuple(state),
            scores=tuple(abs(1.0 - factor) for factor in state.values()),
            base_model=loaded.name,
            base_digest=loaded.digest,
            provenance={**fitting.provenance, "method": self.name, **_told_kept(kept)},
            factors=tuple(state.values()),
        )
        facts = {
            "neurons_with_factors": len(gates.neurons),
            "templates": {
                "teach": len({i.template for i in teach}),
                "decide": len({i.template for i in decide}),
                "kept": len(
                    {(k.task.name, q.instance.template) for k in kept for q in k.questions}
                ),
            },
            "original": original.summary(),
            "chosen": best.described() if best else None,
            "tried": [each.described() for each in tried],
            "limits": dict(limits),
            "cost": cost.described(),
            "seconds": round(time.monotonic() - began, 1),
        }
        return Excision(self.name, patch, facts)


def _check_shown(
    limits: Mapping[str, float], pool: Sequence[Instance], deciding: Sequence[Question]
) -> None:
    """Refuse deciding questions that cannot show what a limit is about."""
    limited = any(limits.get(name, 1.0) < 1.0 for name in OWN)
    asked = [question.instance for question in deciding]
    decided, shown = (any(i.condition != "ambiguous" for i in part) for part in (pool, asked))
    if limited and decided and not shown:
        raise ConfigError(
            "no question that decides how far 'gated' goes has a context that decides its answer, "
            "so damage there could not be limited; raise gate.deciding_share or "
            "gate.deciding_instances, or use another --seed."
        )


_FEWER = 3
"""Times as many neurons in a stage as in the next."""

_FASTER = 2.3
"""Times as large steps in a stage as in the one before."""


def _told_kept(kept: Sequence[Kept]) -> dict[str, Any]:
    """Which data taught beside the task's own; nothing where none did."""
    tasks = {each.task.digest: each.task.name for each in kept}
    told = [{"task": name, "data_digest": digest} for digest, name in tasks.items()]
    return {"kept": told} if told else {}


def _kept_steps(taught: Sequence[Sequence[Question]], gate: GateConfig) -> int:
    """Steps that ask kept questions: those of the few, or all where no stages follow."""
    first = gate.epochs if gate.neurons else 0
    return sum(len(batches(asked, gate.batch_size)) for asked in taught[first:])


def _learned(lesson: Lesson, every: Gates, kept: Sequence[Kept]) -> Gates:
    """The factors of all neurons, or of as few as wanted.

    Stage by stage, those whose reset would cost most stay and learn on. A factor of one among few
    has further to go, so the steps grow.
    """
    gate, asked, beside = lesson.config, lesson.passes, iter(kept)
    wide = Steps(gate.learning_rate, gate.low, gate.high, gate.sparsity)
    lesson.learn(every, asked[: gate.epochs], wide, None if gate.neurons else beside)
    if gate.neurons is None:
        return every
    gates, done = every, gate.epochs
    for left, n_passes in zip(reversed(range(len(gate.few_passes))), gate.few_passes, strict=True):
        costs = lesson.costs(gates, asked[done])
        gates = gates.only(costs, gate.neurons * _FEWER**left)
        rate = gate.few_learning_rate / _FASTER**left
        few = Steps(rate, gate.few_low, gate.few_high, sparsity=0.0)
        lesson.learn(gates, asked[done : done + n_passes], few, beside)
        done += n_passes
    return gates
