"""What a comparison found, as JSON values: means, spreads, paired intervals, retention, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from excise import __version__
from excise.comparing.comparison import ORIGINAL, Comparison, State
from excise.comparing.retention import Retention
from excise.errors import NonFiniteError
from excise.evidence import environment
from excise.metrics import METRICS, Metric, metrics_of, spread, value
from excise.statistics import Pair, pooled_difference
from excise.types import Answers

POOLED = "(all tasks)"
_OWN_FACTS = ("fit_seconds", "fit_work", "weights_unchanged", "neurons")


def record(comparison: Comparison) -> dict[str, Any]:
    """The comparison with one row for each method, task and metric.

    A row of `metrics` holds the value (mean over trials of the mean over instructions), its
    standard deviations over trials and over instructions, and the paired difference to the original
    with its interval over templates. `retention` holds the same of the retention tasks, their
    answers pooled over the trials; `cost` what fitting took.
    """
    names = [task.name for task in comparison.tasks]
    return {
        "model_name": comparison.model,
        "model_digest": comparison.model_digest,
        "config": comparison.config.model_dump(mode="json"),
        "methods": list(comparison.methods),
        "tasks": names,
        "retention_tasks": [entry.name for entry in comparison.retention],
        "n-samples": {
            **{task: len(comparison.of(ORIGINAL, task)[0].test.instances) for task in names},
            **{entry.name: len(entry.instances) for entry in comparison.retention},
        },
        "metrics": _metrics(comparison),
        "retention": _retention(comparison),
        "cost": _cost(comparison),
        "environment": environment(),
        "excise": __version__,
    }


def _metrics(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    several = [POOLED] if len(comparison.tasks) > 1 else []
    applies = dict.fromkeys(metric.name for task in comparison.tasks for metric in metrics_of(task))
    for name in (*(task.name for task in comparison.tasks), *several):
        tasks = [t.name for t in comparison.tasks] if name == POOLED else [name]
        for method in comparison.methods:
            for metric in (METRICS[m] for m in applies):
                row = _row(comparison, method, tasks, metric)
                if row:
                    rows.append({"task": name, "method": method, "metric": metric.name, **row})
    return rows


def _row(
    comparison: Comparison, method: str, tasks: Sequence[str], metric: Metric
) -> dict[str, Any] | None:
    states = [state for task in tasks for state in comparison.of(method, task)]
    values = [_value(metric, state.test) for state in states]
    if any(v is None for v in values):
        return None
    spreads = [spread(metric, state.test) for state in states]
    pairs = [
        Pair(comparison.of(ORIGINAL, state.task)[0].test, state.test, state.task)
        for state in states
    ]
    found = pooled_difference(
        metric.function,
        pairs,
        metric_name=metric.name,
        n_resamples=comparison.config.resamples,
        seed=comparison.config.seed,
    )
    return {
        "value": found.patched,
        "std_over_trials": _over_trials(states, values),
        "std_over_instructions": _mean(spreads),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "n_templates": found.n_clusters,
    }


def _over_trials(states: Sequence[State], values: Sequence[float | None]) -> float | None:
    """Standard deviation over trials of the mean over tasks; None with one trial."""
    by_trial: dict[int, list[float]] = {}
    for state, number in zip(states, values, strict=True):
        assert number is not None
        by_trial.setdefault(state.trial, []).append(number)
    means = [float(np.mean(numbers)) for numbers in by_trial.values()]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def _retention(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for entry in comparison.retention:
        metric = METRICS[entry.metric]
        for method in comparison.methods:
            states = [s for s in comparison.states if s.method == method]
            pairs = [
                Pair(_original(comparison, state, entry), state.retention[entry.name], "")
                for state in states
            ]
            found = pooled_difference(
                metric.function,
                pairs,
                metric_name=metric.name,
                n_resamples=comparison.config.resamples,
                seed=comparison.config.seed,
            )
            rows.append(
                {
                    "task": entry.name,
                    "method": method,
                    "metric": metric.name,
                    "value": found.patched,
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "worst": _worst(metric, pairs),
                }
            )
    return rows


def _original(comparison: Comparison, state: State, entry: Retention) -> Answers:
    return comparison.of(ORIGINAL, state.task)[0].retention[entry.name]


def _worst(metric: Metric, pairs: Sequence[Pair]) -> float | None:
    """The largest loss over tasks and trials, as a difference to the original."""
    differences = []
    for pair in pairs:
        before, after = _value(metric, pair.original), _value(metric, pair.patched)
        if before is not None and after is not None:
            differences.append(after - before)
    if not differences:
        return None
    return max(differences) if metric.ideal == "min" else min(differences)


def _cost(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for method in comparison.methods:
        states = [s for s in comparison.states if s.method == method]
        sizes = [s.facts["neurons"] for s in states if "neurons" in s.facts]
        rows.append(
            {
                "method": method,
                "fit_seconds": _mean([s.facts["fit_seconds"] for s in states]),
                "fit_work": _mean([s.facts["fit_work"] for s in states]),
                "neurons": _mean(sizes),
                "weights_unchanged": all(s.facts["weights_unchanged"] for s in states),
                "fits": [
                    {"task": s.task, "trial": s.trial, **{k: s.facts.get(k) for k in _OWN_FACTS}}
                    for s in states
                ],
                "facts": [dict(s.facts) for s in states],
            }
        )
    return rows


def _value(metric: Metric, answers: Answers) -> float | None:
    try:
        return value(metric, answers)
    except NonFiniteError:
        return None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None
