"""What a comparison found, as JSON values: means, spreads, paired intervals, retention, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from excise import __version__
from excise.comparing.comparison import Comparison, State
from excise.comparing.retention import DIVERGENCE, ORIGINAL, Retention
from excise.errors import NonFiniteError
from excise.evidence import environment
from excise.metrics import METRICS, Metric, metrics_of, spread, value
from excise.results import POOLED as POOLED
from excise.results import to_judge
from excise.statistics import Pair, PooledEstimate, judged, pooled_difference
from excise.types import Answers

_OWN_FACTS = ("fit_seconds", "fit_work", "weights_unchanged", "neurons")
_VERDICT_FIELDS = (
    "p_value",
    "p_adjusted",
    "n_tests",
    "test",
    "minimum_detectable",
    "verdict",
    "verdict_text",
)


def record(comparison: Comparison) -> dict[str, Any]:
    """The comparison with one row for each method, task and metric.

    A row of `metrics` holds the value (mean over trials of the mean over instructions), its
    standard deviations over trials and over instructions, and the paired difference to the original
    with its interval over templates, its exact test and its verdict (docs/statistics.md); p-values
    are corrected within a table, which is all methods and metrics of a task. `retention` holds the
    same of the retention tasks, a table of its own, their answers pooled over the trials; `cost`
    what fitting took.
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
    tables = []
    several = [POOLED] if len(comparison.tasks) > 1 else []
    applies = dict.fromkeys(metric.name for task in comparison.tasks for metric in metrics_of(task))
    for name in (*(task.name for task in comparison.tasks), *several):
        tasks = [t.name for t in comparison.tasks] if name == POOLED else [name]
        rows = [
            _Row(metric, method, found, {"task": name, "method": method, **row})
            for method in comparison.methods
            for metric in (METRICS[m] for m in applies)
            for found, row in _row(comparison, method, tasks, metric)
        ]
        tables += _with_verdicts(rows, comparison)
    return tables


@dataclass(frozen=True, slots=True)
class _Row:
    metric: Metric
    method: str
    found: PooledEstimate
    record: dict[str, Any]


def _with_verdicts(rows: Sequence[_Row], comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of one table with their tests, corrected for each other."""
    settings = comparison.config.statistics
    # The original beside itself is no test, and every change diverges.
    tested = [row for row in rows if row.method != ORIGINAL and row.metric.name != DIVERGENCE]
    said = judged(
        [to_judge(row.metric, row.found, settings, family=_family(row)) for row in tested],
        correction=settings.correction,
        power=settings.power,
    )
    verdicts = {id(row): found for row, found in zip(tested, said, strict=True)}
    return [
        row.record
        | {
            name: getattr(verdicts[id(row)], name) if id(row) in verdicts else None
            for name in _VERDICT_FIELDS
        }
        for row in rows
    ]


def _family(row: _Row) -> tuple[str, str]:
    """Two methods with the same numbers are still two tests."""
    return row.method, row.record["task"]


def _row(
    comparison: Comparison, method: str, tasks: Sequence[str], metric: Metric
) -> list[tuple[PooledEstimate, dict[str, Any]]]:
    """The row with the difference behind it, or nothing where a state has no value."""
    states = [state for task in tasks for state in comparison.of(method, task)]
    values = [_value(metric, state.test) for state in states]
    if any(v is None for v in values):
        return []
    spreads = [spread(metric, state.test) for state in states]
    pairs = [
        Pair(comparison.of(ORIGINAL, state.task)[0].test, state.test, state.task)
        for state in states
    ]
    found = _difference(comparison, metric, pairs)
    row = {
        "metric": metric.name,
        "value": found.patched,
        "std_over_trials": _over_trials(states, values),
        "std_over_instructions": _mean(spreads),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "n_templates": found.n_clusters,
    }
    return [(found, row)]


def _difference(comparison: Comparison, metric: Metric, pairs: Sequence[Pair]) -> PooledEstimate:
    return pooled_difference(
        metric.function,
        pairs,
        metric_name=metric.name,
        n_resamples=comparison.config.resamples,
        level=comparison.config.statistics.level,
        seed=comparison.config.seed,
        ideal=metric.ideal,
    )


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
    wanted = [(entry, METRICS[name]) for entry in comparison.retention for name in entry.metrics]
    for entry, metric in wanted:
        for method in comparison.methods:
            states = [s for s in comparison.states if s.method == method]
            pairs = [
                Pair(_original(comparison, state, entry), state.retention[entry.name], "")
                for state in states
            ]
            found = _difference(comparison, metric, pairs)
            row = {
                "task": entry.name,
                "method": method,
                "metric": metric.name,
                "value": found.patched,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "worst": _worst(metric, pairs),
            }
            rows.append(_Row(metric, method, found, row))
    return _with_verdicts(rows, comparison)


def _original(comparison: Comparison, state: State, entry: Retention) -> Answers:
    return comparison.of(ORIGINAL, state.task)[0].retention[entry.name]


def _worst(metric: Metric, pairs: Sequence[Pair]) -> float | None:
    """The largest loss over tasks and trials, as a difference to the original."""
    known = [(_value(metric, pair.original), _value(metric, pair.patched)) for pair in pairs]
    changes = [(a, b) for a, b in known if a is not None and b is not None]
    if not changes:
        return None
    before, after = max(changes, key=lambda change: _loss(metric, *change))
    return after - before


def _loss(metric: Metric, before: float, after: float) -> float:
    if isinstance(metric.ideal, float):
        return abs(after - metric.ideal) - abs(before - metric.ideal)
    return before - after if metric.ideal == "max" else after - before


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
