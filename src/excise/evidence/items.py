"""`items.parquet`: what every state answered to every instance under every instruction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from excise.results import RunResult
from excise.types import Answers, Continuations, Predictions, Readings


def write_items(states: Iterator[tuple[dict[str, Any], Answers]], path: Path) -> None:
    """`items.parquet`: one row for each item, instruction (or continuation) and state."""
    tables = [
        pyarrow.Table.from_pylist([{**labels, **row} for row in rows(answers)])
        for labels, answers in states
    ]
    pyarrow.parquet.write_table(
        pyarrow.concat_tables(tables, promote_options="permissive"), path, compression="zstd"
    )


def rows(answers: Answers) -> Iterator[dict[str, Any]]:
    """The answers as flat rows."""
    if isinstance(answers, Predictions):
        yield from _chosen(answers)
    elif isinstance(answers, Continuations):
        yield from _continued(answers)
    elif isinstance(answers, Readings):
        yield from _read(answers)


def _chosen(predictions: Predictions) -> Iterator[dict[str, Any]]:
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


def _continued(answers: Continuations) -> Iterator[dict[str, Any]]:
    for n, prompt in enumerate(answers.instances):
        for k, text in enumerate(answers.texts[n]):
            yield {
                "instance": prompt.id,
                "template": prompt.template,
                "group": prompt.group,
                "prompt": prompt.text,
                "continuation": k,
                "text": text,
                **{f"score_{name}": float(of[n, k]) for name, of in answers.scores.items()},
            }


def _read(answers: Readings) -> Iterator[dict[str, Any]]:
    for n, passage in enumerate(answers.instances):
        yield {
            "instance": passage.id,
            "template": passage.template,
            "group": passage.group,
            "text": passage.text,
            "text_log_likelihood": float(answers.log_likelihood[n]),
            "text_tokens": int(answers.n_tokens[n]),
            "text_bytes": int(answers.n_bytes[n]),
            "divergence": float(answers.divergence[n]),
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
