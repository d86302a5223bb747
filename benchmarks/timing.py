"""Time several ways to do the same work in turns, so that they share what the machine goes through.

A ratio is taken within a round and the median over rounds is quoted. It is of wall time; with one
thread (OMP_NUM_THREADS=1) it is of processor time, which is the same on a machine that does nothing
else and is disturbed far less where it does.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Sides:
    """Seconds of every side, round by round."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    def described(self, slow: str, fast: str, *, threads: int | None = None) -> dict[str, Any]:
        """How many times as fast the second side is, with what a reader needs to trust it."""
        threads = threads or torch.get_num_threads()
        clock = "processor" if threads == 1 else "wall"
        seconds = {"wall": self.wall, "processor": self.processor}
        ratios = {
            name: [a / b for a, b in zip(held[slow], held[fast], strict=True)]
            for name, held in seconds.items()
        }
        return {
            "ratio": round(statistics.median(ratios[clock]), 4),
            "clock": clock,
            "lowest": round(min(ratios[clock]), 4),
            "highest": round(max(ratios[clock]), 4),
            **{f"{n}_ratio": round(statistics.median(r), 4) for n, r in ratios.items()},
            "seconds": {
                side: round(statistics.median(seconds[clock][side]), 3) for side in (slow, fast)
            },
            "rounds": len(ratios[clock]),
            "threads": threads,
        }


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    scale: Mapping[str, float] | None = None,
) -> Sides:
    """Run every side once a round, in an order that turns from round to round.

    Args:
        sides: name -> the work.
        rounds: how often each side runs.
        scale: name -> what its seconds are multiplied by, where it does a sample of its work.
    """
    found = Sides({name: [] for name in sides}, {name: [] for name in sides})
    names = list(sides)
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            gc.collect()
            wall, processor = time.perf_counter(), time.process_time()
            sides[name]()
            factor = (scale or {}).get(name, 1.0)
            found.wall[name].append((time.perf_counter() - wall) * factor)
            found.processor[name].append((time.process_time() - processor) * factor)
    return found


def peak_rss_mib() -> float:
    """The most memory that this process has held, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
