"""What a run found: per trial, per task, and pooled over tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from excise.attribution import NeuronScores
from excise.config import RunConfig
from excise.errors import NonFiniteError
from excise.metrics import METRICS, Metric, spread, value
from excise.patches import Patch
from excise.selection import CurvePoint
from excise.statistics import Pair, PooledEstimate, pooled_difference
from excise.types import Predictions, Split

HEADLINE = (
    "accuracy",
    "accuracy_ambiguous",
    "accuracy_disambiguated",
    "s_amb",
    "s_dis",
    "nonalignment_cost",
    "unknown_ambiguous",
    "unknown_disambiguated",
    "gold_probability_ambiguous",
    "gold_probability_disambiguated",
)
"""Metrics of the printed table. P(gold) is there because choosing the likeliest option hides that
all options may have become improbable."""


@dataclass(frozen=True)
class TrialResult:
    """One draw of find and tune: the patch that came out, and what it does to the test split."""

    number: int
    split: Split
    scores: NeuronScores | None
    """Scores of all neurons, where the method has such."""
    patch: Patch
    curve: tuple[CurvePoint, ...]
    facts: Mapping[str, Any]
    """What else the method found, as JSON values."""
    original: Predictions
    patched: Predictions
    controls: tuple[Predictions, ...]


@dataclass(frozen=True)
class TaskResult:
    """All trials of one task."""

    task: str
    licence: str
    citation: str
    data_digest: str
    metrics: tuple[str, ...]
    """Names of the metrics that apply."""
    trials: tuple[TrialResult, ...]
    union: Predictions | None = None
    """The test split under the union of all tasks' patches, where there are several tasks."""

    def with_union(self, union: Predictions) -> TaskResult:
        """This result with the answers under the union of all tasks' patches."""
        return replace(self, union=union)

    @property
    def best(self) -> TrialResult:
        """The trial that gained most on its tune split; test is not looked at.

        Gains are compared, since the trials' tune splits differ in difficulty.
        """
        return max(self.trials, key=lambda trial: _gain(trial.curve))

    def pairs(self) -> list[Pair]:
        """Original and patched of every trial."""
        return [Pair(trial.original, trial.patched, self.task) for trial in self.trials]


@dataclass(frozen=True)
class RunResult:
    """Everything that a run measured."""

    config: RunConfig
    model: str
    model_digest: str
    n_neurons: int
    tasks: tuple[TaskResult, ...]
    patch: Patch
    """The patch to use: of the trial that did best on tune; over several tasks, their union."""

    def estimates(self, tasks: Sequence[TaskResult] | None = None) -> list[PooledEstimate]:
        """Every metric original against patched: mean over tasks of the mean over trials."""
        chosen = self.tasks if tasks is None else tasks
        applies = {name for task in chosen for name in task.metrics}
        found = (
            estimate(metric, chosen, n_resamples=self.config.resamples, seed=self.config.seed)
            for name, metric in METRICS.items()
            if name in applies
        )
        return [entry for entry in found if entry is not None]


def estimate(
    metric: Metric, tasks: Iterable[TaskResult], *, n_resamples: int, seed: int
) -> PooledEstimate | None:
    """One metric with the interval of its difference and its values under the random controls.

    Returns:
        None where the metric is not defined (no such instances, or no log-likelihoods). Control k
        of the estimate is the mean over tasks and trials of their k-th draws.
    """
    chosen = list(tasks)
    try:
        pooled = pooled_difference(
            metric.function,
            [pair for task in chosen for pair in task.pairs()],
            metric_name=metric.name,
            n_resamples=n_resamples,
            seed=seed,
        )
    except NonFiniteError:
        return None
    if pooled.original is None and pooled.patched is None:
        return None
    draws = min(len(trial.controls) for task in chosen for trial in task.trials)
    return replace(pooled, controls=tuple(_control(metric, chosen, k) for k in range(draws)))


def _control(metric: Metric, tasks: Sequence[TaskResult], draw: int) -> float | None:
    per_task = [
        _mean(value(metric, trial.controls[draw]) for trial in task.trials) for task in tasks
    ]
    return _mean(per_task)


def over_instructions(metric: Metric, task: TaskResult, state: str) -> float | None:
    """Standard deviation over instructions (the paper's consistency), mean over trials."""
    states = (trial.original if state == "original" else trial.patched for trial in task.trials)
    return _mean(spread(metric, predictions) for predictions in states)


def _gain(curve: Sequence[CurvePoint]) -> float:
    """Best objective on tune minus that of n = 0; 0 without a curve."""
    original = next((point.objective for point in curve if point.n == 0), 0.0)
    return max((point.objective for point in curve), default=0.0) - original


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return sum(defined) / len(defined) if defined else None
