"""`excise diff`: counts by hand, refusals with reasons, and what differs else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audits import change_items, change_json, copied, small_run
from cli_models import WORKPLACE, excise
from excise.auditing import diff
from excise.errors import ConfigError, RunFolderError
from excise.evidence import open_run
from excise.metrics import METRICS, value
from test_cli import assert_one_line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("diff"))


@pytest.fixture(scope="module")
def other(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with other neurons on the same model and items."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "model").symlink_to(run.parent / "model")
    return small_run(folder, "--n", 40, "--controls", 1)


def test_answers_are_compared_one_by_one(run: Path, other: Path) -> None:
    """Counts against a plain loop over both files' rows."""
    found = diff(run, other)
    by_state = {entry.state: entry for entry in found.tasks}
    assert by_state["original"].changed == 0
    rows: list[dict[Any, Any]] = []
    for folder in (run, other):
        kept = [r for r in open_run(folder).items.to_pylist() if r["state"] == "patched"]
        rows.append({(r["trial"], r["instruction"], r["instance"]): r for r in kept})
    counts = {"changed": 0, "fixed": 0, "broken": 0, "to_unknown": 0, "from_unknown": 0}
    for key, before in rows[0].items():
        first, second = before["choice"], rows[1][key]["choice"]
        if first != second:
            counts["changed"] += 1
            counts["fixed"] += second == before["gold"]
            counts["broken"] += first == before["gold"]
            counts["to_unknown"] += second == before["unknown"]
            counts["from_unknown"] += first == before["unknown"]
    patched = by_state["patched"]
    assert patched.answers == len(rows[0]) == 12 * 2 * 2
    assert {name: getattr(patched, name) for name in counts} == counts
    assert counts["changed"] > 0
    assert len(patched.items) == counts["changed"]


def test_metrics_are_means_over_trials_with_intervals(run: Path, other: Path) -> None:
    (patched,) = (entry for entry in diff(run, other).tasks if entry.state == "patched")
    accuracy = next(e for e in patched.metrics if e.metric == "accuracy")
    means = []
    for folder in (run, other):
        stored = open_run(folder)
        values = [
            value(METRICS["accuracy"], stored.predictions("workplace", "patched", trial))
            for trial in (0, 1)
        ]
        means.append(sum(v or 0.0 for v in values) / 2)
    assert accuracy.original == pytest.approx(means[0])
    assert accuracy.patched == pytest.approx(means[1])
    assert accuracy.difference == pytest.approx(means[1] - means[0])
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low <= accuracy.difference <= accuracy.high  # type: ignore[operator]


def test_what_differs_in_options_and_neurons(run: Path, other: Path) -> None:
    found = diff(run, other)
    assert found.config["selection.n"] == (12, 40)
    assert found.config["controls"] == (2, 1)
    assert "limit" not in found.config
    patches = [set(open_run(folder).patch.neurons) for folder in (run, other)]
    assert found.neurons == {
        "both": len(patches[0] & patches[1]),
        "first only": len(patches[0] - patches[1]),
        "second only": len(patches[1] - patches[0]),
    }
    assert json.loads(json.dumps(found.record()))["first"] == str(run)


def test_what_is_printed(run: Path, other: Path) -> None:
    result = excise("diff", run, other, "--items", 1)
    assert result.exit_code == 0, result.output
    assert "workplace, original: 0 of 24 answers changed: 0 fixed" in result.stdout
    assert "more; --json lists them" in result.stdout
    assert "selection.n: 12 -> 40" in result.stdout
    assert "Excised neurons:" in result.stdout
    quiet = excise("diff", run, other, "-q")
    assert len(quiet.stdout.splitlines()) == 2
    document = json.loads(excise("diff", run, other, "--json").stdout)
    changed = next(e for e in document["tasks"] if e["state"] == "patched")
    assert len(changed["items"]) == changed["changed"]
    assert changed["items"][0]["first_option"] != changed["items"][0]["second_option"]


def test_items_are_matched_by_name_not_by_place(run: Path, tmp_path: Path) -> None:
    """The other side wrote its rows in reverse, and one answer differs."""
    folder = copied(run, tmp_path / "run")

    def reverse(rows: list[dict[str, Any]]) -> None:
        by_state: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            by_state.setdefault((row["state"], row["trial"], row["instruction"]), []).append(row)
        rows[:] = [row for several in by_state.values() for row in reversed(several)]
        row = next(r for r in rows if r["state"] == "patched")
        row["choice"] = (row["choice"] + 1) % len(row["options"])
        row["variant"] = "changed"

    change_items(folder, reverse, seal=True)
    change_json(folder, "run.json", lambda d: d["config"].update(dtype="bfloat16"), seal=True)
    found = diff(run, folder)
    assert sum(entry.changed for entry in found.tasks) == 1
    assert found.config == {"dtype": ("float32", "bfloat16")}


# What is refused.


def test_the_same_folder_and_the_same_model(run: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(run)
    assert_one_line(excise("diff", run, link), "compared with itself")
    again = copied(run, tmp_path / "again")
    with pytest.raises(ConfigError, match=r"the same model .* with the same patches"):
        diff(run, again)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entry: entry.update(data_digest="0" * 64), "the data differ"),
        (lambda entry: entry["instructions"].reverse(), "the instructions differ"),
        (lambda entry: entry.update(prompt_format="{question}"), "the prompt formats differ"),
    ],
)
def test_what_cannot_be_compared(
    change: Any, reason: str, run: Path, other: Path, tmp_path: Path
) -> None:
    folder = copied(other, tmp_path / "run")
    change_json(folder, "run.json", lambda d: change(d["tasks"]["workplace"]), seal=True)
    with pytest.raises(ConfigError, match=f"nothing can be compared: workplace: {reason}"):
        diff(run, folder)


def test_other_items_and_other_tasks(run: Path, other: Path, tmp_path: Path) -> None:
    folder = copied(other, tmp_path / "run")

    def renamed(rows: list[dict[str, Any]]) -> None:
        first = rows[0]["instance"]
        for row in rows:
            if row["instance"] == first:
                row["instance"] = "another"

    change_items(folder, renamed, seal=True)
    with pytest.raises(ConfigError, match="2 items were asked in one of them only"):
        diff(run, folder)
    change_json(
        folder, "run.json", lambda d: d["tasks"].update(new=d["tasks"].pop("workplace")), seal=True
    )
    with pytest.raises(ConfigError, match="no task in common"):
        diff(run, folder)
    with pytest.raises(RunFolderError, match="is no folder"):
        diff(run, tmp_path / "none")


def test_evaluations_are_compared_too(run: Path, other: Path, tmp_path: Path) -> None:
    folders = []
    for name, patch in (("a", run), ("b", other)):
        out = tmp_path / name
        result = excise(
            *("evaluate", run.parent / "model", "-t", WORKPLACE, "-p", patch, "-o", out, "-q"),
            *("--limit", 12, "--test-instructions", 1, "--set", "resamples=100"),
        )
        assert result.exit_code == 0, result.output
        folders.append(out)
    found = diff(*folders)
    assert [entry.state for entry in found.tasks] == ["original", "patched"]
    assert found.tasks[0].changed == 0
    assert found.tasks[1].answers == 12
    assert found.neurons == {}
