"""`results.json` of an evaluation: lm-eval's layout, intervals and paired differences beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from excise import __version__, results
from excise.config import RunConfig
from excise.errors import NonFiniteError
from excise.evidence import code_digest, environment
from excise.measuring.measure import Measured
from excise.measuring.precision import Deviation, recorded
from excise.metrics import Metric, metrics_of, spread, value
from excise.statistics import Pair, PooledEstimate, bootstrap, judged, pooled_difference
from excise.types import Answers, Continuations, PromptTask


def record(
    measured: Sequence[Measured], config: RunConfig, precision: Sequence[Deviation] = ()
) -> dict[str, Any]:
    """Everything that was measured, as JSON values.

    Beside lm-eval's keys: `paired` (original against patched with intervals), `groups` (each metric
    within each group), `undefined` (why a metric has no value), `variants` (which definition of
    a score the model allowed), and `precision` where another one was compared with.

    Args:
        measured: what was measured.
        config: what was asked for.
        precision: how far the answers are from those in another precision.
    """
    document = _document(measured, config)
    return document | {"precision": recorded(precision)} if precision else document


def _document(measured: Sequence[Measured], config: RunConfig) -> dict[str, Any]:
    return {
        "results": {entry.task.name: _row(entry, config) for entry in measured},
        "paired": _paired(measured, config),
        "groups": {entry.task.name: groups for entry in measured if (groups := _groups(entry))},
        "undefined": {
            entry.task.name: reasons for entry in measured if (reasons := _undefined(entry))
        },
        "variants": {
            entry.task.name: variant for entry in measured if (variant := _variant(entry))
        },
        "group_subtasks": {entry.task.name: [] for entry in measured},
        "configs": {entry.task.name: _task_config(entry) for entry in measured},
        "versions": {entry.task.name: __version__ for entry in measured},
        "n-shot": {entry.task.name: 0 for entry in measured},
        "higher_is_better": {
            entry.task.name: {
                metric.name: {"max": True, "min": False}.get(str(metric.ideal))
                for metric in metrics_of(entry.task)
            }
            for entry in measured
        },
        "n-samples": {
            entry.task.name: {
                "original": len(entry.task.instances),
                "effective": len(entry.original.instances),
            }
            for entry in measured
        },
        "config": config.model_dump(mode="json"),
        "model_name": measured[0].model,
        "model_name_sanitized": measured[0].model.replace("/", "__"),
        "model_digest": measured[0].model_digest,
        "weights_unchanged": measured[0].weights_unchanged,
        "task_hashes": {entry.task.name: entry.task.digest for entry in measured},
        "date": datetime.now(UTC).timestamp(),
        "environment": environment(),
        "excise": __version__,
        "code": {"version": __version__, "digest": code_digest()},
    }


def defined(metric: Metric, answers: Answers) -> float | None:
    """The metric's value, None also where an option has no finite probability."""
    try:
        return value(metric, answers)
    except NonFiniteError:
        return None


def _row(entry: Measured, config: RunConfig) -> dict[str, float | str]:
    row: dict[str, float | str] = {"alias": entry.task.name}
    for metric in metrics_of(entry.task):
        for state, answers in entry.states.items():
            if defined(metric, answers) is None:
                continue
            found = bootstrap(
                metric.function,
                answers,
                n_resamples=config.resamples,
                level=config.statistics.level,
                seed=config.seed,
            )
            assert found is not None
            numbers = {
                "": found.value,
                "_stderr": found.standard_error,
                "_low": found.low,
                "_high": found.high,
                "_std_over_instructions": spread(metric, answers),
            }
            row |= {
                # lm-eval puts the filter behind the comma, and `_stderr` before it.
                f"{metric.name}_stderr,{state}"
                if name == "_stderr"
                else (f"{metric.name},{state}{name}"): number
                for name, number in numbers.items()
                if number is not None
            }
    return row


def _paired(measured: Sequence[Measured], config: RunConfig) -> dict[str, list[dict[str, Any]]]:
    """Task -> a row for each metric, p-values corrected over all tasks and metrics."""
    to_judge = [
        results.to_judge(metric, found, config.statistics, family=entry.task.name)
        for entry in measured
        for metric, found in _differences(entry, config)
    ]
    said = judged(to_judge, correction=config.statistics.correction, power=config.statistics.power)
    return {
        entry.task.name: [
            asdict(found)
            for found, of in zip(said, to_judge, strict=True)
            if of.family == entry.task.name
        ]
        for entry in measured
        if entry.patched is not None
    }


def _differences(entry: Measured, config: RunConfig) -> Iterator[tuple[Metric, PooledEstimate]]:
    if entry.patched is None:
        return
    pair = Pair(entry.original, entry.patched, entry.task.name)
    for metric in metrics_of(entry.task):
        if all(defined(metric, state) is not None for state in entry.states.values()):
            yield (
                metric,
                pooled_difference(
                    metric.function,
                    [pair],
                    metric_name=metric.name,
                    n_resamples=config.resamples,
                    level=config.statistics.level,
                    seed=config.seed,
                    ideal=metric.ideal,
                ),
            )


def _groups(entry: Measured) -> dict[str, dict[str, Any]]:
    """Group -> number of items and values; empty where the task has one group only."""
    of_item = [item.group for item in entry.original.instances]
    names = sorted(set(of_item))
    if len(names) < 2:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        inside = np.array([group == name for group in of_item], dtype=np.float64)
        row: dict[str, Any] = {"n": int(inside.sum())}
        for metric in metrics_of(entry.task):
            for state, answers in entry.states.items():
                try:
                    number = value(metric, answers, inside)
                except NonFiniteError:
                    continue
                if number is not None:
                    row[f"{metric.name},{state}"] = number
        found[name] = row
    return found


def _undefined(entry: Measured) -> dict[str, str]:
    return {
        metric.name: metric.undefined
        for metric in metrics_of(entry.task)
        if all(defined(metric, answers) is None for answers in entry.states.values())
    }


def _variant(entry: Measured) -> str:
    judge = entry.original.judge if isinstance(entry.original, Continuations) else ""
    return str(getattr(entry.original, "variant", "") or judge)


def _task_config(entry: Measured) -> Mapping[str, Any]:
    task = entry.task
    return {
        "task": task.name,
        "output_type": "generate_until" if isinstance(task, PromptTask) else "multiple_choice",
        "instructions": list(entry.original.instructions),
        "doc_to_text": getattr(task, "prompt_format", ""),
        "metric_list": [metric.name for metric in metrics_of(task)],
        "num_fewshot": 0,
        "licence": task.licence,
        "citation": task.citation,
    }
