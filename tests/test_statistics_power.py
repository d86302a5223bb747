"""How many templates a margin needs, by formulas worked out by hand; and the verb `power`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from scipy import stats
from typer.testing import CliRunner

from excise.cli.app import app
from excise.config import RunConfig
from excise.statistics.power import (
    assumed_deviation,
    fewest_templates,
    minimum_detectable,
    plan,
    templates_needed,
)


def test_the_smallest_detectable_change_by_hand() -> None:
    # Tables of Student's t with 10 degrees of freedom: 2.228 at 97.5 %, 0.879 at 80 %.
    assert minimum_detectable(0.02, 10) == pytest.approx(0.02 * (2.228 + 0.879), abs=1e-4)
    # Very many clusters: 1.960 + 0.842.
    assert minimum_detectable(1.0, 1e9) == pytest.approx(2.802, abs=1e-3)


def test_templates_needed_is_the_first_number_that_is_enough() -> None:
    for deviation, difference in ((0.1, 0.05), (0.2, 0.05), (0.3, 0.3)):
        needed = templates_needed(deviation, difference)

        def shows(n: int, deviation: float = deviation, difference: float = difference) -> bool:
            t = stats.t(n - 1)
            return bool((t.ppf(0.975) + t.ppf(0.8)) * deviation / n**0.5 <= difference)

        assert shows(needed)
        assert not shows(needed - 1)
    with pytest.raises(ValueError, match="above 0"):
        templates_needed(0.1, 0.0)
    with pytest.raises(ValueError, match="not even 1000000"):
        templates_needed(0.1, 1e-6)


def test_the_assumed_deviation_agrees_with_simulated_templates() -> None:
    # An item changes with its template or by itself; two changes correlate by r.
    generator = np.random.default_rng(0)
    shape, changed, r = (60_000, 10), 0.2, 0.25
    common = generator.choice([-1, 0, 1], (60_000, 1), p=[0.1, 0.8, 0.1])
    own = generator.choice([-1, 0, 1], shape, p=[0.1, 0.8, 0.1])
    # Each item follows its template with probability sqrt(r), so two of them both do with r.
    follows = generator.random(shape) < r**0.5
    observed = np.where(follows, common, own).mean(axis=1).std()
    assert assumed_deviation(changed, r, 10) == pytest.approx(observed, rel=0.02)
    assert assumed_deviation(0.2, 0.0, 10) == pytest.approx((0.2 / 10) ** 0.5)
    assert assumed_deviation(0.2, 1.0, 10) == pytest.approx(0.2**0.5)


def test_fewest_templates() -> None:
    # 2 / 2**6 = 0.031 is below 5 %, 2 / 2**5 = 0.0625 is not; 40 tests need 2 / 2**11.
    assert fewest_templates(0.95) == 6
    assert fewest_templates(0.95, 40) == 11


def test_a_plan() -> None:
    found = plan(0.05, 0.1, templates=12, items=240)
    assert found.needed_templates == templates_needed(0.1, 0.05)
    assert found.needed_items == 20 * found.needed_templates
    assert found.detectable == pytest.approx(minimum_detectable(0.1 / 12**0.5, 11))
    assert not found.enough
    # A large margin still needs as many templates as the exact test.
    assert plan(0.9, 0.01, templates=12, items=240, n_tests=40).needed_templates == 11
    assert plan(0.9, 0.01, templates=12, items=240).enough
    assert plan(0.9, 0.01, templates=1, items=20).detectable is None


def questions(path: Path, n_templates: int = 10, size: int = 4) -> Path:
    """A task of the user's own with so many templates."""
    rows = [
        {
            "id": f"q{n}",
            "context": "A context.",
            "question": f"Question {n}?",
            "options": ["a", "b"],
            "gold": n % 2,
            "template": f"t{n // size}",
        }
        for n in range(n_templates * size)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def stored(folder: Path, changes: list[int], size: int = 4) -> Path:
    """A run folder in which the first answers of each template were mended."""
    folder.mkdir()
    config = RunConfig(resamples=400).model_dump(mode="json")
    run = {
        "schema_version": 1,
        "config": config,
        "model": {"name": "m", "digest": "d"},
        "tasks": {"mine": {"trials": [{}]}},
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (folder / "results.json").write_text("{}", encoding="utf-8")
    rows: list[dict[str, Any]] = []
    for state, trial in (("original", None), ("patched", 0)):
        for template, mended in enumerate(changes):
            for item in range(size):
                rows.append(
                    {
                        "task": "mine",
                        "state": state,
                        "trial": trial,
                        "instance": f"{template}-{item}",
                        "template": f"t{template}",
                        "group": "",
                        "condition": None,
                        "instruction": 0,
                        "instruction_text": "Answer.",
                        "options": ["a", "b"],
                        "gold": 0,
                        "unknown": None,
                        "stereotyped": None,
                        "choice": 0 if state == "patched" and item < mended else 1,
                        "log_likelihood": [-1.0, -2.0],
                        "tokens": [1, 1],
                    }
                )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "items.parquet")
    return folder


def called(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["power", *map(str, arguments)])


def test_the_verb_with_assumptions(tmp_path: Path) -> None:
    file = questions(tmp_path / "mine.jsonl")
    found = called("--task", file, "--margin", 0.05, "--json")
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    # Half of the ten templates are tested.
    assert (document["templates"], document["items"]) == (5, 20)
    assert (document["task_templates"], document["task_items"]) == (10, 40)
    assert document["deviation"] == pytest.approx((0.2 * (1 + 3 * 0.2) / 4) ** 0.5)
    assert document["needed_templates"] == templates_needed(document["deviation"], 0.05)
    assert document["needed_task_templates"] == 2 * document["needed_templates"]
    assert document["deviation_from"] == {"changed": 0.2, "correlation": 0.2}
    assert not document["enough"]
    table = called("--task", file, "--margin", 0.05).stdout
    assert "needed" in table
    assert "assumed" in table
    line = called("--task", file, "--margin", 0.05, "--quiet").stdout
    assert line.count("\n") == 1
    assert f"needs {document['needed_templates']} test templates" in line


def test_the_verb_with_a_run(tmp_path: Path) -> None:
    file = questions(tmp_path / "mine.jsonl")
    mended = [0, 1, 2, 3, 4, 4, 2, 0, 1, 3]
    folder = stored(tmp_path / "run", mended)
    found = called("--task", file, "--baseline", folder, "--margin", 0.3, "--json")
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    # Templates of one size: their spread is that of the ten differences themselves.
    wanted = np.std(np.array(mended) / 4, ddof=1)
    assert document["deviation"] == pytest.approx(wanted, rel=0.1)
    assert document["deviation_from"]["templates"] == 10
    assert document["deviation_from"]["difference"] == pytest.approx(0.5)
    assert "as observed in" in " ".join(
        called("--task", file, "--baseline", folder, "--margin", 0.3).stdout.split()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no task is given"),
        (("--task", "FILE", "--margin", 0), "--margin must be above 0"),
        (("--task", "FILE", "--margin", 1e-7), "not even 1000000 templates"),
        (("--task", "FILE", "--level", 1.0), "--level must lie between"),
        (("--task", "FILE", "--power", 0.2), "--power must lie between"),
        (("--task", "FILE", "--changed", 0), "raise --changed"),
        (("--task", "FILE", "--metric", "acuracy"), "Did you mean 'accuracy'?"),
        (("--task", "FILE", "--metric", "s_amb"), "no items that s_amb looks at"),
        (("--task", "FILE", "--baseline", "RUN"), "has no variance between templates"),
        (("--task", "OTHER", "--baseline", "RUN"), "has no task 'other'"),
        (("--task", "FILE", "--baseline", "nowhere"), "nowhere is no folder"),
    ],
)
def test_errors_are_one_line(arguments: tuple[object, ...], message: str, tmp_path: Path) -> None:
    places = {
        "FILE": questions(tmp_path / "mine.jsonl"),
        "OTHER": questions(tmp_path / "other.jsonl"),
        "RUN": stored(tmp_path / "run", [1] * 10),
    }
    found = called(*(places.get(str(a), a) for a in arguments))
    assert found.exit_code == 2
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
