"""The folder of a reproduction, written at once or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from excise.config import to_toml
from excise.evidence import finish, writing
from excise.experiments.figure import draw
from excise.experiments.page import FIGURE_FILE, html, index, page
from excise.experiments.reproduce import Outcome, Reproduction

RESULTS_FILE = "results.json"


def write(found: Reproduction, path: Path) -> dict[str, Any]:
    """Write `README.md` and `results.json`, and a folder for each experiment.

    A folder holds `README.md`, `page.html`, `figure.svg`, `results.json` and `config.toml`.

    Args:
        found: the experiments.
        path: a folder that does not exist yet.

    Returns:
        What `results.json` holds.

    Raises:
        OutputError: no space, or no permission.
    """
    record = found.record
    with writing(path) as scratch:
        _write_json(record, scratch / RESULTS_FILE)
        (scratch / "README.md").write_text(index(found), encoding="utf-8")
        for outcome in found.outcomes:
            name = outcome.definition.name
            folder = scratch / name
            folder.mkdir()
            _write_experiment(found, outcome, record["experiments"][name], folder)
        finish(scratch, path, manifest=True)
    return record


def _write_experiment(
    found: Reproduction, outcome: Outcome, record: dict[str, Any], folder: Path
) -> None:
    figure = ""
    if outcome.findings.chart is not None:
        draw(outcome.findings.chart, folder / FIGURE_FILE)
        figure = (folder / FIGURE_FILE).read_text(encoding="utf-8")
    (folder / "README.md").write_text(page(found, outcome), encoding="utf-8")
    (folder / "page.html").write_text(html(found, outcome, figure), encoding="utf-8")
    (folder / "config.toml").write_text(to_toml(outcome.config), encoding="utf-8")
    _write_json(record, folder / RESULTS_FILE)


def _write_json(record: dict[str, Any], path: Path) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")
