"""Time and memory of scoring as a task grows: linear, and flat."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import excise
from benchmarks.timing import peak_rss_mib
from excise.models import packed_linears
from excise.scoring import encode, scorer_for
from excise.types import Task


def measure(items: int = 1600) -> dict[str, Any]:
    """Seconds and MiB above the loaded model for the first items of BBQ-Age.

    Args:
        items: the largest size; a quarter and a sixteenth of it are the others.
    """
    loaded = excise.load()
    task = excise.load_task("bbq-age")
    assert isinstance(task, Task)
    rows = []
    with packed_linears(loaded.model):
        # The first pass also makes what stays for the process, such as thread pools.
        scorer_for(loaded).score(
            encode(loaded, task, task.instructions[0], task.instances[:20], end_token=False)
        )
        for size in (items // 16, items // 4, items):
            prompts = encode(
                loaded, task, task.instructions[0], task.instances[:size], end_token=False
            )
            gc.collect()
            before = _reset_peak()
            wall, processor = time.perf_counter(), time.process_time()
            scorer_for(loaded).score(prompts)
            rows.append(
                {
                    "items": size,
                    "seconds": round(time.perf_counter() - wall, 2),
                    "processor_seconds": round(time.process_time() - processor, 2),
                    "mib_above_the_model": round(_peak() - before),
                }
            )
    return {"keys": {}, "details": {"growth": rows}}


def _reset_peak() -> float:
    """Forget the peak so far, where the system can (Linux); the memory held now, in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_rss_mib()
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM") if Path("/proc/self/status").exists() else peak_rss_mib()


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return peak_rss_mib()
