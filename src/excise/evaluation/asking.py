"""Put a task of any kind to one state of a model, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from excise.config import Preset
from excise.evaluation.choices import predict
from excise.evaluation.continuations import continue_prompts
from excise.evaluation.parts import Journal, joined, key, packed, parts, unpacked
from excise.evaluation.passages import read_passages
from excise.evaluation.sentences import compare_sentences
from excise.models import LoadedModel
from excise.patches import Patch
from excise.types import Answers, AnyTask, PromptTask, TextTask


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
    pieces: list[Answers] = []
    with ExitStack() as applied:
        touched = False
        for part in parts(task, len(instances), len(told)):
            items, instruction = instances[part.start : part.stop], told[part.instruction]
            name = ""
            if journal is not None:
                name = key(loaded, patch, task, items, instruction, config)
            kept = journal.get(name) if journal is not None else None
            if kept is not None:
                pieces.append(unpacked(kept, task, items, instruction))
                if advance:
                    advance(len(items))
                continue
            # Reading passages compares with the original, so it applies the patch itself.
            if patch is not None and not touched and not isinstance(task, TextTask):
                applied.enter_context(patch.applied(loaded, force=force))
                touched = True
            piece = _ask(loaded, task, items, instruction, config, patch, force, advance)
            pieces.append(piece)
            if journal is not None:
                journal.put(name, packed(piece))
    return joined(pieces, len(told))


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
