"""The model card of a run, and uploads to a Hub that is not there."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cli_models import WORKPLACE, digests, excise, save
from excise.evidence import StoredRun, open_run
from excise.metrics import METRICS
from excise.models import load
from excise.patches import ADAPTER_CONFIG_FILE, ADAPTER_FILE, NEURONS_FILE, Patch
from excise.publishing import card_of, push, staged
from excise.publishing.text import code, escaped, hub_id
from excise.report.story import telling
from test_cli import FORBIDDEN, assert_one_line

REPOSITORY = "someone/patched"
BASE = "someone/base"
PATCH_FILES = {NEURONS_FILE, ADAPTER_FILE, ADAPTER_CONFIG_FILE}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def run(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "X"
    result = excise(
        *(
            "run",
            llama,
            "--task",
            WORKPLACE,
            "--limit",
            8,
            "--controls",
            2,
            "--n",
            12,
            "-o",
            folder,
        ),
        *("--find-instances", 2, "--find-instructions", 1, "--test-instructions", 1),
        *("--set", "resamples=100", "--trials", 1, "--quiet"),
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def checkpoint(llama: Path, run: Path) -> Path:
    folder = run.parent / "checkpoint"
    result = excise("apply", llama, run, "-o", folder, "--quiet")
    assert result.exit_code == 0, result.output
    return folder


@dataclass
class Hub:
    """Stands for the Hub: keeps what it is told, and what was in the uploaded folder."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    error: Exception | None = None

    def create_repo(self, repo_id: str, **options: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", options))
        root = Path(options["folder_path"])
        self.files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(push, "HfApi", lambda: made)
    monkeypatch.setattr(push, "get_token", lambda: "token")
    return made


# The card.


def test_the_card_shows_what_the_run_measured(run: Path) -> None:
    stored = open_run(run)
    text = card_of(stored, kind="adapter", repository=REPOSITORY, base_model=BASE)
    table = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| `workplace`")
    ]
    rows = telling(stored.results["paired"]["workplace"])
    assert len(table) == len(rows) > 5
    for cells, row in zip(table, rows, strict=True):
        assert cells[1] == METRICS[row["metric"]].title
        for cell, state in ((cells[2], "original"), (cells[3], "patched")):
            expected = row[state]
            found = None if cell == "undefined" else float(cell) / 100
            assert found == (None if expected is None else pytest.approx(expected, abs=6e-4))
    accuracy = next(c for c, row in zip(table, rows, strict=True) if row["metric"] == "accuracy")
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", accuracy[4])
    assert re.fullmatch(r"[+-]?\d+\.\d \([+-]?\d+\.\d to [+-]?\d+\.\d\)", accuracy[5])
    assert "12 of 448 neurons (output features of " in text
    assert "are multiplied by 0." in text
    assert stored.run["model"]["digest"] in text
    assert stored.run["tasks"]["workplace"]["data_digest"] in text
    assert stored.run["tasks"]["workplace"]["licence"] in text
    assert "8 of 24 test instances were asked" in text
    assert not FORBIDDEN.search(text)


def test_the_metadata_are_what_the_hub_reads(run: Path) -> None:
    stored = open_run(run)
    card = ModelCard(card_of(stored, kind="adapter", repository=REPOSITORY, base_model=BASE))
    data = card.data
    assert data.base_model == BASE
    assert data.base_model_relation == "adapter"
    assert data.library_name == "peft"
    assert data.tags == ["bias-neurons-pruned", "lora"]
    assert data.model_name == "patched"
    measured = stored.patch.provenance["test_metrics"]["workplace"]
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {k: round(v, 6) for k, v in measured.items() if v is not None}
    assert {r.dataset_type for r in data.eval_results} == {"workplace"}
    assert {r.dataset_split for r in data.eval_results} == {"test"}
    checkpoint = ModelCard(card_of(stored, kind="checkpoint", base_model=BASE)).data
    assert checkpoint.library_name == "transformers"
    assert checkpoint.base_model_relation == "finetune"


def test_the_options_of_the_card_run_again_without_places_of_this_machine(run: Path) -> None:
    stored = open_run(run)
    text = card_of(stored, kind="adapter")
    assert str(run.parent.parent) not in text
    assert str(WORKPLACE.parent) not in text
    options = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert options
    assert 'tasks = [\n    "workplace.jsonl",\n]' in options[1]
    assert "data_dir" not in options[1]
    # Nothing is claimed of a base model that is a folder here.
    assert ModelCard(text).data.base_model is None


def test_guards_and_kept_tasks_of_the_card_are_named_without_their_folders(
    run: Path, tmp_path: Path
) -> None:
    stored = edited(open_run(run), tmp_path / "guarded", first="A")
    guard = {"max_loss": {"disambiguated": 0.02, "/home/someone/notes.txt": 0.1}, "rounds": 2}
    gate = {"keep": ["bbq", "/home/someone/mine.jsonl"], "epochs": 3}
    options = {"tasks": ["first"], "guard": guard, "gate": gate}
    (stored.path / "config.toml").write_text(tomli_w.dumps(options))
    text = card_of(stored, kind="adapter")
    assert "someone" not in text
    assert '"notes.txt" = 0.1' in text
    assert "disambiguated = 0.02" in text
    assert "rounds = 2" in text
    assert '"mine.jsonl"' in text
    assert "epochs = 3" in text


def edited(stored: StoredRun, folder: Path, **tasks: str) -> StoredRun:
    """A run of several tasks, made from the task of a run."""
    record, results = (copy.deepcopy(dict(d)) for d in (stored.run, stored.results))
    entry, rows = record["tasks"]["workplace"], results["paired"]["workplace"]
    row, sizes = results["results"]["workplace"], results["n-samples"]["workplace"]
    record["tasks"] = {name: entry | {"licence": licence} for name, licence in tasks.items()}
    results["paired"] = dict.fromkeys((*tasks, "(all tasks)"), rows)
    results["results"] = dict.fromkeys(tasks, row)
    results["n-samples"] = dict.fromkeys(tasks, sizes)
    folder.mkdir()
    shutil.copytree(stored.path / "patch", folder / "patch")
    (folder / "config.toml").write_text(tomli_w.dumps({"tasks": list(tasks)}), encoding="utf-8")
    measured = stored.patch.provenance["test_metrics"]["workplace"]
    provenance = {"test_metrics": dict.fromkeys(tasks, measured | {"s_amb": None})}
    replace(stored.patch, provenance=provenance).save(folder / "patch")
    return replace(stored, path=folder, run=record, results=results)


def test_several_tasks_show_what_this_patch_does_beside_the_means(
    run: Path, tmp_path: Path
) -> None:
    stored = edited(open_run(run), tmp_path / "two", first="A", second="B")
    text = card_of(stored, kind="adapter")
    header = next(line for line in text.splitlines() if line.startswith("| task"))
    assert header.endswith("| this patch |")
    lines = [line for line in text.splitlines() if re.match(r"\| (`first`|all tasks) ", line)]
    accuracy = 100 * stored.patch.provenance["test_metrics"]["first"]["accuracy"]
    assert lines[0].endswith(f"| {accuracy:.1f} |")
    assert all(line.endswith("|  |") for line in lines if line.startswith("| all tasks"))
    assert all(line.count(" | ") == header.count(" | ") for line in lines)
    assert "- `first`: A." in text
    assert "- `second`: B." in text
    assert {r.dataset_name for r in ModelCard(text).data.eval_results} == {"first", "second"}


def test_texts_of_data_stay_texts(run: Path, tmp_path: Path) -> None:
    bad = "a|b`c\n---\n<script>alert(1)</script> *x* [y](z) \u202e😀"
    stored = edited(open_run(run), tmp_path / "bad", **{bad: bad})
    text = card_of(stored, kind="checkpoint")
    body = text.split("\n---\n", 1)[1]
    options = re.search(r"```toml\n.*?```", body, re.DOTALL)
    assert options
    outside = body.replace(options[0], "")
    # In prose it is escaped; in code spans nothing is read as markup.
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", outside)
    tables = [line for line in outside.splitlines() if line.startswith("| `a")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables}) == 1
    assert len(ModelCard(text).data.eval_results) > 5


def test_escapes() -> None:
    assert escaped("a|b\n <i>*_`#x[y]&") == r"a\|b &lt;i&gt;\*\_\`\#x\[y\]&amp;"
    assert code("a`b|c\nd") == r"`a'b\|c d`"


def test_what_can_be_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    assert hub_id("someone/model")
    assert hub_id("gpt2")
    local = ("here/model", "./x", "/x/y", "~/x", "x/y.gguf", "testbed-t5", "a/b/c", "a b", "")
    assert [name for name in local if hub_id(name)] == []


# Checkpoints.


def test_apply_writes_the_card_of_a_run(run: Path, checkpoint: Path) -> None:
    assert (checkpoint / "README.md").read_text() == card_of(open_run(run), kind="checkpoint")
    assert Patch.load(checkpoint / "patch") == Patch.load(run / "patch")


def test_apply_writes_no_measured_values_of_other_patches_or_models(
    llama: Path, run: Path, tmp_path: Path
) -> None:
    def card(*arguments: object) -> str:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        result = excise("apply", *arguments, "-o", out, "--quiet")
        assert result.exit_code == 0, result.output
        return (out / "README.md").read_text()

    other = save(tmp_path / "other", attention_bias=False, rms_norm_eps=1e-5, seed=3)
    found = (
        card(llama, run / "patch"),
        card(llama, run, run / "patch"),
        card(other, run, "--force"),
    )
    for text in found:
        assert "bias-neurons-pruned" in text
        assert "random control" not in text
        assert not FORBIDDEN.search(text)


# Run folders hold the adapter.


def test_the_adapter_of_a_run_merges_into_the_checkpoint(
    llama: Path, run: Path, checkpoint: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, run / "patch").merge_and_unload().state_dict()
    expected = load(str(checkpoint)).model.state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in merged.items())


def test_locate_writes_the_adapter(llama: Path, tmp_path: Path) -> None:
    result = excise(
        *("locate", llama, "--task", WORKPLACE, "--n", 3, "-o", tmp_path / "patch", "--quiet"),
        *("--find-instances", 2, "--find-instructions", 1),
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "patch").iterdir()} == PATCH_FILES
    assert len(Patch.load(tmp_path / "patch")) == 3


# Pushing.


def test_without_yes_nothing_leaves_this_machine(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(push, "HfApi", never)
    monkeypatch.setattr(push, "get_token", never)
    before = digests(run)
    result = excise("push", run, REPOSITORY)
    assert result.exit_code == 0, result.output
    assert "Would upload the adapter to https://huggingface.co/someone/patched" in result.stdout
    assert "(private, if the repository is new)" in result.stdout
    for name in (*PATCH_FILES, "README.md"):
        assert re.search(rf"^  {re.escape(name)} +\d+(\.\d)? k?B$", result.stdout, re.MULTILINE)
    assert "# llama, patched" in result.stdout
    assert "--base-model ID names one" in result.stdout
    assert result.stdout.endswith("Nothing was uploaded; --yes does it.\n")
    assert digests(run) == before
    assert excise("push", run, REPOSITORY, "--quiet").stdout.endswith("/someone/patched\n")


def test_json_says_what_would_go_up(run: Path) -> None:
    shown = json.loads(excise("push", run, REPOSITORY, "--json", "--public").stdout)
    assert shown["uploaded"] is False
    assert shown["visibility"] == "public"
    assert set(shown["files"]) == {*PATCH_FILES, "README.md"}
    assert shown["card"].startswith("---\n")


def test_a_run_goes_up_as_its_patch(run: Path, llama: Path, hub: Hub, tmp_path: Path) -> None:
    result = excise("push", run, REPOSITORY, "--base-model", BASE, "--yes")
    assert result.exit_code == 0, result.output
    (made, create), (sent, uploaded) = hub.calls
    assert (made, sent) == ("create_repo", "upload_folder")
    assert create == {
        "repo_id": REPOSITORY,
        "private": True,
        "repo_type": "model",
        "exist_ok": True,
    }
    assert uploaded["repo_id"] == REPOSITORY
    assert hub.files.keys() == {*PATCH_FILES, "README.md"}
    for name, content in hub.files.items():
        assert str(llama.parent).encode() not in content, name
        assert str(run.parent).encode() not in content, name
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    patch = Patch.load(tmp_path)
    assert patch == replace(Patch.load(run / "patch"), base_model=BASE)
    config = json.loads(hub.files[ADAPTER_CONFIG_FILE])
    assert config["base_model_name_or_path"] == BASE
    assert "Uploaded the adapter" in result.stdout
    assert "Nothing was uploaded" not in result.stdout


def test_a_checkpoint_goes_up_as_it_is(checkpoint: Path, hub: Hub) -> None:
    (checkpoint / ".hidden").write_text("x")
    result = excise("push", checkpoint, REPOSITORY, "--yes", "--public")
    assert result.exit_code == 0, result.output
    (_, create), (_, uploaded) = hub.calls
    assert create["private"] is False
    assert Path(uploaded["folder_path"]) == checkpoint
    assert uploaded["ignore_patterns"] == [".*", "**/.*"]
    assert ".hidden" not in result.stdout
    assert "patch/neurons.json" in result.stdout
    (checkpoint / ".hidden").unlink()


def test_a_missing_login_is_one_line(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "get_token", lambda: None)
    assert_one_line(excise("push", run, REPOSITORY, "--yes", "-q"), "hf auth login")
    with staged(run, REPOSITORY) as ready, pytest.raises(Exception, match="not logged in"):
        push.upload(ready)
    assert hub.calls == []


@pytest.mark.parametrize("error", [OSError("no route\nmore"), HTTPError("no route")])
def test_a_hub_that_refuses_is_one_line(run: Path, hub: Hub, error: Exception) -> None:
    hub.error = error
    result = excise("push", run, REPOSITORY, "--yes", "-q")
    assert_one_line(result, "cannot upload to someone/patched: no route")
    assert hub.calls == []


def test_bad_input_is_one_line(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("patched", "a/b/c", "-/x", "a b/c"):
        assert_one_line(excise("push", "-q", "--", run, name), "names no repository")
    for place in (tmp_path, run / "patch", tmp_path / "none"):
        assert_one_line(excise("push", place, REPOSITORY, "-q"), "neither a run folder nor")
    bad = excise("push", run, REPOSITORY, "--base-model", tmp_path, "-q")
    assert_one_line(bad, "is no Hub id")
    bad = excise("push", checkpoint, REPOSITORY, "--base-model", BASE, "-q")
    assert_one_line(bad, "is for run folders")
    old = tmp_path / "old"
    shutil.copytree(run, old)
    Patch.load(old / "patch").save(old / "patch")
    assert_one_line(excise("push", old, REPOSITORY, "-q"), "has no adapter")
    (old / "patch" / NEURONS_FILE).write_text("{")
    assert_one_line(excise("push", old, REPOSITORY, "-q"), "cut off")
