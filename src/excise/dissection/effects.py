"""What parts of a patch do on the tune split: one neuron, all but one, or any other part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from excise.config import ScoringConfig
from excise.dissection.elimination import eliminate
from excise.evaluation import predict
from excise.metrics import METRICS, value
from excise.models import LoadedModel, packed_linears, unpacked
from excise.patches import Patch
from excise.scoring import KeptStates, reusing
from excise.types import Instance, Neuron, Predictions, Task

Objective = Literal["accuracy", "log_share"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one state of the model does on the tune sample; None where it is not defined."""

    objective: float
    """Accuracy, 0..1, or the mean log share of the gold option, in nats."""
    accuracy: float | None
    accuracy_ambiguous: float | None
    accuracy_disambiguated: float | None
    gold_log_probability: float | None
    """Mean log-likelihood of the gold option per token, in nats."""

    def minus(self, other: Measured) -> dict[str, float | None]:
        """The change from `other` to this."""
        mine, theirs = asdict(self), asdict(other)
        return {
            name: None if mine[name] is None or theirs[name] is None else mine[name] - theirs[name]
            for name in mine
        }


@dataclass
class TunePanel:
    """The tune sample, put to the model under parts of one patch; no part is asked twice."""

    loaded: LoadedModel
    task: Task
    patch: Patch
    instances: tuple[Instance, ...]
    instructions: tuple[str, ...]
    scoring: ScoringConfig
    objective: Objective
    advance: Callable[[int], None]
    asked: int = 0
    """Sets measured."""
    _known: dict[frozenset[Neuron], Measured] = field(default_factory=dict)
    _kept: KeptStates | None = None

    @property
    def prompts(self) -> int:
        """Prompts of one measurement."""
        return len(self.instances) * len(self.instructions)

    def measure(self, neurons: Sequence[Neuron]) -> Measured:
        """What the model does with only these neurons of the patch excised."""
        key = frozenset(neurons)
        if key not in self._known:
            self.asked += 1
            with self._applied(part(self.patch, key)):
                said = predict(
                    self.loaded,
                    self.task,
                    self.instances,
                    self.scoring,
                    instructions=self.instructions,
                    advance=self.advance,
                )
            self._known[key] = measured(said, self.objective)
        return self._known[key]

    def expect(self, parts: Sequence[Sequence[Neuron]]) -> None:
        """Say which parts are measured next, so that they share what they have in common."""
        if self._kept is not None:
            left = [frozenset(own) for own in parts if frozenset(own) not in self._known]
            self._kept.expect([part(self.patch, own).changes for own in left])

    def known(self, neurons: Sequence[Neuron]) -> Measured | None:
        """What was measured before; None where nothing was."""
        return self._known.get(frozenset(neurons))

    @contextmanager
    def _applied(self, patch: Patch) -> Iterator[None]:
        linears = [self.loaded.linear(m) for m in {neuron.module for neuron in patch.neurons}]
        with unpacked(linears), patch.applied(self.loaded):
            yield

    @contextmanager
    def ready(self) -> Iterator[None]:
        """A block in which many parts are measured: what no patch touches is packed once."""
        with packed_linears(self.loaded.model), reusing(self.loaded, self.scoring) as kept:
            self._kept = kept
            try:
                yield
            finally:
                self._kept = None


def part(patch: Patch, neurons: frozenset[Neuron] | set[Neuron]) -> Patch:
    """The patch with some of its neurons only, in its own order."""
    places = [n for n, neuron in enumerate(patch.neurons) if neuron in neurons]
    return replace(
        patch,
        neurons=tuple(patch.neurons[n] for n in places),
        scores=tuple(patch.scores[n] for n in places),
        factors=tuple(patch.factors[n] for n in places) if patch.factors else (),
    )


def measured(said: Predictions, objective: Objective) -> Measured:
    """The numbers of one state."""
    numbers = {
        name: value(METRICS[name], said)
        for name in ("accuracy", "accuracy_ambiguous", "accuracy_disambiguated")
    }
    gold = None
    aim = numbers["accuracy"] or 0.0
    if said.log_likelihood is not None and said.n_tokens is not None:
        rows = np.arange(len(said.gold))
        per_token = said.log_likelihood / np.maximum(said.n_tokens, 1)
        gold = float(per_token[:, rows, said.gold].mean())
    if objective == "log_share":
        assert said.compared is not None
        compared = np.where(np.isnan(said.compared), -np.inf, said.compared)
        share = compared[:, np.arange(len(said.gold)), said.gold]
        share = share - np.logaddexp.reduce(compared, axis=2)
        # Both kinds of context with equal weight, as the guarded search takes it.
        kinds = [share[:, kind] for kind in (said.ambiguous, ~said.ambiguous) if kind.any()]
        aim = float(np.mean([own.mean() for own in kinds]))
    return Measured(objective=aim, gold_log_probability=gold, **numbers)


def one_by_one(panel: TunePanel, neurons: Sequence[Neuron]) -> tuple[dict[str, Any], ...]:
    """Each neuron left out of the patch, and each alone, as JSON values.

    Args:
        panel: the tune sample.
        neurons: of the patch.

    Returns:
        `leave_one_out`: what taking the neuron back out of the patch changes (the patch without it
        minus the patch). `alone`: what it changes by itself (it alone minus the original).
    """
    everything = panel.patch.neurons
    others = {n: [other for other in everything if other != n] for n in neurons}
    panel.expect([(), everything, *(own for n in neurons for own in (others[n], [n]))])
    original, patched = panel.measure(()), panel.measure(everything)
    base: dict[str, Any] = {"original": asdict(original), "patched": asdict(patched)}
    without, alone = [], []
    for neuron in neurons:
        names = {"module": neuron.module, "index": neuron.index}
        rest = panel.measure(others[neuron])
        without.append({**names, **rest.minus(patched)})
        alone.append({**names, **panel.measure([neuron]).minus(original)})
    return {**base, "neurons": without}, {**base, "neurons": alone}


def smallest(panel: TunePanel, *, tolerance: float, limit: int) -> tuple[Patch, dict[str, Any]]:
    """The smallest part of the patch that keeps the objective on the tune sample.

    Neurons are dropped in the order of what the objective loses without each, the probability of
    the gold option breaking ties; where that was not measured, the lowest scores go first.

    Args:
        panel: the tune sample.
        tolerance: how much of the objective may be lost.
        limit: sets measured here, at most.

    Returns:
        The patch, and how it came about as JSON values.
    """
    before = panel.asked
    everything = panel.patch.neurons
    original, patched = panel.measure(()), panel.measure(everything)
    least = patched.objective - tolerance

    def loss(neuron: Neuron) -> tuple[float, float, int]:
        rank = everything.index(neuron)
        rest = panel.known([other for other in everything if other != neuron])
        if rest is None:
            # Not measured one by one, since its score is low: tried before all others.
            return -np.inf, 0.0, -rank
        gold = (patched.gold_log_probability or 0.0) - (rest.gold_log_probability or 0.0)
        return patched.objective - rest.objective, gold, -rank

    found = eliminate(
        everything,
        lambda rest: panel.measure(rest).objective >= least - 1e-12,
        order=sorted(everything, key=loss),
        limit=limit,
    )
    patch = part(panel.patch, set(found.kept))
    left = panel.measure(found.kept)
    return patch, {
        "n": len(patch),
        "of": len(everything),
        "objective": panel.objective,
        "tolerance": tolerance,
        "original": asdict(original),
        "patched": asdict(patched),
        "minimal": asdict(left),
        "neurons": [{"module": n.module, "index": n.index} for n in patch.neurons],
        "complete": found.complete,
        "sets_tried": found.asked,
        "sets_measured": panel.asked - before,
        "prompts_scored": (panel.asked - before) * panel.prompts,
    }
