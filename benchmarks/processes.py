"""Scoring and attribution by two processes of one thread each, against one."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
from typing import Any

SCRIPT = """
import json, sys, time
import torch
torch.set_num_threads(1)
import excise
from excise import parallel
from excise.config import PRESETS
from excise.evaluation import ask
from excise.methods import locate
parallel.start()
loaded, task = excise.load(), excise.load_task("bbq-age")
quick, items = PRESETS["quick"], int(sys.argv[1])
few = quick.attribution.model_copy(update={"instances": 8, "instructions": 2})
config = quick.model_copy(update={"attribution": few})
# Once before the clock starts: the first pass fetches the process's memory.
warm = config.model_copy(update={"attribution": few.model_copy(update={"instances": 4})})
locate(loaded, task, task.instances[:200], warm, seed=1)
ask(loaded, task, task.instances[:48], config, instructions=task.instructions[:2])
parallel.together(lambda: None)
wall, processor = time.perf_counter(), time.process_time()
locate(loaded, task, task.instances[:200], config, seed=0)
ask(loaded, task, task.instances[:items], config, instructions=task.instructions[:2])
parallel.together(lambda: None)
print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]))
parallel.stop()
"""


def measure(items: int = 100, rounds: int = 1) -> dict[str, Any]:
    """Speed-up of the work itself; loading is not shared, and every process is warm.

    Args:
        items: instances scored under two instructions, beside 16 prompts that are attributed.
        rounds: how often each side is timed.
    """
    walls, processors = [], []
    for _ in range(rounds):
        one, two = started(1, items), started(2, items)
        walls.append(max(w for w, _ in one) / max(w for w, _ in two))
        processors.append(max(p for _, p in one) / max(p for _, p in two))
    return {
        "keys": {"two_process_speedup": round(statistics.median(walls), 4)},
        "details": {
            "two_process_speedup": {
                "ratio": round(statistics.median(walls), 4),
                # What the busier process does: other work on the machine disturbs it less. It
                # counts waiting, too, where processes wait actively.
                "processor_time_ratio": round(statistics.median(processors), 4),
                "rounds": rounds,
                "free_cores_needed": 2,
            }
        },
    }


def started(size: int, items: int) -> list[tuple[float, float]]:
    """Wall and processor seconds of each process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(items)],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    times = []
    for process in running:
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a process ended with {process.returncode}")
        wall, processor = json.loads(out.splitlines()[-1])
        times.append((wall, processor))
    return times
