"""Guarded CRISPR: neurons proposed cheaply, measured, and excised only within declared limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from excise.attribution import NeuronScores
from excise.errors import ConfigError
from excise.evaluation import ArrayJournal
from excise.methods.crispr import located
from excise.methods.guarded.cost import Cost
from excise.methods.guarded.guards import check_names, own_limits
from excise.methods.guarded.others import Other, other_guards
from excise.methods.guarded.panel import Panel, Reading, questions
from excise.methods.guarded.proposals import Proposer
from excise.methods.guarded.search import Move, Search, State
from excise.methods.method import Excision, Fitted, Fitting
from excise.methods.resuming import digest_of
from excise.models import LoadedModel, packed_linears, unpacked
from excise.patches import Patch, changes_of, factor_of, scaled_outputs
from excise.scoring import KeptStates, reusing
from excise.types import Neuron


@dataclass(frozen=True)
class Guarded:
    """Excise the neurons that measurably help, as long as nothing else is lost beyond a limit."""

    name: str = "guarded"
    description: str = (
        "neurons proposed by first-order effects, measured, kept within limits on damage"
    )
    scores: NeuronScores | None = None
    """CRISPR's bias scores of the find split, where they are known already."""

    def fit(self, fitting: Fitting) -> Fitted:
        """Search on a sample of find and tune."""
        return self.excise(fitting)

    def excise(self, fitting: Fitting) -> Excision:
        """As `fit`; the result is known to be a patch, empty where nothing helps within limits.

        Raises:
            UnknownNameError: a guard that nothing measures.
            ConfigError: generated answers, whose shares cannot be compared.
        """
        config, loaded, task = fitting.config, fitting.loaded, fitting.task
        check_names(config.guard.max_loss, task)
        if config.scoring.mode == "generation":
            raise ConfigError(
                f"method {self.name!r} compares shares of options, and generated answers have "
                "none; use --set scoring.mode=scoring or leave the method out."
            )
        began, cost = time.monotonic(), Cost(fitting.progress)
        guard = config.guard
        asked, sizes = questions(
            task,
            fitting.split.find + fitting.split.tune,
            sizes=(guard.screening_instances, guard.instances),
            instructions=guard.instructions,
            seed=fitting.seed,
        )
        others = other_guards(loaded, task, config, seed=fitting.seed, advance=cost.scored)
        panel = Panel(loaded, task, asked, config.scoring, cost.scored)
        notes = _Notes(fitting.journal, self._decides(fitting, panel), cost)
        with packed_linears(loaded.model):
            original = Reading.of(notes.once("original", (), lambda: panel.read().listed()))
        limits = own_limits(guard.max_loss, original) | {o.name: o.limit for o in others}
        with reusing(loaded, config.scoring) as states:
            judge = _Judge(loaded, panel, others, notes, states)
            search = Search(judge, original, limits, min(sizes), guard)
            ranking = None if guard.proposals == "effects" else self._ranking(fitting, cost)
            proposer = Proposer(loaded, task, config, asked, cost.attributed, ranking)
            scores: dict[Move, float] = {}
            for number in range(guard.rounds):
                fitting.progress.stage(f"{task.name}: proposing neurons (round {number + 1})")
                states.expect(())  # gradients need the memory
                proposed = judge.proposals(proposer, search.state, first=number == 0)
                scores |= proposed
                fitting.progress.stage(f"{task.name}: measuring neurons (round {number + 1})")
                with packed_linears(loaded.model):
                    grew = search.extend(tuple(proposed))
                if not grew:
                    break
            with packed_linears(loaded.model):
                search.finish()
        patch = Patch(
            neurons=tuple(move.neuron for move in search.state),
            scores=tuple(scores[move] for move in search.state),
            base_model=loaded.name,
            base_digest=loaded.digest,
            factor=factor_of(config.patch),
            provenance={**fitting.provenance, "method": self.name},
            factors=tuple(move.factor for move in search.state),
        )
        facts = {
            "candidates": len(scores),
            "reason": search.reason(),
            "path": [step.described() for step in search.path],
            "original": original.summary(),
            "guards": _guards(guard.max_loss, limits, search),
            "rejected": dict(search.rejected),
            "cost": cost.described(),
            "seconds": round(time.monotonic() - began, 1),
        }
        return Excision(self.name, patch, facts)

    def _decides(self, fitting: Fitting, panel: Panel) -> str:
        """Digest of all that decides what the search reads."""
        config = fitting.config
        return digest_of(
            fitting.loaded,
            fitting.task,
            [question.instance for question in panel.questions],
            self.name,
            [question.instruction for question in panel.questions],
            [getattr(config, name).model_dump(mode="json") for name in _SECTIONS],
            fitting.seed,
        )

    def _ranking(self, fitting: Fitting, cost: Cost) -> NeuronScores:
        """CRISPR's scores: given, or those that other methods of this split use too."""
        if self.scores is not None:
            return self.scores
        fitting.progress.stage(f"{fitting.task.name}: locating bias neurons")
        scores = located(fitting)
        cost.counts["attributed"] += scores.n_prompts
        return scores


_SECTIONS = ("guard", "attribution", "scoring", "patch", "text")
"""Options that decide what the search reads."""


@dataclass(frozen=True)
class _Notes:
    """What an interrupted search has found out, with what it cost."""

    journal: ArrayJournal | None
    decides: str
    cost: Cost

    def once(self, what: str, state: State, compute: Callable[[], Any]) -> Any:
        """JSON values out of the journal, or computed now and put there."""
        if self.journal is None:
            return compute()
        moves = sorted((m.neuron.module, m.neuron.index, m.factor) for m in state)
        key = f"{self.decides} {what} {moves}"
        kept = self.journal.get(key)
        if kept is None:
            before = dict(self.cost.counts)
            value = compute()
            spent = {name: count - before[name] for name, count in self.cost.counts.items()}
            self.journal.put(key, {"value": value, "spent": spent})
            return value
        self.cost.scored(kept["spent"]["scored"])
        self.cost.attributed(kept["spent"]["attributed"])
        return kept["value"]


@dataclass
class _Judge:
    """Answers for a loaded model; what was read once is not read again."""

    loaded: LoadedModel
    panel: Panel
    others: tuple[Other, ...]
    notes: _Notes
    states: KeptStates
    kept: dict[tuple[frozenset[Move], int, int], Reading] = field(default_factory=dict)

    def read(self, state: State, start: int, stop: int) -> Reading:
        key = (frozenset(state), start, stop)
        if key not in self.kept:
            listed = self.notes.once(
                f"read {start} {stop}", state, lambda: self._read(state, start, stop).listed()
            )
            self.kept[key] = Reading.of(listed)
        return self.kept[key]

    def _read(self, state: State, start: int, stop: int) -> Reading:
        with self.patched(state):
            return self.panel.read(start, stop)

    def expect(self, states: Sequence[State]) -> None:
        self.states.expect(
            [changes_of([m.neuron for m in s], [m.factor for m in s]) for s in states]
        )

    def other_losses(self, state: State) -> Mapping[str, float]:
        def measured() -> dict[str, float]:
            with self.patched(state):
                return {other.name: other.loss() for other in self.others}

        losses: Mapping[str, float] = self.notes.once(
            f"others {[other.digest for other in self.others]}", state, measured
        )
        return losses

    def proposals(self, proposer: Proposer, state: State, *, first: bool) -> dict[Move, float]:
        """New candidates, best first: for the unpatched model, or in a state of the search."""

        def found() -> list[list[Any]]:
            with self.patched(() if first else state):
                made = proposer.first() if first else proposer.by_effects()
            return [
                [m.neuron.module, int(m.neuron.index), float(m.factor), float(score)]
                for m, score in made.items()
            ]

        listed = self.notes.once(f"proposals {first}", state, found)
        return {Move(Neuron(name, index), f): score for name, index, f, score in listed}

    @contextmanager
    def patched(self, state: State) -> Iterator[None]:
        """The patched model; only the maps that differ are packed anew."""
        neurons = [move.neuron for move in state]
        changed = {neuron.module: self.loaded.linear(neuron.module) for neuron in neurons}
        with (
            unpacked(tuple(changed.values())),
            scaled_outputs(self.loaded.model, neurons, [move.factor for move in state]),
        ):
            yield


def _guards(
    asked: Mapping[str, float], limits: Mapping[str, float], search: Search
) -> dict[str, Any]:
    """Every guard with its limit and what the patch costs; None where it does not apply."""
    losses = search.path[-1].losses if search.path else dict.fromkeys(limits, 0.0)
    return {
        name: {"limit": limit, "loss": losses.get(name) if name in limits else None}
        for name, limit in asked.items()
    }
