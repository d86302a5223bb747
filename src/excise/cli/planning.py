"""What `power` compares: how large a task is, and how much its templates varied in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from excise.evidence import StoredRun
    from excise.metrics import Metric
    from excise.types import AnyTask


def opened(folder: Path) -> StoredRun:
    """The run that shows how much templates vary.

    Raises:
        RunFolderError: it is none.
    """
    from excise.evidence import open_run

    return open_run(folder, evaluation=True)


@dataclass(frozen=True)
class Size:
    """What of a task is measured by a metric."""

    task: str
    metric: Metric
    items: int
    templates: int
    all_items: int
    all_templates: int
    split: bool
    """Whether a run tests on half of the templates only."""

    @classmethod
    def of(cls, name: str, metric: str | None, limit: int | None, data_dir: str | None) -> Size:
        """The items that a metric looks at; of a task with correct answers those of the test split.

        Raises:
            ExciseError: the task or the metric is not known, or there is no such item.
        """
        from excise.splits import sample, split_instances
        from excise.tasks import load_task
        from excise.types import Task

        task = load_task(name, data_dir=Path(data_dir) if data_dir else None)
        chosen = _metric(task, metric)
        every = [item for item in task.instances if _counts(item, chosen)]
        # Runs split a task with correct answers; other tasks are measured whole.
        split = isinstance(task, Task) and all(item.gold >= 0 for item in task.instances)
        tested: Sequence[Any] = task.instances
        if split and isinstance(task, Task):
            tested = split_instances(task.instances, by="template", seed=0).test
        asked = sample(tested, limit, seed=0, unit="block")
        counted = [item for item in asked if _counts(item, chosen)]
        if not counted:
            raise ConfigError(f"task {task.name!r} has no items that {chosen.name} looks at.")
        return cls(
            task.name,
            chosen,
            len(counted),
            len({item.template for item in counted}),
            len(every),
            len({item.template for item in every}),
            split,
        )


def _metric(task: AnyTask, name: str | None) -> Metric:
    from excise.metrics import metrics_of

    known = {metric.name: metric for metric in metrics_of(task)}
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise UnknownNameError("metric", name, known)
    return known[name]


def _counts(item: Any, metric: Metric) -> bool:
    """Whether a metric looks at an item: some look at contexts of one kind only."""
    condition = getattr(item, "condition", None)
    if metric.name.endswith(("_disambiguated", "_dis")) or metric.name == "nonalignment_cost":
        return bool(condition == "disambiguated")
    if metric.name.endswith(("_ambiguous", "_amb")):
        return bool(condition == "ambiguous")
    return True


@dataclass(frozen=True)
class Observed:
    """How a metric varied between the templates of a run."""

    deviation: float
    difference: float
    templates: int
    items: int

    @classmethod
    def of(cls, run: StoredRun, task: str, metric: Metric) -> Observed:
        """Original against patched, over all trials.

        Raises:
            ConfigError: the run has no such task, or nothing varied.
        """
        from excise.statistics import Pair, pooled_difference

        if task not in run.tasks:
            raise ConfigError(
                f"{run.path} has no task {task!r}; it has {', '.join(run.tasks)}: name one of them "
                "with --task."
            )
        trials = len(run.run["tasks"][task].get("trials") or [None])
        original = run.predictions(task, "original")
        pairs = [
            Pair(original, run.predictions(task, "patched", trial), task) for trial in range(trials)
        ]
        found = pooled_difference(
            metric.function,
            pairs,
            metric_name=metric.name,
            n_resamples=run.config.resamples,
            seed=run.config.seed,
            ideal=metric.ideal,
        )
        if not found.standard_error or found.difference is None:
            raise ConfigError(
                f"{run.path}: {metric.name} of {task} has no variance between templates (nothing "
                "changed, it is undefined, or there is one template); leave --baseline out."
            )
        counted = sum(_counts(item, metric) for item in original.instances)
        deviation = found.standard_error * found.n_clusters**0.5
        return cls(deviation, found.difference, found.n_clusters, counted)
