"""`items.parquet`: what every state answered to every instance under every instruction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from excise.results import RunResult
from excise.types import Predictions


def write_items(states: Iterator[tuple[dict[str, Any], Predictions]], path: Path) -> None:
    """`items.parquet`: one row for each instance, instruction and state."""
    tables = [
        pyarrow.Table.from_pylist([{**labels, **row} for row in rows(predictions)])
        for labels, predictions in states
    ]
    pyarrow.parquet.write_table(
        pyarrow.concat_tables(tables, promote_options="permissive"), path, compression="zstd"
    )


def rows(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """The answers as flat rows."""
    for i, instruction in enumerate(predictions.instructions):
        for n, instance in enumerate(predictions.instances):
            width = len(instance.options)
            yield {
                "instance": instance.id,
                "template": instance.template,
                "group": instance.group,
                "condition": instance.condition,
                "instruction": i,
                "instruction_text": instruction,
                "options": list(instance.options),
                "gold": instance.gold,
                "unknown": instance.unknown,
                "stereotyped": instance.stereotyped,
                "choice": int(predictions.choice[i, n]),
                "log_likelihood": None
                if predictions.log_likelihood is None
                else predictions.log_likelihood[i, n, :width].tolist(),
                "tokens": None
                if predictions.n_tokens is None
                else predictions.n_tokens[i, n, :width].tolist(),
            }


def states(result: RunResult) -> Iterator[tuple[dict[str, Any], Predictions]]:
    """Every state of a run with its labels."""
    for task in result.tasks:
        base = {"task": task.task}
        yield {**base, "state": "original", "trial": None}, task.trials[0].original
        for trial in task.trials:
            yield {**base, "state": "patched", "trial": trial.number}, trial.patched
            for draw, control in enumerate(trial.controls):
                yield {**base, "state": f"control-{draw}", "trial": trial.number}, control
        if task.union is not None:
            yield {**base, "state": "union", "trial": None}, task.union
