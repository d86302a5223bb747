"""Put a task of any kind to one state of a model, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from excise import parallel
from excise.config import Preset
from excise.evaluation.choices import predict
from excise.evaluation.continuations import continue_prompts
from excise.evaluation.parts import Journal, joined, key, packed, parts, unpacked
from excise.evaluation.passages import read_passages
from excise.evaluation.sentences import compare_sentences
from excise.models import LoadedModel, packed_linears
from excise.patches import Patch
from excise.types import Answers, AnyTask, PromptTask, Task, TextTask


def ask(
    loaded: LoadedModel,
    task: AnyTask,
    instances: Sequence[Any],
    config: Preset,
    *,
    patch: Patch | None = None,
    force: bool = False,
    instructions: Sequence[str] | None = None,
    journal: Journal | None = None,
    advance: Callable[[int], None] | None = None,
) -> Answers:
    """What a model answers to the items of a task.

    Args:
        loaded: the unpatched model.
        task: what is asked, and how.
        instances: items of the task.
        config: how options are compared, prompts continued, texts read.
        patch: asked with it applied; the model comes back as it was.
        force: accept other weights than the patch was made on.
        instructions: the task's own by default.
        journal: keeps finished parts; what it holds is not computed again.
        advance: called with the number of items just finished, under one instruction.

    Returns:
        `Predictions`, `Continuations` or `Readings`, as the task is.

    Raises:
        ExciseError: see `excise.errors`.
    """
    told = tuple(task.instructions if instructions is None else instructions)
    whole = parts(task, len(instances), len(told))
    items = [instances[part.start : part.stop] for part in whole]
    pieces: dict[int, Answers] = {}
    names: dict[int, str] = {}
    if journal is not None:
        for number, part in enumerate(whole):
            asked = told[part.instruction]
            names[number] = key(loaded, patch, task, items[number], asked, config)
            kept = journal.get(names[number])
            if kept is not None:
                pieces[number] = unpacked(kept, task, items[number], asked)
                if advance:
                    advance(len(items[number]))
    left = [number for number in range(len(whole)) if number not in pieces]

    def ask_part(number: int) -> Answers:
        asked = told[whole[number].instruction]
        return _ask(loaded, task, items[number], asked, config, patch, force, advance)

    with ExitStack() as applied:
        # Reading passages compares with the original, so it applies the patch itself.
        if patch is not None and left and not isinstance(task, TextTask):
            applied.enter_context(patch.applied(loaded, force=force))
        if left and isinstance(task, Task) and config.scoring.mode == "scoring":
            applied.enter_context(packed_linears(loaded.model))  # once for all parts
        for start in range(0, len(left), parallel.size()):
            now = left[start : start + parallel.size()]
            for number, piece in zip(now, _in_turns(ask_part, now), strict=True):
                if isinstance(piece, dict):  # another process's
                    piece = unpacked(piece, task, items[number], told[whole[number].instruction])
                    if advance:
                        advance(len(items[number]))
                pieces[number] = piece
                if journal is not None:
                    journal.put(names[number], packed(piece))
    return joined([pieces[number] for number in range(len(whole))], len(told))


def _in_turns(ask_part: Callable[[int], Answers], now: Sequence[int]) -> list[Any]:
    """Answers to one part in each process; those of the other processes as JSON values.

    A part is asked by one process as it would be by a single one, so that answers are the same bit
    for bit.
    """
    if parallel.size() == 1:
        return [ask_part(number) for number in now]
    mine: list[Answers] = []

    def ask_mine() -> Any:
        if parallel.rank() >= len(now):
            return None
        mine.append(ask_part(now[parallel.rank()]))
        return packed(mine[0])

    found = parallel.together(ask_mine)[: len(now)]
    if mine:
        found[parallel.rank()] = mine[0]
    return found


def _ask(
    loaded: LoadedModel,
    task: AnyTask,
    items: Sequence[Any],
    instruction: str,
    config: Preset,
    patch: Patch | None,
    force: bool,
    advance: Callable[[int], None] | None,
) -> Answers:
    if isinstance(task, PromptTask | TextTask):
        loaded.refuse_masked(f"task {task.name!r}")
    if isinstance(task, PromptTask):
        return continue_prompts(loaded, task, items, config.continuation, advance=advance)
    if isinstance(task, TextTask):
        return read_passages(
            loaded, task, items, config.text, patch=patch, force=force, advance=advance
        )
    if task.kind == "sentences":
        return compare_sentences(loaded, task, items, config.scoring, advance=advance)
    return predict(
        loaded, task, items, config.scoring, instructions=(instruction,), advance=advance
    )
