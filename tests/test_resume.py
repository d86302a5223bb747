"""`excise run` goes on after a kill, a full disk or an interrupt, and does nothing twice."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from audits import OPTIONS
from cli_models import WORKPLACE, digests, excise, save
from excise import pipeline
from excise.attribution import attribute
from excise.config import AttributionConfig, resolve
from excise.errors import OutputError
from excise.evidence import journal, keeping, parts_path
from excise.evidence.journal import PartsFile
from excise.methods import METHODS, Fitting
from excise.methods.resuming import KeptSums, kept_scores
from excise.splits import split_instances
from test_cli import assert_one_line

# Attribution under two instructions, three points of a curve, then the test split.
UNITS: list[Any] = [
    *("--find-instructions", 2, "--n", "auto", "--set", "selection.grid=[3,6,9]"),
    *("--tune-instances", 8, "--set", "selection.tune_instructions=1"),
]


class Stop(BaseException):
    """As a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("resume") / "model")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    result = excise("run", model, *OPTIONS, *UNITS, "--out", out, "-q")
    assert result.exit_code == 0, result.output
    return out


def same_results(one: Path, other: Path) -> None:
    """All files but the date and what depends on it."""
    first, second = digests(one), digests(other)
    assert first.keys() == second.keys()
    differing = {name for name in first if first[name] != second[name]}
    assert differing <= {"run.json", "report.html", "files.json"}  # they hold the date
    records = [json.loads((folder / "run.json").read_text()) for folder in (one, other)]
    for record in records:
        del record["date"]
    assert records[0] == records[1]


class Counted:
    """Counts units of work: attributed batches' instructions, and asked parts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = self.attributed = 0
        from excise.attribution import scores
        from excise.evaluation import asking

        predict, encode = asking.predict, scores.encode

        def counting(*arguments: Any, **options: Any) -> Any:
            self.asked += 1
            return predict(*arguments, **options)

        def attributing(*arguments: Any, **options: Any) -> Any:
            self.attributed += 1
            return encode(*arguments, **options)

        monkeypatch.setattr(asking, "predict", counting)
        monkeypatch.setattr(scores, "encode", attributing)


def config(model: Path) -> Any:
    return resolve(
        {
            "model": str(model),
            "tasks": [str(WORKPLACE)],
            "limit": 12,
            "controls": 2,
            "trials": 2,
            "test_instructions": 2,
            "resamples": 100,
            "attribution": {"instances": 2, "instructions": 2},
            "selection": {"grid": [3, 6, 9], "tune_instances": 8, "tune_instructions": 1},
        }
    )


@pytest.mark.parametrize("stop_after", [1, 3, 8, 20])
def test_stopped_after_any_unit_nothing_is_done_twice(
    stop_after: int, model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 trials x (2 attributions, 3 curve points), then 2 instructions x 7 states."""
    out = tmp_path / "run"
    counted = Counted(monkeypatch)
    put, puts = PartsFile.put, 0

    def stopping(self: PartsFile, key: str, value: Any) -> None:
        nonlocal puts
        put(self, key, value)
        puts += 1
        if puts == stop_after:
            raise Stop

    monkeypatch.setattr(PartsFile, "put", stopping)
    with pytest.raises(Stop):
        pipeline.run(config(model), out=out)
    assert not out.exists()
    assert counted.asked + counted.attributed == stop_after
    pipeline.run(config(model), out=out)
    assert (counted.attributed, counted.asked) == (2 * 2, 2 * 3 + 2 * 7)
    assert list(tmp_path.iterdir()) == [out]
    for name in ("items.parquet", "scores.safetensors", "patch/neurons.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


SLOW = textwrap.dedent("""
    import os, sys, time
    from excise.evaluation import asking
    from excise.attribution import scores
    from excise.evidence import folder, journal
    journal._CODE = sys.argv.pop(1)  # as of the test, also where files have just been edited
    where, count = sys.argv.pop(1), int(sys.argv.pop(1))
    def pausing(module, name, pause):
        plain, left = getattr(module, name), [count]
        def paused(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                print("here", flush=True)
                time.sleep(60)
            return plain(*arguments, **options)
        setattr(module, name, paused)
    module, name = where.split(":")
    pausing({"asking": asking, "scores": scores, "folder": folder}[module], name, 60)
    from excise.cli.app import main
    main()
""")


@pytest.mark.parametrize(
    ("where", "count", "kept"),
    [
        ("scores:encode", 2, 1),  # in the first attribution
        ("asking:predict", 3, 3),  # on the curve
        ("folder:save_file", 1, 22),  # while the folder is being written
    ],
)
def test_killed_with_sigkill_and_started_again(
    where: str, count: int, kept: int, model: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["run", model, *OPTIONS, *UNITS, "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, journal._CODE, where, str(count), *map(str, command), "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said == b"here\n", process.communicate()[1].decode()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    again = excise(*command)
    assert again.exit_code == 0, again.output
    assert f"going on after {kept} finished parts" in again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    same_results(out, whole)


def test_two_writers(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with keeping(out):
        result = excise("run", model, *OPTIONS, "--out", out, "-q")
    assert_one_line(result, "another process is writing")


def test_a_full_disk_leaves_the_last_good_state(
    model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    out, sync, calls = tmp_path / "run", os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr("excise.evidence.journal.os.fsync", full)
    command = ["run", model, *OPTIONS, *UNITS, "--out", out]
    assert_one_line(excise(*command, "-q"), "what was finished before is kept")
    assert not out.exists()
    assert parts_path(out).exists()
    monkeypatch.undo()
    again = excise(*command)
    assert again.exit_code == 0, again.output
    assert "going on after" in again.stderr
    same_results(out, whole)


def test_without_out_the_message_names_the_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("excise.evidence.folder.save_file", full)
    result = excise("run", model, *OPTIONS, "-q")
    (parts,) = (tmp_path / "runs").glob(".*.parts.jsonl")
    folder = parts.name.removeprefix(".").removesuffix(".parts.jsonl")
    assert_one_line(result, f"Go on with --out runs/{folder}.")


def stopped(out: Path, do: Any) -> None:
    """Do something with the parts of a folder, and be killed."""

    def killed() -> None:
        with keeping(out) as parts:
            do(parts)
            raise Stop

    with pytest.raises(Stop):
        killed()


def test_parts_of_other_code_are_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stopped(out, lambda parts: parts.put("a", 1))
    monkeypatch.setattr("excise.evidence.journal._CODE", "another")

    def other(parts: PartsFile) -> None:
        assert (parts.found, parts.get("a")) == (0, None)
        parts.put("b", 2)

    stopped(out, other)
    with keeping(out) as parts:
        assert (parts.found, parts.get("b")) == (1, 2)


def test_arrays_are_kept_bit_for_bit(tmp_path: Path) -> None:
    out = tmp_path / "run"
    values = {"x": np.array([1 / 3, -0.0, 1e-300]), "y": np.zeros((2, 3))}

    def put(parts: PartsFile) -> None:
        parts.put_arrays("k", {"x": np.ones(1)})
        parts.put_arrays("k", values)

    def look(parts: PartsFile) -> None:
        kept = parts.get_arrays("k")
        assert kept is not None
        assert {name: v.tobytes() for name, v in kept.items()} == {
            name: v.tobytes() for name, v in values.items()
        }
        assert parts.get_arrays("other") is None

    stopped(out, put)
    stopped(out, look)
    (tmp_path / ".run.parts" / "k.safetensors").write_bytes(b"cut off")
    with keeping(out) as parts:
        assert parts.get_arrays("k") is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_also_for_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("excise.evidence.journal.os.fsync", full)
    with (
        pytest.raises(OutputError, match="No space left on device; what was finished before"),
        keeping(tmp_path / "run") as parts,
    ):
        parts.put_arrays("k", {"x": np.ones(1)})


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".run.writing-abc", ".run-2.writing-abc", ".run-2.parts", "run-2"):
        (tmp_path / name).mkdir()
    with keeping(tmp_path / "run"):
        assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {
            *(".run-2.writing-abc", ".run-2.parts", "run-2"),
        }


class Memory:
    """A journal in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.arrays: dict[str, Any] = {}
        self.left: int | None = None

    def get(self, key: str) -> Any:
        return self.kept.get(key)

    def put(self, key: str, value: Any) -> None:
        self.kept[key] = json.loads(json.dumps(value))
        self._count()

    def get_arrays(self, key: str) -> Any:
        return self.arrays.get(key)

    def put_arrays(self, key: str, arrays: Any) -> None:
        self.arrays[key] = {name: values.copy() for name, values in arrays.items()}
        self._count()

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Stop


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_attribution_goes_on_with_equal_floats(name: str) -> None:
    loaded, task, memory = tiny.loaded(name), tiny.task(), Memory()
    preset = AttributionConfig(batch_size=2)
    expected = attribute(loaded, task, task.instances, preset)
    memory.left = 1
    with pytest.raises(Stop):
        attribute(loaded, task, task.instances, preset, sums=KeptSums(memory, "k"))
    told: list[int] = []
    found = attribute(
        loaded, task, task.instances, preset, sums=KeptSums(memory, "k"), advance=told.append
    )
    assert sum(told) == 2 * len(task.instances)
    assert told[0] == len(task.instances)  # the instruction that was done, at once
    assert found.n_prompts == expected.n_prompts
    assert list(found.by_module) == list(expected.by_module)
    for module, values in expected.by_module.items():
        np.testing.assert_array_equal(found.by_module[module], values)


def test_kept_scores_keep_the_order_of_modules() -> None:
    """It decides ties in a ranking."""
    from excise.attribution import NeuronScores

    memory = Memory()
    scores = NeuronScores({"b": np.ones(2), "a": np.ones(1)}, 3)
    assert kept_scores(memory, lambda: "k", lambda: scores) is scores
    again = kept_scores(memory, lambda: "k", lambda: pytest.fail("computed again"))
    assert (list(again.by_module), again.n_prompts) == (["b", "a"], 3)


@pytest.mark.parametrize("name", ["crispr-scaled", "contrastive", "guarded", "lowest"])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_methods_go_on(name: str, stop_after: int, model: Path) -> None:
    """The patch of an interrupted fit is that of one that was not; its second half asks less."""
    settings = config(model).model_copy(update={"method": name})
    guard = settings.guard.model_copy(
        update={"screening_instances": 8, "instances": 12, "candidates": 4, "finalists": 2}
    )
    settings = settings.model_copy(update={"guard": guard})
    (task,) = pipeline.choice_tasks(settings)
    loaded = pipeline.load_model(settings)
    split = split_instances(task.instances, by="template", seed=0)
    memory = Memory()

    def fit(journal: Any) -> Any:
        return METHODS[name].fit(Fitting(loaded, task, split, settings, journal=journal))

    expected = fit(None)
    memory.left = stop_after
    with pytest.raises(Stop):
        fit(memory)
    memory.left = None
    kept = len(memory.kept) + len(memory.arrays)
    found = fit(memory)
    assert found.patch == expected.patch
    assert found.curve == expected.curve
    facts = [{k: v for k, v in f.facts.items() if k != "seconds"} for f in (found, expected)]
    assert facts[0] == facts[1]
    assert len(memory.kept) + len(memory.arrays) >= kept
    before = dict(memory.kept)
    memory.left = 1
    fit(memory)  # all is there: nothing is put, so nothing stops it
    assert memory.kept == before
