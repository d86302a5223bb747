"""Two processes that share an invocation give what one gives, and one of them speaks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

import excise
from excise import parallel
from excise.config import resolve
from excise.evaluation.parts import parts
from excise.evidence import keeping
from excise.tasks import load_task
from excise.types import Task

OPTIONS: dict[str, Any] = {
    "preset": "quick",
    "model": "testbed-causal",
    "tasks": ["testbed"],
    "limit": 30,
    "controls": 1,
    "selection": {"grid": [0, 3, 8]},
    "attribution": {"instances": 5, "instructions": 3, "batch_size": 2},
}
ARGUMENTS = (
    *("run", "testbed-causal", "--preset", "quick", "--limit", "30", "--controls", "1"),
    *("--find-instances", "5", "--find-instructions", "3"),
    *("--set", "attribution.batch_size=2", "--set", "selection.grid=[0,3,8]", "--quiet"),
)


def started(*arguments: str, size: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """The processes that a launcher would start, run to their ends."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    ended = []
    try:
        for process in running:
            out, err = process.communicate(timeout=300)
            ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
    return ended


def test_a_run_of_two_processes_is_that_of_one_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    leader, follower = started("-m", "excise", *ARGUMENTS, "--out", str(folder))
    assert (leader.returncode, follower.returncode) == (0, 0), leader.stderr + follower.stderr
    assert leader.stdout.strip() == str(folder)
    assert follower.stdout == follower.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["two"]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        excise.run(resolve(OPTIONS), out=tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    one, two = (pq.read_table(tmp_path / name / "items.parquet") for name in ("one", "two"))
    assert one.num_rows > 0
    assert one.equals(two)
    alone, shared = (load_file(tmp_path / name / "scores.safetensors") for name in ("one", "two"))
    for name, values in alone.items():
        np.testing.assert_allclose(shared[name], values, rtol=1e-6, atol=0)
    results = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two")]
    assert results[0]["results"] == results[1]["results"]


def test_an_error_of_a_user_is_told_once_and_ends_both() -> None:
    leader, follower = started("-m", "excise", "run", "--task", "no-such-task")
    assert (leader.returncode, follower.returncode) == (2, 2)
    assert leader.stderr.startswith("excise: error: unknown task 'no-such-task'.")
    assert follower.stdout == follower.stderr == ""


def test_verbs_that_share_nothing_are_the_leaders() -> None:
    leader, follower = started("-m", "excise", "ls", "presets")
    assert (leader.returncode, follower.returncode) == (0, 0)
    assert "quick" in leader.stdout
    assert follower.stdout == follower.stderr == ""


SCRIPT = """
import sys
from pathlib import Path
from excise import parallel
from excise.errors import NonFiniteError
from excise.evidence import keeping

def refuse():
    if parallel.rank() == 1:
        raise NonFiniteError("instance 'x'")
    return 1

parallel.start()
mine = parallel.rank()
print(parallel.together(lambda: 10 * mine), parallel.from_leader(mine), parallel.follower())
try:
    parallel.together(refuse)
except NonFiniteError as error:
    print("refused", error)
out = parallel.own(Path(sys.argv[1]))
print(out == Path(sys.argv[1]), out.name)
with keeping(out) as kept:
    print(kept.found, kept.get("part"), kept.get_arrays("table")["x"].tolist())
parallel.stop()
print(parallel.size())
"""


def test_results_errors_and_kept_parts_reach_every_process(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def interrupted() -> None:
        with keeping(out) as kept:
            kept.put("part", {"choice": [1]})
            kept.put_arrays("table", {"x": np.array([0.5, 2.0])})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    ended = started("-c", SCRIPT, str(out))
    for number, process in enumerate(ended):
        assert process.stdout.splitlines() == [
            f"[0, 10] 0 {number == 1}",
            "refused instance 'x'",
            f"{number == 0} run",
            "2 {'choice': [1]} [0.5, 2.0]",
            "1",
        ], process.stderr
    assert list(tmp_path.iterdir()) == []  # finished: what was kept is removed


def test_one_process_shares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    parallel.start()
    assert (parallel.rank(), parallel.size(), parallel.follower()) == (0, 1, False)
    assert parallel.together(lambda: "result") == ["result"]
    assert parallel.from_leader("value") == "value"
    assert parallel.own(tmp_path) == tmp_path
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not parallel.started_as_follower()
    monkeypatch.setenv("RANK", "1")
    assert parallel.started_as_follower()


def test_shares_are_even_in_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two instructions with a short and a long batch each: taking turns would give 2 and 10.
    batches = [("a", 1), ("b", 5), ("c", 1), ("d", 5)]
    monkeypatch.setattr("excise.parallel._World.size", 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("excise.parallel._World.rank", rank)
        shares.append(parallel.share(batches, lambda batch: batch[1]))
    assert shares == [[("a", 1), ("b", 5)], [("c", 1), ("d", 5)]]
    monkeypatch.setattr("excise.parallel._World.size", 1)
    monkeypatch.setattr("excise.parallel._World.rank", 0)
    assert parallel.share(batches, lambda batch: batch[1]) == batches


def test_short_evaluations_have_parts_to_share_too() -> None:
    task = load_task("testbed")
    assert isinstance(task, Task)
    sizes = {
        (items, told): [part.stop - part.start for part in parts(task, items, told)]
        for items, told in ((600, 1), (100, 2), (48, 1), (47, 1), (1, 1), (0, 1), (60, 10))
    }
    assert sizes[600, 1] == [150] * 4
    assert sizes[100, 2] == [50] * 4
    assert sizes[48, 1] == [24, 24]
    assert sizes[47, 1] == [47]
    assert sizes[1, 1] == [1]
    assert sizes[0, 1] == []
    assert sizes[60, 10] == [60] * 10
