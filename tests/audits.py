"""A small finished run, and copies of it with something changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from cli_models import WORKPLACE, excise, save
from excise.evidence import write_manifest

OPTIONS: list[Any] = [
    *("--task", WORKPLACE, "--limit", 12, "--controls", 2, "--trials", 2, "--n", 12),
    *("--find-instances", 2, "--find-instructions", 1, "--test-instructions", 2),
    *("--set", "resamples=100"),
]


def small_run(folder: Path, *more: Any, seed: int = 0) -> Path:
    """`excise run` of a tiny model into `folder / "run"`; the model is `folder / "model"`."""
    model = folder / "model"
    if not model.exists():
        save(model, seed=seed)
    result = excise("run", model, *OPTIONS, "--out", folder / "run", "-q", *more)
    assert result.exit_code == 0, result.output
    return folder / "run"


def copied(run: Path, to: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(run, to))


def change_json(folder: Path, name: str, change: Callable[[Any], None], *, seal: bool) -> None:
    """Change a JSON file; `seal` writes a new manifest, as a forger would."""
    path = folder / name
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if seal:
        write_manifest(folder)


def change_items(
    folder: Path, change: Callable[[list[dict[str, Any]]], None], *, seal: bool
) -> None:
    """Change rows of `items.parquet`."""
    path = folder / "items.parquet"
    table = pyarrow.parquet.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), path)
    if seal:
        write_manifest(folder)
