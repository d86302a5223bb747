"""Several processes that share the work of one invocation (torchrun, `accelerate launch`).

Every process does the same steps on its own copy of the model. Where prompts are scored or
attributed, each takes a share and all get the results of all, so every process goes the same way
afterwards. The process of rank 0, the leader, prints and writes; the others, its followers, do
neither. In one process nothing here does anything.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE = timedelta(days=1)
"""How long one process waits for another: the leader may compute alone meanwhile."""


class _World:
    """Which of how many processes this is."""

    rank = 0
    size = 1


def asked_for() -> int:
    """Number of processes that the launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def started_as_follower() -> bool:
    """Whether the launcher has started this process beside a leader."""
    return asked_for() > 1 and os.environ.get("RANK", "0") != "0"


def start() -> None:
    """Join the processes that the launcher has started, if it has started several.

    Reads `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT`, which torchrun and
    `accelerate launch` set. Where there are GPUs, the device `cuda` is the process's own.
    """
    if asked_for() == 1 or _World.size > 1:
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    # Only small results travel, and through memory: gloo serves machines of every kind.
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    _World.rank, _World.size = distributed.get_rank(), distributed.get_world_size()


def stop() -> None:
    """Leave the other processes."""
    if _World.size > 1:
        from torch import distributed

        _World.rank, _World.size = 0, 1
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return _World.rank


def size() -> int:
    """Number of processes that share the work."""
    return _World.size


def follower() -> bool:
    """Whether another process prints and writes."""
    return _World.rank > 0


def share(items: Sequence[Item], cost: Callable[[Item], float]) -> list[Item]:
    """This process's part of some work, in its order.

    The most expensive item goes first, and each to whoever has least so far; among equals to the
    lowest rank. So every process knows all parts without asking.

    Args:
        items: all of the work.
        cost: what an item takes, in any unit.
    """
    loads = [0.0] * _World.size
    mine = []
    for place in sorted(range(len(items)), key=lambda n: -cost(items[n])):
        owner = loads.index(min(loads))
        loads[owner] += cost(items[place])
        if owner == _World.rank:
            mine.append(place)
    return [items[place] for place in sorted(mine)]


def together(work: Callable[[], Result]) -> list[Result]:
    """Do a share of the work in every process, and give all results to all.

    Args:
        work: this process's share.

    Returns:
        The results in the order of the ranks.

    Raises:
        Exception: the first one that `work` raised in any process, in all of them: none waits for
            a result that never comes.
    """
    if _World.size == 1:
        return [work()]
    outcome: tuple[Result | None, Exception | None]
    try:
        outcome = work(), None
    except Exception as error:
        outcome = None, error
    results = []
    for result, problem in _gathered(outcome):
        if problem is not None:
            raise problem
        results.append(result)
    return results


def from_leader(value: Result) -> Result:
    """The leader's value, in every process."""
    if _World.size == 1:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def own(path: Path) -> Path:
    """Where this process writes what is meant for `path`: the leader there, a follower nowhere.

    Returns:
        `path`, or a path of its name in a folder that is removed when the process ends.
    """
    if not follower():
        return path
    folder = tempfile.mkdtemp(prefix="excise-follower-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / path.name


def _gathered(value: Any) -> list[Any]:
    from torch import distributed

    values: list[Any] = [None] * _World.size
    distributed.all_gather_object(values, value)
    return values
