"""Questions that decide for the guarded search: few, the same for every state of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from excise.attribution.effects import Question
from excise.config import ScoringConfig
from excise.evaluation import predict
from excise.models import LoadedModel
from excise.splits import sample
from excise.types import BoolArray, FloatArray, Instance, IntArray, Predictions, Task

_COLUMNS = ("correct", "share", "gold", "decided")
"""Fields of a reading."""


@dataclass(frozen=True)
class Reading:
    """What one state of a model answered to the questions of a panel. N questions."""

    correct: BoolArray
    """[N] whether the chosen option is the gold one."""
    share: FloatArray
    """[N] log of the gold option's share in a softmax of what options are compared by, in nats: it
    moves before the answer does, so that few questions can tell small effects apart."""
    gold: FloatArray
    """[N] log-likelihood of the gold option per token, in nats."""
    decided: BoolArray
    """[N] whether the context decides the answer; True where the task does not say."""

    @property
    def objective(self) -> float:
        """Mean log share, ambiguous and other contexts with equal weight, in nats, at most 0."""
        parts = [self.share[kind] for kind in (self.decided, ~self.decided) if kind.any()]
        return float(np.mean([part.mean() for part in parts]))

    def accuracy(self, among: BoolArray | None = None) -> float | None:
        """Share of correct answers, 0..1; None where nothing is looked at."""
        looked = self.correct if among is None else self.correct[among]
        return float(looked.mean()) if looked.size else None

    def summary(self) -> dict[str, float | None]:
        """The numbers of a report."""
        return {
            "objective": self.objective,
            "accuracy": self.accuracy(),
            "accuracy_ambiguous": self.accuracy(~self.decided),
            "accuracy_disambiguated": self.accuracy(self.decided),
        }

    def listed(self) -> dict[str, list[Any]]:
        """The numbers as JSON values, exact."""
        return {name: getattr(self, name).tolist() for name in _COLUMNS}

    @classmethod
    def of(cls, listed: Mapping[str, list[Any]]) -> Reading:
        """The reading that `listed` gave."""
        return cls(
            correct=np.array(listed["correct"], dtype=np.bool_),
            share=np.array(listed["share"], dtype=np.float64),
            gold=np.array(listed["gold"], dtype=np.float64),
            decided=np.array(listed["decided"], dtype=np.bool_),
        )

    def first(self, n: int) -> Reading:
        """The reading of the first n questions alone."""
        return Reading(self.correct[:n], self.share[:n], self.gold[:n], self.decided[:n])


@dataclass(frozen=True)
class Panel:
    """Questions of one task, in an order whose beginnings are balanced samples too."""

    loaded: LoadedModel
    task: Task
    questions: tuple[Question, ...]
    config: ScoringConfig
    advance: Callable[[int], None]

    def read(self, start: int = 0, stop: int | None = None) -> Reading:
        """What the model answers, in the state that it is in.

        Raises:
            NonFiniteError: a log-likelihood that is NaN or infinite; names the instance.
        """
        asked = self.questions[start:stop]
        parts: list[Reading] = []
        places: list[int] = []
        for instruction in dict.fromkeys(question.instruction for question in asked):
            chosen = [n for n, q in enumerate(asked) if q.instruction == instruction]
            said = predict(
                self.loaded,
                self.task,
                [asked[n].instance for n in chosen],
                self.config,
                instructions=(instruction,),
                advance=self.advance,
            )
            parts.append(reading(said))
            places += chosen
        return joined(parts, np.argsort(places).astype(np.int64))


def questions(
    task: Task,
    pool: Sequence[Instance],
    *,
    sizes: Sequence[int],
    instructions: int | None,
    seed: int,
) -> tuple[tuple[Question, ...], tuple[int, ...]]:
    """A sample of whole blocks, the smaller sizes first, each block under one instruction.

    Whole blocks hold as many ambiguous as disambiguated contexts, and the instructions take turns.

    Args:
        task: whose instructions.
        pool: what is sampled.
        sizes: growing numbers of instances; each sample contains the one before.
        instructions: how many of the task's take turns; None for all.
        seed: decides the sample.

    Returns:
        The questions, grouped by template and condition, and how many belong to each size (fewer
        than wanted where the pool is small or blocks do not fit).
    """
    told = task.instructions[:instructions]
    ordered: dict[str, Instance] = {}
    counts = []
    for size in sizes:
        for instance in sample(pool, size, seed=seed, unit="block"):
            ordered.setdefault(instance.id, instance)
        counts.append(len(ordered))
    blocks = {name: n for n, name in enumerate(dict.fromkeys(i.block for i in ordered.values()))}
    groups: dict[tuple[str, str | None], int] = {}
    made = tuple(
        Question(
            instance,
            told[blocks[instance.block] % len(told)],
            groups.setdefault((instance.template, instance.condition), len(groups)),
        )
        for instance in ordered.values()
    )
    return made, tuple(counts)


def reading(said: Predictions) -> Reading:
    """A reading from answers under one instruction."""
    assert said.compared is not None
    assert said.log_likelihood is not None
    assert said.n_tokens is not None
    n = np.arange(len(said.gold))
    compared = said.compared[0]
    # A missing option has no share.
    whole = np.logaddexp.reduce(np.where(np.isnan(compared), -np.inf, compared), axis=1)
    per_token = said.log_likelihood[0] / np.maximum(said.n_tokens[0], 1)
    return Reading(
        correct=said.choice[0] == said.gold,
        share=compared[n, said.gold] - whole,
        gold=per_token[n, said.gold],
        decided=~said.ambiguous,
    )


def joined(parts: Sequence[Reading], order: IntArray | None = None) -> Reading:
    """Several readings as one, in the given order of their questions; none is an empty one."""
    if not parts:
        nobody, nothing = np.zeros(0, dtype=np.bool_), np.zeros(0)
        return Reading(nobody, nothing, nothing, nobody)
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    if order is not None:
        columns = {name: values[order] for name, values in columns.items()}
    return Reading(**columns)
