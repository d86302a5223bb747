"""The folder of an evaluation, written at once or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from excise.config import RunConfig, to_toml
from excise.evidence import finish, write_items, writing
from excise.measuring.measure import Measured
from excise.measuring.samples import write_samples
from excise.types import Answers


def write(
    measured: Sequence[Measured],
    document: Mapping[str, Any],
    config: RunConfig,
    path: Path,
    *,
    samples: bool = False,
) -> None:
    """Write `results.json`, `items.parquet` and `config.toml`.

    Args:
        measured: what was measured.
        document: its record.
        config: what was asked for.
        path: a folder that does not exist yet.
        samples: write `samples_TASK_STATE.jsonl` as lm-eval does, too.

    Raises:
        OutputError: no space, or no permission.
    """
    with writing(path) as scratch:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (scratch / "results.json").write_text(text, encoding="utf-8")
        (scratch / "config.toml").write_text(to_toml(config), encoding="utf-8")
        write_items(_items(measured), scratch / "items.parquet")
        if samples:
            for entry in measured:
                write_samples(entry, scratch)
        finish(scratch, path, manifest=True)


def _items(measured: Sequence[Measured]) -> Iterator[tuple[dict[str, Any], Answers]]:
    for entry in measured:
        for state, answers in entry.states.items():
            yield {"task": entry.task.name, "state": state, "trial": None}, answers
