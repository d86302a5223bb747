"""The verbs on tiny models: a golden run, the single steps, and bad input."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from transformers import AutoModelForCausalLM

from cli_models import WORKPLACE, digests, excise, save
from excise.config import resolve
from excise.models import load
from excise.patches import Patch
from excise.results import HEADLINE
from test_cli import FORBIDDEN, assert_one_line

SMALL = ["--task", WORKPLACE, "--limit", 16, "--controls", 2, "--set", "resamples=100"]
FAST = ["--find-instances", 2, "--find-instructions", 1, "--test-instructions", 2]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def golden(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `excise run TINY`, with the checks that belong to the run itself."""
    folder = tmp_path_factory.mktemp("golden") / "X"
    before = digests(llama)
    result = excise("run", llama, *SMALL, *FAST, "--trials", 1, "--n", 12, "--out", folder)
    assert result.exit_code == 0, result.output
    assert digests(llama) == before
    (folder.parent / "stdout").write_text(result.stdout)
    (folder.parent / "stderr").write_text(result.stderr)
    return folder


def test_a_bound_on_memory_decides_nothing(llama: Path, tmp_path: Path) -> None:
    found = []
    for bound in ([], ["--max-memory", 1]):
        out = tmp_path / f"out-{len(found)}"
        result = excise("evaluate", llama, "-t", WORKPLACE, "-L", 8, *bound, "--out", out, "--json")
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout)["results"]["workplace"])
        assert f"max_memory_mib = {1 if bound else 1024}\n" in (out / "config.toml").read_text()
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert_one_line(excise("evaluate", llama, "--max-memory", 0), "scoring.max_memory_mib")


def test_the_run_folder_is_whole(golden: Path) -> None:
    record = json.loads((golden / "run.json").read_text())
    assert record["config"]["selection"]["n"] == 12
    results = json.loads((golden / "results.json").read_text())
    row = results["results"]["workplace"]
    assert all(re.fullmatch(r"alias|\w+,\w+", key) for key in row)
    assert {"accuracy,original", "accuracy,patched", "accuracy,control"} <= row.keys()
    assert {entry["metric"] for entry in results["paired"]["workplace"]} >= {"accuracy"}
    assert results["n-samples"]["workplace"]["effective"] == 16
    resolve({}, file=golden / "config.toml")
    items = pyarrow.parquet.read_table(golden / "items.parquet")
    assert items.num_rows == 16 * 2 * 4  # instances, instructions, states
    assert len(Patch.load(golden / "patch")) == 12
    assert sum(values.size for values in load_file(golden / "scores.safetensors").values()) == 448
    assert "config.toml" in (golden / "README.md").read_text()


def test_what_a_run_prints(golden: Path) -> None:
    printed = (golden.parent / "stdout").read_text()
    assert "\x1b" not in printed
    for column in ("original", "patched", "random", "control", "difference"):
        assert column in printed
    assert len(HEADLINE) == 10
    for title in ("Accuracy, ambiguous", "Accuracy, disambiguated", "Bias score, ambiguous"):
        assert title in printed
    assert "Excised neurons: 12 of 448" in printed
    assert printed.count("model.layers.") == 3
    told = " ".join(printed.split())
    assert " measures " in told.split("Accuracy, ambiguous")[0], "the verdict comes first"
    assert "Where: " in told
    assert "rest on 4 question templates only" in printed
    assert "16 of 24 test instances were asked" in printed
    assert len(printed.splitlines()) <= 40
    assert printed.endswith(f"Report: {golden / 'report.html'}\nRun folder: {golden}\n")
    assert not FORBIDDEN.search(printed)


def test_stages_are_logged_where_there_is_no_terminal(golden: Path) -> None:
    lines = (golden.parent / "stderr").read_text().splitlines()
    assert len(lines) >= 4
    assert all(re.match(r"excise: \[\d+:\d\d(, \d+ %)?\] ", line) for line in lines)


def test_the_saved_configuration_gives_the_same_numbers(golden: Path, tmp_path: Path) -> None:
    again = tmp_path / "Y"
    result = excise("run", "--config", golden / "config.toml", "--out", again, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{again}\n", "")
    assert (again / "results.json").read_text() == (golden / "results.json").read_text()


def test_json_is_all_that_is_printed(golden: Path, tmp_path: Path) -> None:
    result = excise("run", "--config", golden / "config.toml", "--out", tmp_path / "Y", "--json")
    assert result.stdout == (golden / "results.json").read_text()


def test_several_tasks_are_pooled_and_united(llama: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.jsonl"
    second.write_bytes(WORKPLACE.read_bytes())
    result = excise(
        *("run", llama, *SMALL, *FAST, "-t", second, "--n", 5, "--trials", 2, "-o", tmp_path / "X"),
        columns=60,
    )
    assert result.exit_code == 0, result.output
    assert "All 2 tasks, each with its own patch" in result.stdout
    assert "under this union" in " ".join(result.stdout.split())
    assert "means over 2 trials" in " ".join(result.stdout.split())
    lines = [line for line in result.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 60
    assert "second" in json.loads((tmp_path / "X" / "results.json").read_text())["results"]


def test_a_leaking_split_says_so(llama: Path, tmp_path: Path) -> None:
    options = ["--split-by", "example", "--n", 2, "--controls", 0, "--out", tmp_path / "X"]
    result = excise("run", llama, *SMALL, *FAST, *options)
    assert "--split-by example leaks" in result.stdout
    assert "not drawn" in result.stdout
    assert "chance is not ruled out" in result.stdout


def test_locate_apply_and_evaluate(llama: Path, tmp_path: Path) -> None:
    patch, checkpoint = tmp_path / "patch", tmp_path / "checkpoint"
    located = excise(
        *("locate", llama, "-t", WORKPLACE, *FAST[:4], "--n", 20, "--out", patch),
    )
    assert located.exit_code == 0, located.output
    assert "Excised neurons: 20 of 448" in located.stdout
    assert located.stdout.endswith(f"Patch folder: {patch}\n")

    applied = excise("apply", llama, patch, "-o", checkpoint)
    assert applied.exit_code == 0, applied.output
    tokens = torch.arange(5, 25)[None]
    loaded = load(str(llama))
    with torch.no_grad(), Patch.load(patch).applied(loaded):
        expected = loaded.model(tokens).logits
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(checkpoint)
        assert torch.equal(plain(tokens).logits, expected)

    compared = excise(
        *("evaluate", llama, "-t", WORKPLACE, "--patch", patch, "--out", tmp_path / "E"),
        *("--test-instructions", 2, "--set", "resamples=100"),
    )
    assert compared.exit_code == 0, compared.output
    assert "48 of 48 items" in compared.stdout
    assert "(sd " in compared.stdout
    assert "too optimistic" in compared.stdout
    document = json.loads((tmp_path / "E" / "results.json").read_text())
    alone = excise("evaluate", checkpoint, "-t", WORKPLACE, "--test-instructions", 2, "--json")
    of_checkpoint = json.loads(alone.stdout)["results"]["workplace"]
    of_patched = document["results"]["workplace"]
    assert of_checkpoint["accuracy,original"] == of_patched["accuracy,patched"]
    rows = pyarrow.parquet.read_table(tmp_path / "E" / "items.parquet").num_rows
    assert rows == 48 * 2 * 2


def test_locate_chooses_on_tune_and_keeps_the_curve(llama: Path, tmp_path: Path) -> None:
    result = excise(
        *("locate", llama, "-t", WORKPLACE, *FAST[:4], "--set", "selection.grid=[0,3,9]"),
        *("--out", tmp_path / "P"),
    )
    assert result.exit_code == 0, result.output
    patch = Patch.load(tmp_path / "P")
    assert f"chose n = {len(patch)}" in result.stdout
    assert [point["n"] for point in patch.provenance["curve"]] == [0, 3, 9]


def test_patches_are_joined(golden: Path, llama: Path, tmp_path: Path) -> None:
    patch = Patch.load(golden / "patch")
    halves = [tmp_path / "a", tmp_path / "b"]
    for half, keep in zip(halves, (slice(0, 7), slice(5, 12)), strict=True):
        Patch(patch.neurons[keep], patch.scores[keep], patch.base_model, patch.base_digest).save(
            half
        )
    result = excise("apply", llama, *halves, "-o", tmp_path / "joined")
    assert "Excised neurons: 12 of 448" in result.stdout
    whole = excise("apply", llama, golden, "-o", tmp_path / "whole", "--quiet")
    assert whole.stdout == f"{tmp_path / 'whole'}\n"
    weights = [load_tensors(tmp_path / n / "model.safetensors") for n in ("joined", "whole")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


def _run(llama: Path, out: Path, *more: Any) -> Any:
    return excise("run", llama, *SMALL, *FAST, "--out", out, "--quiet", *more)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"question": "Who?", "options": ["a"], "gold": 0}', "options"),
        ('{"question": "Who?", "options": ["a", "b"], "gold": 2}', "gold"),
        ('{"question": "", "options": ["a", "b"], "gold": 0}', "question"),
        ('{"question": "Who?", "options": ["a", "b"]}', "gold"),
        ('{"question": "Who?", "options": ["a", ', "line 2"),
    ],
)
def test_a_malformed_file(line: str, named: str, llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "Where?", "options": ["a", "b"], "gold": 0}\n' + line + "\n")
    result = excise("run", llama, "-t", file, "-o", tmp_path / "X", "-q")
    assert_one_line(result, named)
    assert "mine.jsonl" in result.stderr
    assert "line 2" in result.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_no_utf_8(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(b'{"question": "\xff"}\n')
    assert_one_line(excise("run", llama, "-t", file, "-o", tmp_path / "X", "-q"), "mine.jsonl")


def test_too_many_neurons(llama: Path, tmp_path: Path) -> None:
    assert_one_line(_run(llama, tmp_path / "X", "--n", 449), "448")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_exists(golden: Path, llama: Path, tmp_path: Path) -> None:
    assert_one_line(_run(llama, golden), "an earlier run")
    (tmp_path / "note").write_text("mine")
    assert_one_line(_run(llama, tmp_path), "not one of ours")
    assert_one_line(excise("apply", llama, golden, "-o", tmp_path, "-q"), "not one of ours")
    locate = excise("locate", llama, "-t", WORKPLACE, "-o", tmp_path, "-q")
    assert_one_line(locate, "not one of ours")
    evaluate = excise("evaluate", llama, "-t", WORKPLACE, "-o", tmp_path, "-q")
    assert_one_line(evaluate, "not one of ours")
    assert (tmp_path / "note").read_text() == "mine"


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_one_line(_run(empty, tmp_path / "X"), "no model folder")
    assert_one_line(_run(tmp_path / "x.gguf", tmp_path / "X"), "x.gguf")
    assert list(tmp_path.iterdir()) == [empty]


def test_a_model_whose_layout_is_not_known(tmp_path: Path) -> None:
    folder = save(tmp_path / "cohere")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "cohere"}))
    assert_one_line(_run(folder, tmp_path / "X"), "Known: bart, bert, bloom")


def test_a_quantised_model(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "four-bit"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert_one_line(_run(folder, tmp_path / "X"), "quantised")


def test_weights_that_are_not_numbers(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_tensors(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3] = float("nan")
    save_tensors(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = _run(folder, tmp_path / "X", "--n", 3)
    assert_one_line(result, "the weights of module 'model.layers.1.mlp.up_proj'")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_model_that_is_neither_here_nor_on_the_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from excise.cli.app import main; main()"),
            *("run", "nobody/nothing", "-t", str(WORKPLACE), "-o", str(tmp_path / "X"), "-q"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("excise: error: cannot load model 'nobody/nothing'")
    assert not (tmp_path / "X").exists()


def test_a_patch_for_another_model(golden: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", seed=1)
    result = excise("apply", other, golden, "-o", tmp_path / "X", "-q")
    assert_one_line(result, "the patch was made on")
    assert_one_line(excise("evaluate", other, "-t", WORKPLACE, "-p", golden, "-q"), "made on")
    assert list(tmp_path.iterdir()) == [other]
    forced = excise("apply", other, golden, "-o", tmp_path / "X", "--force", "-q")
    assert forced.exit_code == 0, forced.output


def _break(document: dict[str, Any], how: str) -> str:
    if how == "cut":
        return json.dumps(document)[:-40]
    if how == "version":
        document["schema_version"] = 99
    if how == "module":
        document["neurons"][0]["module"] = "model.layers.7.mlp.up_proj"
    if how == "index":
        document["neurons"][0]["index"] = 9999
    if how == "field":
        document["neurons"][0]["index"] = "first"
    return json.dumps(document)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("cut", "cut off"),
        ("version", "schema version 99"),
        ("module", "model.layers.7.mlp.up_proj"),
        ("index", "out of range"),
        ("field", "neurons.0.index"),
    ],
)
def test_a_broken_patch(how: str, named: str, golden: Path, llama: Path, tmp_path: Path) -> None:
    patch = tmp_path / "patch"
    patch.mkdir()
    document = json.loads((golden / "patch" / "neurons.json").read_text())
    (patch / "neurons.json").write_text(_break(document, how))
    assert_one_line(excise("apply", llama, patch, "-o", tmp_path / "X", "-q"), named)
    assert list(tmp_path.iterdir()) == [patch]


def test_a_missing_patch(llama: Path, tmp_path: Path) -> None:
    result = excise("apply", llama, tmp_path / "none", "-o", tmp_path / "X", "-q")
    assert_one_line(result, "cannot read patch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: No space left on device (os error 28)"),
    ],
)
def test_no_disk_space(
    error: Exception, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("excise.evidence.folder.save_file", full)
    out = tmp_path / "X"
    result = _run(llama, out, "--n", 3)
    assert_one_line(result, "No space left on device")
    # What was finished is kept beside it, and nothing else.
    assert {path.name for path in tmp_path.iterdir()} == {".X.parts", ".X.parts.jsonl"}
    monkeypatch.undo()
    again = excise("run", llama, *SMALL, *FAST, "--out", out, "--n", 3)
    assert "going on after" in again.stderr
    assert list(tmp_path.iterdir()) == [out]


def test_an_interrupt_after_writing_says_that_the_run_is_there(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("excise.cli.summary.print_run", interrupt)
    out = tmp_path / "X"
    result = excise("run", llama, *SMALL, *FAST, "--n", 3, "--out", out)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == f"excise: interrupted; {out} is complete"
    assert (out / "results.json").is_file()


def test_locate_refuses_what_it_would_ignore(llama: Path, tmp_path: Path) -> None:
    arguments = ("-t", WORKPLACE, "--set", "method=guarded", "-o", tmp_path / "patch")
    result = excise("locate", llama, *arguments)
    assert_one_line(result, "`excise run --method guarded`")
    assert not (tmp_path / "patch").exists()
