"""`items.parquet`: what every state answered to every instance under every instruction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from excise.errors import RunFolderError
from excise.results import RunResult
from excise.types import (
    Answers,
    Continuations,
    FloatArray,
    Instance,
    IntArray,
    Predictions,
    Readings,
)

_FIELDS = pyarrow.map_(pyarrow.string(), pyarrow.string())


def write_items(states: Iterator[tuple[dict[str, Any], Answers]], path: Path) -> None:
    """`items.parquet`: one row for each item, instruction (or continuation) and state."""
    tables = [_table({**labels, **row} for row in rows(answers)) for labels, answers in states]
    pyarrow.parquet.write_table(
        pyarrow.concat_tables(tables, promote_options="permissive"), path, compression="zstd"
    )


def _table(found: Iterable[dict[str, Any]]) -> pyarrow.Table:
    listed = list(found)
    # A map of its own type: tasks differ in their fields, and some have none.
    fields = [row.pop("fields", None) for row in listed]
    column = pyarrow.array([f if f is None else list(f.items()) for f in fields], type=_FIELDS)
    return pyarrow.Table.from_pylist(listed).append_column("fields", column)


def rows(answers: Answers) -> Iterator[dict[str, Any]]:
    """The answers as flat rows."""
    if isinstance(answers, Predictions):
        yield from _chosen(answers)
    elif isinstance(answers, Continuations):
        yield from _continued(answers)
    elif isinstance(answers, Readings):
        yield from _read(answers)


def _chosen(predictions: Predictions) -> Iterator[dict[str, Any]]:
    likelihoods, compared = predictions.log_likelihood, predictions.compared
    same = (
        likelihoods is not None
        and compared is not None
        and np.array_equal(likelihoods, compared, equal_nan=True)
    )
    for i, instruction in enumerate(predictions.instructions):
        for n, instance in enumerate(predictions.instances):
            width = len(instance.options)
            yield {
                "instance": instance.id,
                "template": instance.template,
                "block": instance.block,
                "group": instance.group,
                "condition": instance.condition,
                "instruction": i,
                "instruction_text": instruction,
                "fields": instance.fields,
                "options": list(instance.options),
                "gold": instance.gold,
                "unknown": instance.unknown,
                "stereotyped": instance.stereotyped,
                "unrelated": instance.unrelated,
                "choice": int(predictions.choice[i, n]),
                "log_likelihood": None
                if predictions.log_likelihood is None
                else predictions.log_likelihood[i, n, :width].tolist(),
                "tokens": None
                if predictions.n_tokens is None
                else predictions.n_tokens[i, n, :width].tolist(),
                # What options are compared by; none where it is the log-likelihood itself.
                "compared": None if compared is None or same else compared[i, n, :width].tolist(),
                "variant": predictions.variant,
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


def stored_predictions(table: pyarrow.Table, path: Path) -> Predictions:
    """The choices of one state, rebuilt from its rows.

    Args:
        table: the rows of one state of one task, in the order in which `rows` gave them.
        path: where they come from, for errors.

    Raises:
        RunFolderError: the rows are no choices between options, or not a whole table.
    """
    found = table.to_pylist()
    if not found or found[0].get("choice") is None:
        raise RunFolderError(f"{path}: these rows hold no choices between options.")
    told = list(dict.fromkeys(row["instruction"] for row in found))
    size, left = divmod(len(found), len(told))
    by_instruction = [found[i * size : (i + 1) * size] for i in range(len(told))]
    first = by_instruction[0]
    ids = [row["instance"] for row in first]
    whole = not left and all(
        [row["instance"] for row in several] == ids
        and {row["instruction"] for row in several} == {number}
        for number, several in zip(told, by_instruction, strict=True)
    )
    if not whole:
        raise RunFolderError(f"{path}: some rows are missing, or they are out of order.")
    instances = tuple(_instance(row) for row in first)
    widest = max(len(instance.options) for instance in instances)
    log_likelihood = _padded(by_instruction, "log_likelihood", widest)
    compared = _padded(by_instruction, "compared", widest)
    tokens = _padded(by_instruction, "tokens", widest)
    return Predictions(
        instances,
        tuple(several[0]["instruction_text"] for several in by_instruction),
        np.array([[row["choice"] for row in several] for several in by_instruction], np.int64),
        log_likelihood,
        None if tokens is None else _counts(tokens),
        log_likelihood if compared is None and "compared" in found[0] else compared,
        first[0].get("variant") or "",
    )


def _instance(row: dict[str, Any]) -> Instance:
    """Folders of the first schema hold neither fields nor blocks."""
    return Instance(
        id=row["instance"],
        fields=dict(row.get("fields") or ()),
        options=tuple(row["options"]),
        gold=row["gold"],
        template=row["template"],
        block=row.get("block") or row["template"],
        condition=row["condition"],
        unknown=row["unknown"],
        stereotyped=row["stereotyped"],
        unrelated=row.get("unrelated"),
        group=row["group"],
    )


def _padded(
    by_instruction: list[list[dict[str, Any]]], name: str, widest: int
) -> FloatArray | None:
    """[I, N, C] numbers, NaN for missing options; None where there are none."""
    if by_instruction[0][0].get(name) is None:
        return None
    table = np.full((len(by_instruction), len(by_instruction[0]), widest), np.nan)
    for i, several in enumerate(by_instruction):
        for n, row in enumerate(several):
            table[i, n, : len(row[name])] = row[name]
    return table


def _counts(tokens: FloatArray) -> IntArray:
    return np.asarray(np.nan_to_num(tokens), dtype=np.int64)
