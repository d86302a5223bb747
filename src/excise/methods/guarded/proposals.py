"""Candidates: the neurons that look worth measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from excise.attribution import NeuronScores, competing_sites
from excise.attribution.effects import Effects, Question, effects, gold_log_likelihood, log_share
from excise.config import RunConfig
from excise.evaluation.choices import how_compared
from excise.methods.guarded.search import Move
from excise.models import LoadedModel
from excise.patches import factor_of
from excise.selection import rank
from excise.types import FloatArray, Neuron, Task


@dataclass(frozen=True)
class Proposer:
    """Where candidates come from."""

    loaded: LoadedModel
    task: Task
    config: RunConfig
    questions: Sequence[Question]
    """What first-order effects are averaged over."""
    advance: Callable[[int], None]
    scores: NeuronScores | None = None
    """CRISPR's bias scores, where they propose."""

    def first(self) -> dict[Move, float]:
        """Candidates for the unpatched model, best first, with the score of their neuron."""
        guard = self.config.guard
        lists = []
        if self.scores is not None:
            lists.append(self._top({factor_of(self.config.patch): self.scores.by_module}))
        if guard.proposals in ("effects", "both"):
            lists.append(self.by_effects())
        return alternating(lists, guard.candidates)

    def by_effects(self) -> dict[Move, float]:
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
        return self._top(
            {
                factor: predicted_gains(found, self.questions, factor - 1.0)
                for factor in self.config.guard.factors
            }
        )

    def _top(self, by_factor: Mapping[float, Mapping[str, FloatArray]]) -> dict[Move, float]:
        """The best neurons over all factors, each with its best factor."""
        limit = self.config.guard.candidates
        ranked = [
            (Move(entry.neuron, factor), entry.score)
            for factor, scores in by_factor.items()
            for entry in rank(scores, limit=limit)
        ]
        best: dict[Neuron, tuple[Move, float]] = {}
        for move, score in sorted(ranked, key=lambda entry: -entry[1]):
            best.setdefault(move.neuron, (move, score))
        return dict(list(best.values())[:limit])


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


def alternating(lists: Sequence[Mapping[Move, float]], limit: int) -> dict[Move, float]:
    """The lists' entries in turns, each once, up to a limit."""
    chosen: dict[Move, float] = {}
    for entries in zip_longest(*(scores.items() for scores in lists)):
        for entry in entries:
            if entry is not None and len(chosen) < limit:
                chosen.setdefault(*entry)
    return chosen
