"""Candidates: the neurons that look worth measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from excise.attribution import NeuronScores, competing_sites
from excise.attribution.effects import Effects, Question, effects, gold_log_likelihood, log_share
from excise.config import RunConfig
from excise.evaluation.choices import how_compared
from excise.methods.crispr import locate
from excise.models import LoadedModel
from excise.patches import factor_of
from excise.selection import RankedNeuron, top
from excise.types import FloatArray, Instance, Task


@dataclass(frozen=True)
class Proposer:
    """Where candidates come from."""

    loaded: LoadedModel
    task: Task
    config: RunConfig
    find: Sequence[Instance]
    """What CRISPR's ranking is made from."""
    questions: Sequence[Question]
    """What first-order effects are averaged over."""
    seed: int
    advance: Callable[[int], None]
    scores: NeuronScores | None = None
    """CRISPR's bias scores where they are known already."""

    def first(self) -> tuple[RankedNeuron, ...]:
        """Candidates for the unpatched model, best first."""
        guard = self.config.guard
        wanted = guard.candidates
        lists = []
        if guard.proposals in ("crispr", "both"):
            scores = self.scores or locate(
                self.loaded, self.task, self.find, self.config, seed=self.seed, advance=self.advance
            )
            lists.append(self._top(scores.by_module))
        if guard.proposals in ("effects", "both"):
            lists.append(self.by_effects())
        return alternating(lists)[:wanted]

    def by_effects(self) -> tuple[RankedNeuron, ...]:
        """Candidates by first-order effects in the state that the model is in."""
        found = effects(
            self.loaded,
            self.task,
            self.questions,
            (log_share, gold_log_likelihood),
            competing_sites(self.loaded, self.config.attribution),
            normalisation=how_compared(self.loaded, self.task, self.config.scoring),
            end_token=self.config.scoring.end_token,
            advance=self.advance,
        )
        change = factor_of(self.config.patch) - 1.0
        return self._top(predicted_gains(found, self.questions, change))

    def _top(self, scores: Mapping[str, FloatArray]) -> tuple[RankedNeuron, ...]:
        available = sum(map(len, scores.values()))
        return top(scores, min(self.config.guard.candidates, available))


def predicted_gains(
    found: Effects, questions: Sequence[Question], change: float, *, damage_weight: float = 0.5
) -> dict[str, FloatArray]:
    """Predicted gain of the objective for every neuron, less its uncertainty and its damage.

    The uncertainty is the standard error over templates: neurons that help on one template only
    are no candidates. The damage is the predicted loss of the gold text's log-likelihood per token
    where the context decides the answer.

    Args:
        found: derivatives of the log share and of the gold log-likelihood, by group.
        questions: what they are averaged over; a group is one template under one condition.
        change: factor minus 1, for zeroing -1.
        damage_weight: what a nat of damage weighs against a nat of gain.

    Returns:
        Module -> [neurons].
    """
    conditions = {q.group: q.instance.condition == "ambiguous" for q in questions}
    open_groups = [group for group, is_open in conditions.items() if is_open]
    decided = [group for group, is_open in conditions.items() if not is_open]
    parts = [groups for groups in (open_groups, decided) if groups]
    gains = {}
    for module, values in found.by_module.items():
        shares, gold = change * values
        mean = np.mean([shares[groups].mean(axis=0) for groups in parts], axis=0)
        variance = (
            sum(shares[groups].var(axis=0) / len(groups) for groups in parts) / len(parts) ** 2
        )
        damage = np.maximum(-gold[decided].mean(axis=0), 0.0) if decided else 0.0
        gains[module] = mean - np.sqrt(variance) - damage_weight * damage
    return gains


def alternating(lists: Sequence[Sequence[RankedNeuron]]) -> tuple[RankedNeuron, ...]:
    """The lists' entries in turns, each neuron once."""
    chosen: dict[object, RankedNeuron] = {}
    for place in range(max(map(len, lists), default=0)):
        for entries in lists:
            if place < len(entries):
                chosen.setdefault(entries[place].neuron, entries[place])
    return tuple(chosen.values())
