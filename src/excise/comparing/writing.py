"""The folder of a comparison, written at once or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from excise.comparing.comparison import Comparison
from excise.comparing.plot import draw
from excise.comparing.tables import csv_text, latex, markdown
from excise.config import to_toml
from excise.evidence import finish, write_items, writing
from excise.types import Answers


def write(comparison: Comparison, document: Mapping[str, Any], path: Path) -> None:
    """Write `comparison.json`, `.csv`, `.md`, `.tex`, `pareto.svg`, `items.parquet`, `config.toml`.

    Args:
        comparison: what was compared.
        document: its record.
        path: a folder that does not exist yet.

    Raises:
        OutputError: no space, or no permission.
    """
    with writing(path) as scratch:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        for ending, content in (
            ("json", text),
            ("csv", csv_text(document)),
            ("md", markdown(document)),
            ("tex", latex(document)),
        ):
            (scratch / f"comparison.{ending}").write_text(content, encoding="utf-8")
        (scratch / "config.toml").write_text(to_toml(comparison.config), encoding="utf-8")
        write_items(_items(comparison), scratch / "items.parquet")
        draw(comparison, scratch / "pareto.svg")
        finish(scratch, path, manifest=True)


def _items(comparison: Comparison) -> Iterator[tuple[dict[str, Any], Answers]]:
    for state in comparison.states:
        labels = {"method": state.method, "trial": state.trial, "mitigated": state.task}
        yield {**labels, "task": state.task, "part": "test"}, state.test
        for name, answers in state.retention.items():
            yield {**labels, "task": name, "part": "retention"}, answers
