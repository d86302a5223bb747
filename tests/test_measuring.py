"""Evaluations of any task: records, samples, and going on after an interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from cli_models import WORKPLACE, excise, save
from excise.config import RunConfig
from excise.errors import OutputError
from excise.evaluation import ask, predict
from excise.evaluation.parts import joined, packed, parts, unpacked
from excise.evidence import PartsFile, journal, keeping, parts_path
from excise.measuring import measure, record
from excise.measuring.measure import Measured
from excise.metrics import CHOICE, METRICS
from excise.patches import Patch
from excise.statistics import bootstrap
from excise.types import Neuron, Passage, PromptTask, Readings, TextTask
from test_cli import assert_one_line

CONFIG = RunConfig(tasks=(str(WORKPLACE),), resamples=100, test_instructions=3, limit=12)


class Memory:
    """A journal in memory that stops the evaluation after some parts."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.kept: dict[str, Any] = {}
        self.stop_after = stop_after
        self.written = 0

    def get(self, key: str) -> Any | None:
        return self.kept.get(key)

    def put(self, key: str, value: Any) -> None:
        # Through JSON, as a file would.
        self.kept[key] = json.loads(json.dumps(value))
        self.written += 1
        if self.written == self.stop_after:
            raise KeyboardInterrupt


def a_patch(loaded: Any) -> Patch:
    module = loaded.sites[-1].module
    return Patch((Neuron(module, 3), Neuron(module, 5)), (1.0, 0.5), "tiny", loaded.digest)


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny.loaded("llama")


def test_an_interrupted_measurement_goes_on_where_it_stopped(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = a_patch(llama)

    def measured(journal: Memory | None) -> dict[str, Any]:
        found = measure(
            CONFIG, patch, model=llama.model, tokenizer=llama.tokenizer, journal=journal, force=True
        )
        return {k: v for k, v in record(found, CONFIG).items() if k != "date"}

    whole = measured(None)
    journal = Memory(stop_after=4)  # of 2 states x 3 instructions
    with pytest.raises(KeyboardInterrupt):
        measured(journal)
    asked: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Any:
        asked.append(1)
        return predict(*arguments, **options)

    monkeypatch.setattr("excise.evaluation.asking.predict", counting)
    journal.stop_after = None
    assert measured(journal) == whole
    assert len(asked) == 2
    assert measured(journal) == whole
    assert len(asked) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"scoring": {"normalisation": "total"}},
        {"limit": 8},
        {"instructions": "other"},
    ],
)
def test_parts_of_another_question_are_not_taken(
    change: dict[str, Any], llama: Any, tmp_path: Path
) -> None:
    journal = Memory()
    given = {"model": llama.model, "tokenizer": llama.tokenizer}
    measure(CONFIG, **given, journal=journal)
    before = set(journal.kept)
    if "instructions" in change:
        file = tmp_path / "own.txt"
        file.write_text("Say who it was.\nChoose the best one.\nWho?\n")
        change = {"instructions": str(file)}
    other = RunConfig.model_validate({**CONFIG.model_dump(), **change})
    measure(other, **given, journal=journal)
    assert len(journal.kept) == 2 * len(before)


def test_parts_joined_are_the_whole(llama: Any) -> None:
    """Items of different widths, split anywhere, through JSON and back."""
    task = tiny.task()
    whole = predict(llama, task, task.instances, CONFIG.scoring)
    pieces = []
    for instruction in task.instructions:
        for start, stop in ((0, 2), (2, 3), (3, 5)):
            items = task.instances[start:stop]
            piece = predict(llama, task, items, CONFIG.scoring, instructions=(instruction,))
            kept = json.loads(json.dumps(packed(piece)))
            pieces.append(unpacked(kept, task, items, instruction))
    again: Any = joined(pieces, len(task.instructions))
    assert again.instances == whole.instances
    assert again.instructions == whole.instructions
    np.testing.assert_array_equal(again.choice, whole.choice)
    np.testing.assert_array_equal(again.n_tokens, whole.n_tokens)
    np.testing.assert_allclose(again.log_likelihood, whole.log_likelihood, atol=1e-4)
    np.testing.assert_allclose(again.compared, whole.compared, atol=1e-4)


def test_readings_come_back_exactly() -> None:
    passages = tuple(Passage(f"p{i}", "text", f"p{i}", f"p{i}") for i in range(3))
    task = TextTask("text", passages, "", "", "", ("perplexity",))
    readings = Readings(
        passages,
        np.array([-1 / 3, -1e-17, -123.456]),
        np.array([3, 4, 5]),
        np.array([9, 8, 7]),
        np.array([0.1, 0.0, 2e-9]),
        "first token not scored",
    )
    again: Any = unpacked(json.loads(json.dumps(packed(readings))), task, passages, "")
    for name in ("log_likelihood", "n_tokens", "n_bytes", "divergence"):
        np.testing.assert_array_equal(getattr(again, name), getattr(readings, name))
    assert again.variant == readings.variant


def test_parts_cover_everything_once() -> None:
    prompts = PromptTask("p", (), "honest", "", "", "", ())
    found = parts(prompts, 70, 1)
    assert [(p.start, p.stop) for p in found] == [(0, 32), (32, 64), (64, 70)]
    assert len(parts(tiny.task(), 300, 2)) == 4


# The file of finished parts.


def test_a_cut_off_line_is_no_part(tmp_path: Path) -> None:
    out = tmp_path / "results"

    def interrupted(**parts: Any) -> PartsFile:
        with keeping(out) as file:
            for key, value in parts.items():
                file.put(key, value)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(a={"x": 0.1}, b=[1])
    path = parts_path(out)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(KeyboardInterrupt):
        interrupted(c=[3])
    with keeping(out) as file:
        assert (file.found, file.get("a"), file.get("b")) == (2, {"x": 0.1}, None)
        assert file.get("c") == [3]
    assert not path.exists()


def test_nothing_kept_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), keeping(tmp_path / "results"):
        raise RuntimeError
    assert not any(tmp_path.iterdir())


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "results"
    with (
        keeping(out),
        pytest.raises(OutputError, match="another process is writing"),
        keeping(out),
    ):
        pass


def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle; the second run does the rest and gives the same numbers."""
    model = save(tmp_path / "model")
    common = ["evaluate", model, "-t", WORKPLACE, "--set", "resamples=100", "-q"]
    plain = excise(*common, "-o", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    slow = textwrap.dedent("""
        import sys, time
        from excise.evaluation import asking
        from excise.evidence import journal
        journal._CODE = sys.argv.pop(1)  # as of the test, also where files have just been edited
        plain = asking.predict
        def slow(*arguments, **options):
            time.sleep(0.4)
            return plain(*arguments, **options)
        asking.predict = slow
        from excise.cli.app import main
        main()
    """)
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", slow, journal._CODE, *map(str, common), "-o", str(out)],
        stderr=subprocess.PIPE,
    )
    path = parts_path(out)
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline, "no part was kept in a minute"
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    kept = path.read_bytes().count(b"\n")
    again = excise(*common[:-1], "-o", out)
    assert again.exit_code == 0, again.output
    assert f"going on after {kept} finished parts" in again.stderr
    assert not path.exists()
    results = [json.loads((f / "results.json").read_text()) for f in (tmp_path / "plain", out)]
    assert results[0]["results"] == results[1]["results"]


# What is recorded.


def test_the_record_has_intervals_groups_and_reasons(llama: Any) -> None:
    found = measure(
        CONFIG, a_patch(llama), model=llama.model, tokenizer=llama.tokenizer, force=True
    )
    document = record(found, CONFIG)
    row = document["results"]["workplace"]
    value = row["accuracy,original"]
    assert row["accuracy,original_low"] <= value <= row["accuracy,original_high"]
    assert row["accuracy_stderr,original"] > 0
    assert document["higher_is_better"]["workplace"]["accuracy"] is True
    assert document["higher_is_better"]["workplace"]["unknown_disambiguated"] is False
    assert document["higher_is_better"]["workplace"]["s_amb"] is None
    assert set(document["undefined"].get("workplace", {})) <= set(CHOICE)
    groups = document["groups"].get("workplace", {})
    assert sum(entry["n"] for entry in groups.values()) in (0, 12)
    json.dumps(document, allow_nan=False)


def test_a_group_is_measured_on_its_own_items(llama: Any) -> None:
    from dataclasses import replace

    groups = ("a", "a", "b", "b", "b")
    instances = tuple(
        replace(item, group=group) for item, group in zip(tiny.INSTANCES, groups, strict=True)
    )
    task = tiny.task(instances)
    answers: Any = ask(llama, task, task.instances, CONFIG)
    from excise.measuring.measure import Measured

    entry = Measured(task, "tiny", llama.digest, answers, None, None)
    found = record([entry], CONFIG)["groups"]["toy"]
    right = (answers.choice == answers.gold).mean(axis=0)
    assert found["a"]["n"], found["b"]["n"] == (2, 3)
    assert found["a"]["accuracy,original"] == pytest.approx(right[:2].mean())
    assert found["b"]["accuracy,original"] == pytest.approx(right[2:].mean())


def test_the_interval_of_one_state_is_that_of_its_templates(llama: Any) -> None:
    """Accuracy over equal templates: the bootstrap mean of template means, by brute force."""
    task = tiny.task(tiny.INSTANCES[:4])
    answers = predict(llama, task, task.instances, CONFIG.scoring)
    found = bootstrap(METRICS["accuracy"].function, answers, n_resamples=4000, seed=1)
    assert found is not None
    right = (answers.choice == answers.gold).mean(axis=0)
    means = right.reshape(2, 2).mean(axis=1)  # two templates of two items
    # Two draws out of two: mean of both with probability 1/2, else one of them twice.
    assert found.value == pytest.approx(means.mean())
    expected = abs(means[0] - means[1]) / 2 * np.sqrt(1 / 2)
    assert found.standard_error == pytest.approx(expected, abs=0.02)
    assert (found.low, found.high) == (pytest.approx(means.min()), pytest.approx(means.max()))


def test_one_template_has_no_interval(llama: Any) -> None:
    task = tiny.task(tiny.INSTANCES[:2])
    answers = predict(llama, task, task.instances, CONFIG.scoring)
    found = bootstrap(METRICS["accuracy"].function, answers, n_resamples=100)
    assert found is not None
    assert (found.standard_error, found.low, found.high) == (None, None, None)


def test_samples_are_logged_as_lm_eval_does(tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    out = tmp_path / "out"
    result = excise(
        *("evaluate", model, "--tasks", WORKPLACE, "--output_path", out, "--log_samples"),
        *("--limit", 8, "--test-instructions", 2, "--set", "resamples=100"),
    )
    assert result.exit_code == 0, result.output
    lines = (out / "samples_workplace_original.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["doc_id"] for sample in samples] == list(range(16))
    first = samples[0]
    keys = {"doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "prompt_hash"}
    assert keys <= first.keys()
    assert len(first["arguments"]) == len(first["resps"]) == 3
    accuracy = np.mean([sample["acc"] for sample in samples])
    results = json.loads((out / "results.json").read_text())
    assert results["results"]["workplace"]["accuracy,original"] == pytest.approx(accuracy)


def test_samples_without_a_folder(tmp_path: Path) -> None:
    assert_one_line(excise("evaluate", "-t", WORKPLACE, "--log-samples"), "needs --out")


def test_locating_needs_options_to_choose_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    toy = tiny.task()
    unanswered = replace(toy, instances=(replace(toy.instances[0], gold=-1),))
    for task in (
        replace(toy, kind="sentences"),
        PromptTask("toy", (), "honest", "", "", "", ()),
        unanswered,
    ):
        monkeypatch.setattr("excise.pipeline.load_task", lambda name, _task=task, **_: _task)
        result = excise("run", tmp_path, "-t", "toy", "-o", tmp_path / "r")
        assert_one_line(result, "excise evaluate")


@pytest.mark.parametrize(
    ("found_on", "asked", "overlaps"),
    [
        ("bbq-age", "bbq", True),
        ("bbq", "bbq-age", True),
        ("bbq-age", "bbq-ses", False),
        ("bbq-race", "bbq-race-x-ses", False),
        ("bbq-race-x-ses", "bbq-race", False),
        ("stereoset", "stereoset-intrasentence", True),
        ("", "bbq-age", False),
    ],
)
def test_a_patch_says_that_it_was_found_on_what_is_asked(
    found_on: str, asked: str, overlaps: bool
) -> None:
    task = replace(tiny.task(), name=asked, digest="1")
    patch = Patch((), (), "m", "0", provenance={"task": found_on, "data_digest": "2"})
    answers: Any = None
    found = Measured(task, "m", "0", answers, answers, patch)
    assert found.found_on_this_task is overlaps
