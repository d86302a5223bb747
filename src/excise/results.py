"""What a run found: per trial, per task, and pooled over tasks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from excise.attribution import NeuronScores
from excise.config import RunConfig, StatisticsConfig
from excise.errors import NonFiniteError
from excise.metrics import METRICS, Metric, spread, value
from excise.patches import Patch
from excise.selection import CurvePoint
from excise.statistics import Measured, Pair, PooledEstimate, judged, pooled_difference
from excise.statistics import changes as split_changes
from excise.types import Predictions, Split

POOLED = "(all tasks)"
"""Name of what is averaged over tasks, where there are several."""

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
    prompt_format: str = ""
    """Layout of the prompts over instruction, options and the instances' fields."""
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
    weights_unchanged: bool = False
    """Whether the patch leaves every weight as it was, so that both models are the same."""

    @cached_property
    def paired(self) -> Mapping[str, tuple[PooledEstimate, ...]]:
        """Task (and `POOLED`, over several) -> every metric original against patched.

        Each metric is a mean over tasks of the mean over trials. The p-values are corrected for
        each other over all tasks and metrics; docs/statistics.md explains every number.
        """
        rows: dict[str, tuple[TaskResult, ...]] = {task.task: (task,) for task in self.tasks}
        if len(self.tasks) > 1:
            rows[POOLED] = self.tasks
        return self._judged(rows)

    @cached_property
    def changes(self) -> Mapping[str, Mapping[str, Any]]:
        """Task -> what kind of answers changed, see `excise.statistics.changes`.

        `over_abstention` stands beside: answers "unknown" where the context decides, as the row of
        `paired`, with the number of answers that were right before; None where nothing decides.
        """
        return {task.task: self._changes(task) for task in self.tasks}

    def estimates(self, tasks: Sequence[TaskResult] | None = None) -> list[PooledEstimate]:
        """The rows of `paired` of one task, or over several tasks; over all by default."""
        chosen = tuple(self.tasks if tasks is None else tasks)
        if len(chosen) == 1 and any(chosen[0] is task for task in self.tasks):
            return list(self.paired[chosen[0].task])
        if len(chosen) == len(self.tasks) > 1 and set(map(id, chosen)) == set(map(id, self.tasks)):
            return list(self.paired[POOLED])
        return list(self._judged({POOLED: chosen})[POOLED])

    def _judged(
        self, rows: Mapping[str, tuple[TaskResult, ...]]
    ) -> dict[str, tuple[PooledEstimate, ...]]:
        measured: list[Measured] = []
        names: list[str] = []
        for name, tasks in rows.items():
            applies = {metric for task in tasks for metric in task.metrics}
            for metric in METRICS.values():
                found = estimate(metric, tasks, self.config) if metric.name in applies else None
                if found is not None:
                    measured.append(to_judge(metric, found, self.config.statistics, family=name))
                    names.append(name)
        settings = self.config.statistics
        said = judged(measured, correction=settings.correction, power=settings.power)
        return {
            name: tuple(found for found, of in zip(said, names, strict=True) if of == name)
            for name in rows
        }

    def _changes(self, task: TaskResult) -> dict[str, Any]:
        options = {"n_resamples": self.config.resamples, "seed": self.config.seed}
        found = split_changes(task.pairs(), level=self.config.statistics.level, **options)
        rows = [row for row in self.paired[task.task] if row.metric == "unknown_disambiguated"]
        over = None
        if rows and "disambiguated" in found:
            over = {**asdict(rows[0]), "right_before": _now_unknown(task.trials)}
        return {**found, "over_abstention": over}


def estimate(
    metric: Metric, tasks: Iterable[TaskResult], config: RunConfig
) -> PooledEstimate | None:
    """One metric with the interval of its difference and its values under the random controls.

    Returns:
        None where the metric is not defined (no such instances, or no log-likelihoods). Control k
        of the estimate is the mean over tasks and trials of their k-th draws. There is no verdict
        yet, since p-values are corrected for each other.
    """
    chosen = list(tasks)
    try:
        pooled = pooled_difference(
            metric.function,
            [pair for task in chosen for pair in task.pairs()],
            metric_name=metric.name,
            n_resamples=config.resamples,
            level=config.statistics.level,
            seed=config.seed,
            ideal=metric.ideal,
        )
    except NonFiniteError:
        return None
    if pooled.original is None and pooled.patched is None:
        return None
    draws = min(len(trial.controls) for task in chosen for trial in task.trials)
    return replace(pooled, controls=tuple(_control(metric, chosen, k) for k in range(draws)))


def to_judge(
    metric: Metric, found: PooledEstimate, settings: StatisticsConfig, *, family: Hashable = ""
) -> Measured:
    """A difference with its metric's ideal, margin and unit, for `excise.statistics.judged`.

    Args:
        metric: what was measured.
        found: the difference.
        settings: the margin.
        family: what sets tests apart whose numbers are the same, such as the task.
    """
    scaled = metric.unit in ("%", "points")
    if scaled:
        margin: float | None = settings.margin
    else:
        margin = None if found.original is None else settings.margin * abs(found.original)
    return Measured(
        found,
        metric.ideal,
        margin,
        _points if scaled else lambda size: f"{size:.3g} {metric.unit}".strip(),
        family,
    )


def _points(size: float) -> str:
    text = f"{100 * size:.3g}"
    return f"{text} point{'' if text == '1' else 's'}"


def _now_unknown(trials: Sequence[TrialResult]) -> int:
    """Answers that were right where the context decides, and are "unknown" after."""
    total = 0
    for trial in trials:
        before, after = trial.original, trial.patched
        unknown = (after.choice == after.unknown) & (after.choice >= 0)
        right = (before.choice == before.gold) & (before.gold != before.unknown)
        total += int((before.disambiguated & right & unknown).sum())
    return total


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
