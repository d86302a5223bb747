"""The run folder: what it holds, reading it back, and its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from audits import change_items, change_json, copied, small_run
from excise.errors import RunFolderError
from excise.evaluation import predict
from excise.evidence import (
    check_manifest,
    code_digest,
    fingerprint,
    open_run,
    update_manifest,
    write_items,
    write_manifest,
)
from excise.evidence.items import stored_predictions
from excise.evidence.reading import read_items
from excise.models import load
from excise.types import Continuations, Prompt

ROOT = Path(__file__).parents[1] / "src" / "excise"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("evidence"))


def test_a_run_is_read_back(run: Path) -> None:
    stored = open_run(run)
    assert (stored.kind, stored.tasks) == ("run", ("workplace",))
    assert stored.run["schema_version"] == 2
    assert stored.config.controls == 2
    assert stored.states == (
        ("workplace", "original", None),
        ("workplace", "patched", 0),
        ("workplace", "control-0", 0),
        ("workplace", "control-1", 0),
        ("workplace", "patched", 1),
        ("workplace", "control-0", 1),
        ("workplace", "control-1", 1),
    )
    assert len(stored.patch) == 12
    assert len(stored.trial_patch("workplace", 1)) == 12
    assert len({key.split("/")[1] for key in stored.scores}) == 2
    entry = stored.run["tasks"]["workplace"]
    assert stored.best_trial("workplace") == entry["best_trial"]
    assert entry["trials"][1]["split"].keys() == {"by", "leaks", "find", "tune", "test"}
    assert "{instruction}" in entry["prompt_format"]
    assert stored.run["code"]["digest"] == code_digest()
    assert stored.run["weights_unchanged"] is False
    assert stored.run["environment"]["torch"]


def test_stored_answers_are_what_the_model_says(run: Path) -> None:
    """Rebuilt predictions against the model asked directly, every field."""
    stored = open_run(run)
    loaded = load(str(run.parent / "model"))
    from excise.tasks import load_task

    task: Any = load_task(stored.config.tasks[0])
    rebuilt = stored.predictions("workplace", "patched", 1)
    by_id = {instance.id: instance for instance in task.instances}
    assert rebuilt.instances == tuple(by_id[instance.id] for instance in rebuilt.instances)
    with stored.trial_patch("workplace", 1).applied(loaded):
        said = predict(
            loaded,
            task,
            rebuilt.instances,
            stored.config.scoring,
            instructions=task.instructions[:2],
        )
    assert rebuilt.instructions == said.instructions
    np.testing.assert_array_equal(rebuilt.choice, said.choice)
    np.testing.assert_array_equal(rebuilt.n_tokens, said.n_tokens)
    np.testing.assert_allclose(rebuilt.log_likelihood, said.log_likelihood, atol=1e-4)
    np.testing.assert_allclose(rebuilt.compared, said.compared, atol=1e-4)


def test_answers_of_every_width_survive(tmp_path: Path) -> None:
    """Two to five options, compared per token or as they are, generated, texts in any script."""
    loaded = tiny.loaded("llama")
    odd = tiny.instance(9, '<b>\u202eمرحبا</b> "|\n', unrelated=1)
    task = tiny.task((*tiny.INSTANCES, odd))
    from excise.config import ScoringConfig

    for number, config in enumerate(
        (ScoringConfig(), ScoringConfig(normalisation="total"), ScoringConfig(mode="generation"))
    ):
        said = predict(loaded, task, task.instances, config)
        path = tmp_path / f"{number}.parquet"
        write_items(iter([({"task": "toy", "state": "original", "trial": None}, said)]), path)
        again = stored_predictions(read_items(path), path)
        assert again.instances == said.instances
        assert again.instructions == said.instructions
        for name in ("choice", "log_likelihood", "n_tokens", "compared"):
            expected = getattr(said, name)
            if expected is None:
                assert getattr(again, name) is None
            else:
                np.testing.assert_array_equal(getattr(again, name), expected)


def test_continuations_are_no_choices(tmp_path: Path) -> None:
    prompt = Prompt("p", "They", "g", "t", "b")
    answers = Continuations((prompt,), (("went", "sat"),), {"toxic": np.array([[0.5, 0.0]])}, "j")
    path = tmp_path / "items.parquet"
    write_items(iter([({"task": "toy", "state": "original", "trial": None}, answers)]), path)
    with pytest.raises(RunFolderError, match="no choices"):
        stored_predictions(read_items(path), path)


def test_rows_that_are_missing_are_found(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    change_items(folder, lambda rows: rows.pop(3), seal=True)
    with pytest.raises(RunFolderError, match="rows are missing"):
        open_run(folder).predictions("workplace", "original")


def test_folders_that_are_no_runs(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no folder"):
        open_run(tmp_path / "none")
    with pytest.raises(RunFolderError, match=r"has no run\.json"):
        open_run(tmp_path)
    newer = copied(run, tmp_path / "newer")
    change_json(newer, "run.json", lambda d: d.update(schema_version=3), seal=True)
    with pytest.raises(RunFolderError, match="schema version 3; this excise reads up to 2"):
        open_run(newer)
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(RunFolderError, match="written by `excise compare`"):
        open_run(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "results.json", "items.parquet"])
def test_a_damaged_file_is_named_in_one_line(name: str, run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunFolderError, match=f"{name} is missing or damaged") as caught:
        open_run(folder)
    assert "\n" not in str(caught.value)


def test_unknown_states_are_named(run: Path) -> None:
    with pytest.raises(RunFolderError, match="no rows of workplace, control-7, trial 0"):
        open_run(run).predictions("workplace", "control-7", 0)


def test_the_first_schema_is_read(run: Path, tmp_path: Path) -> None:
    """It had neither task texts nor blocks, nor what options were compared by."""
    folder = copied(run, tmp_path / "run")
    (folder / "files.json").unlink()
    change_json(folder, "run.json", lambda d: d.update(schema_version=1), seal=False)
    table = read_items(folder / "items.parquet")
    import pyarrow.parquet

    old = table.drop_columns(["fields", "block", "compared", "variant", "unrelated"])
    pyarrow.parquet.write_table(old, folder / "items.parquet")
    rebuilt = open_run(folder).predictions("workplace", "original")
    assert rebuilt.compared is None
    assert rebuilt.instances[0].fields == {}
    assert rebuilt.instances[0].block == rebuilt.instances[0].template


# The manifest.


def test_every_file_is_in_the_manifest(run: Path) -> None:
    """The digests are those of an independent tool, and a run is as it was written."""
    files = json.loads((run / "files.json").read_text())["files"]
    expected = {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name != "files.json"
    }
    assert {name: entry["sha256"] for name, entry in files.items()} == expected
    assert "patch/neurons.json" in expected
    assert check_manifest(run) == []


def _accused(folder: Path) -> set[str]:
    try:
        return {problem.file for problem in check_manifest(folder)}
    except RunFolderError:
        return {"files.json"}


def test_a_changed_byte_anywhere_is_found_and_named(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(bytes(changed))
            name = path.relative_to(folder).as_posix()
            named = _accused(folder)
            assert named, f"{name}, byte {place}"
            # A digit in the manifest accuses the file that it stands for.
            assert named == {name} or name == "files.json"
        path.write_bytes(content)
    assert check_manifest(folder) == []


def test_missing_and_foreign_files_are_named(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    (folder / "scores.safetensors").unlink()
    (folder / "patch" / "note.txt").write_text("mine")
    found = {(problem.file, problem.what) for problem in check_manifest(folder)}
    assert found == {("scores.safetensors", "missing"), ("patch/note.txt", "not in the manifest")}


def test_a_report_written_later_is_taken_over_alone(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    before = fingerprint(folder)
    (folder / "evidence.json").write_text("<p>")
    (folder / "README.md").write_text("changed")
    update_manifest(folder, ["evidence.json"])
    assert [problem.file for problem in check_manifest(folder)] == ["README.md"]
    assert fingerprint(folder) != before
    (folder / "evidence.json").unlink()
    update_manifest(folder, ["evidence.json"])
    assert fingerprint(folder) == before
    update_manifest(tmp_path, ["x"])  # a folder without a manifest is left alone
    assert not (tmp_path / "files.json").exists()
    with pytest.raises(RunFolderError, match=r"has no files\.json"):
        check_manifest(tmp_path)


def test_the_manifest_does_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    for folder, names in (("a", "xyz"), ("b", "zyx")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(name)
        write_manifest(tmp_path / folder)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_the_code_digest_is_that_of_the_files() -> None:
    """Worked out again with hashlib alone."""
    lines = []
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{path.relative_to(ROOT).as_posix()} {digest}\n")
    code_digest.cache_clear()
    assert code_digest() == hashlib.sha256("".join(lines).encode()).hexdigest()
