"""`excise verify`: an untouched run is equal, and every forgery is found and named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from audits import change_items, change_json, copied, small_run
from cli_models import WORKPLACE, excise
from excise.auditing import Verification, verify
from excise.auditing.numbers import differences
from excise.evidence import fingerprint
from test_cli import assert_one_line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("verify"))


def mismatches(found: Verification) -> dict[str, tuple[str, ...]]:
    return {check.name: check.problems for check in found.checks if check.outcome == "mismatch"}


def test_an_untouched_run_is_equal(run: Path) -> None:
    found = verify(run)
    assert mismatches(found) == {}
    assert found.equal
    assert found.notes == ()
    assert found.fingerprint == fingerprint(run)
    names = [check.name for check in found.checks]
    assert names[:7] == [
        *("files", "metrics", "intervals", "patch"),
        *("data of workplace", "splits and questions of workplace", "instructions of workplace"),
    ]
    assert names[7] == "model weights"
    answers = {check.name: check.compared for check in found.checks[8:]}
    assert answers == {
        f"answers of workplace, {state}": 12 * 2
        for state in (
            "original",
            *(f"{which}, trial {trial}" for trial in (0, 1) for which in _OF_A_TRIAL),
        )
    }


_OF_A_TRIAL = ("patched", "control-0", "control-1")


def test_what_the_command_says(run: Path) -> None:
    result = excise("verify", run, "--sample", 3)
    assert result.exit_code == 0, result.output
    assert re.search(r"^= files: \d+ equal$", result.stdout, re.MULTILINE)
    assert "answers of workplace, control-1, trial 1: 6 equal" in result.stdout
    assert "log-likelihoods within 0.001 nats" in result.stdout
    assert fingerprint(run) in result.stdout
    assert "everything that was checked is equal" in result.stdout


def test_files_only_needs_neither_model_nor_data(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")

    def elsewhere(document: Any) -> None:
        document["config"]["model"] = "nobody/nothing"
        document["config"]["tasks"] = ["gone.jsonl"]

    change_json(folder, "run.json", elsewhere, seal=True)
    result = excise("verify", folder, "--files-only", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["equal"]
    assert [check["name"] for check in document["checks"]] == [
        *("files", "metrics", "intervals", "patch"),
    ]
    assert_one_line(excise("verify", folder, "-q"), "gone.jsonl")


def test_a_changed_byte_is_named(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    path = folder / "README.md"
    path.write_bytes(path.read_bytes().replace(b"excised", b"exciseD", 1))
    result = excise("verify", folder, "--files-only", "-q")
    assert result.exit_code == 1
    assert "README.md: changed (sha256 differs)" in result.stdout


def test_a_file_that_no_longer_opens_is_a_mismatch(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    (folder / "items.parquet").write_bytes(b"PAR1")
    found = verify(folder, files_only=True)
    assert set(mismatches(found)) == {"files"}
    assert [check.outcome for check in found.checks] == ["mismatch", "skipped"]
    (folder / "run.json").unlink()
    assert_one_line(excise("verify", tmp_path, "-q"), "is no run folder")


# Forgeries with a new manifest.


def test_a_prettier_metric_is_found(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")

    def prettier(document: Any) -> None:
        document["results"]["workplace"]["accuracy,patched"] += 0.25
        document["paired"]["workplace"][0]["low"] = 0.125

    change_json(folder, "results.json", prettier, seal=True)
    found = mismatches(verify(folder, files_only=True))
    assert set(found) == {"metrics", "intervals"}
    assert "results['workplace']['accuracy,patched']: recorded" in found["metrics"][0]
    assert found["intervals"][0].startswith(
        "paired['workplace']['accuracy']['low']: recorded 0.125"
    )


def test_other_code_may_have_other_intervals_but_no_other_values(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    change_json(folder, "run.json", lambda d: d["code"].update(digest="0" * 64), seal=True)
    change_json(
        folder, "results.json", lambda d: d["paired"]["workplace"][0].update(low=0.125), seal=True
    )
    found = verify(folder, files_only=True)
    assert found.equal
    assert {check.name: check.outcome for check in found.checks}["intervals"] == "skipped"
    assert "code 000000000000" in found.notes[0]
    change_json(
        folder, "results.json", lambda d: d["paired"]["workplace"][0].update(patched=2.0), seal=True
    )
    assert set(mismatches(verify(folder, files_only=True))) == {"metrics"}


def test_a_forged_answer_is_found_by_asking_again(run: Path, tmp_path: Path) -> None:
    """Choice, log-likelihood and what the data say, each with metrics and manifest made to fit."""
    folder = copied(run, tmp_path / "run")
    named: list[str] = []

    def forged(rows: list[dict[str, Any]]) -> None:
        patched = [row for row in rows if row["state"] == "control-1" and row["trial"] == 1]
        first, second, third = patched[0], patched[1], patched[2]
        first["choice"] = (first["choice"] + 1) % len(first["options"])
        second["log_likelihood"] = [x + 0.002 for x in second["log_likelihood"]]
        third["options"] = [*third["options"][:-1], "another"]
        named.extend(row["instance"] for row in (first, second, third))

    change_items(folder, forged, seal=True)
    from excise.auditing.rebuilding import rebuilt
    from excise.evidence import open_run, results_record

    record = results_record(rebuilt(open_run(folder)))
    change_json(folder, "results.json", lambda d: d.update(record), seal=True)
    found = mismatches(verify(folder))
    assert set(found) == {"answers of workplace, control-1, trial 1"}
    (problems,) = found.values()
    assert [problem.partition(",")[0].partition(":")[0] for problem in problems] == named
    assert "chose option" in problems[0]
    assert "log-likelihoods differ by 0.002 nats" in problems[1]
    assert "stored options" in problems[2]


def test_rounding_is_tolerated(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")

    def noisy(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["log_likelihood"] = [x + 1e-5 for x in row["log_likelihood"]]

    change_items(folder, noisy, seal=True)
    assert set(mismatches(verify(folder))) <= {"metrics", "intervals"}


def test_another_patch_is_found(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    best = json.loads((run / "run.json").read_text())["tasks"]["workplace"]["best_trial"]
    other = folder / "patches" / f"workplace-trial-{1 - best}"
    shutil.rmtree(folder / "patch")
    shutil.copytree(other, folder / "patch")
    from excise.evidence import write_manifest

    write_manifest(folder)
    assert set(mismatches(verify(folder, files_only=True))) == {"patch"}


def test_other_weights_data_and_instructions(run: Path, tmp_path: Path) -> None:
    """Each is named, and answers are then not asked again."""
    model = tmp_path / "model"
    shutil.copytree(run.parent / "model", model)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] += torch.tensor(0.5)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = verify(run, model=str(model))
    assert set(mismatches(found)) == {"model weights"}
    assert found.checks[-1].name == "answers"
    assert found.checks[-1].outcome == "skipped"

    data = tmp_path / "workplace.jsonl"
    lines = WORKPLACE.read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join([*lines[1:], lines[0].replace("Who", "Which one")]) + "\n")
    folder = copied(run, tmp_path / "run")

    def moved(document: Any) -> None:
        document["config"]["tasks"] = [str(data)]
        document["tasks"]["workplace"]["instructions"][1] = "Guess."
        document["tasks"]["workplace"]["trials"][0]["split"]["tune"] = "0" * 64

    change_json(folder, "run.json", moved, seal=True)
    problems = mismatches(verify(folder))
    assert {"data of workplace", "instructions of workplace"} <= problems.keys()
    assert "trial 0, tune" in problems["splits and questions of workplace"][0]
    assert "recorded 'Guess.'" in problems["instructions of workplace"][0]


def test_an_evaluation_is_checked_as_far_as_it_goes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    result = excise(
        *("evaluate", run.parent / "model", "-t", WORKPLACE, "-p", run, "-o", out, "-q"),
        *("--limit", 8, "--test-instructions", 1, "--set", "resamples=100"),
    )
    assert result.exit_code == 0, result.output
    found = verify(out)
    assert found.equal
    outcomes = {check.name: check.outcome for check in found.checks}
    assert outcomes["metrics"] == "equal"
    assert outcomes["answers of workplace, original"] == "equal"
    assert outcomes["answers of workplace, patched"] == "skipped"
    key = "accuracy,patched"
    change_json(
        out, "results.json", lambda d: d["results"]["workplace"].update({key: 2}), seal=True
    )
    (problem,) = mismatches(verify(out, files_only=True))["metrics"]
    assert problem.startswith(f"workplace: {key}: recorded 2")


def test_an_older_run_is_checked_without_a_manifest(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    (folder / "files.json").unlink()
    assert set(mismatches(verify(folder, files_only=True))) == {"files"}
    change_json(folder, "run.json", lambda d: d.update(schema_version=1), seal=False)
    found = verify(folder, files_only=True)
    assert found.equal
    assert found.checks[0].outcome == "skipped"
    assert found.fingerprint is None


def test_differences_of_documents() -> None:
    recorded = {"a": [{"metric": "m", "low": 1.0, "n": None}], "b": "x", "c": 3, "d": True}
    equal = {"a": [{"metric": "m", "low": 1.0 + 1e-13, "n": None, "new": 1}], "b": "x", "c": 3.0}
    assert list(differences(recorded, equal)) == ["d: recorded True, recomputed nothing"]
    other = {"a": [{"metric": "m", "low": 1.001, "n": 0}], "b": "y", "c": 3, "d": 1}
    assert list(differences(recorded, other)) == [
        "a['m']['low']: recorded 1.0, recomputed 1.001",
        "a['m']['n']: recorded None, recomputed 0",
        "b: recorded 'x', recomputed 'y'",
    ]
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == ["a: recorded [1], recomputed [1, 2]"]
