"""Ask the model again: original, patched and controls, against the stored answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from excise.auditing.inputs import asked_of
from excise.auditing.outcome import Check, checked, skipped
from excise.auditing.rebuilding import trial_patch
from excise.config import RunConfig
from excise.errors import RunFolderError
from excise.evaluation import ask
from excise.evidence import StoredRun
from excise.models import LoadedModel
from excise.patches import Patch
from excise.pipeline import controls
from excise.progress import Progress
from excise.types import AnyTask, Instance, Predictions

TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""Nats by which a recomputed log-likelihood of an option may differ. Items are batched differently,
and other processors and library versions add in another order: 1e-5 is usual in float32."""

_LISTED = 100
"""Mismatches named for each state; the rest is counted."""


@dataclass
class _Memory:
    """Keeps answers by content: states with the same weights are asked once."""

    kept: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> Any | None:
        return self.kept.get(key)

    def put(self, key: str, value: Any) -> None:
        self.kept[key] = value


def check_answers(
    stored: StoredRun,
    loaded: LoadedModel,
    tasks: Mapping[str, AnyTask],
    config: RunConfig,
    sample: int | None,
    seed: int,
    progress: Progress,
) -> list[Check]:
    """One check for each task, state and trial.

    Args:
        stored: the folder; its questions are those that `tasks` and `config` give.
        loaded: the unpatched model.
        tasks: the tasks as they load now.
        config: the folder's configuration.
        sample: items of each task; None for all.
        seed: decides which.
        progress: who watches.
    """
    chosen = {
        name: _chosen(asked_of(task, stored, config), sample, seed, name)
        for name, task in tasks.items()
    }
    progress.plan(
        sum(
            len(chosen[name]) * len(stored.run["tasks"][name]["instructions"])
            for name, _, _ in stored.states
        )
    )
    memory, found = _Memory(), []
    for name, state, trial in stored.states:
        where = f"{name}, {state}" + ("" if trial is None else f", trial {trial}")
        progress.stage(f"asking again: {where}")
        if stored.kind == "evaluation" and state != "original":
            found.append(skipped(f"answers of {where}", "an evaluation folder holds no patch"))
            continue
        try:
            written = stored.predictions(name, state, trial)
        except RunFolderError:
            found.append(skipped(f"answers of {where}", "these are no choices between options"))
            continue
        patch = _patch_of(stored, loaded, config, name, state, trial)
        items = chosen[name]
        told = tuple(stored.run["tasks"][name]["instructions"])
        answers = ask(
            loaded,
            tasks[name],
            items,
            config,
            patch=patch or None,
            instructions=told,
            journal=memory,
            advance=progress.advance,
        )
        assert isinstance(answers, Predictions)
        tolerance = TOLERANCE[str(loaded.model.dtype).removeprefix("torch.")]
        problems = list(_compared(written, answers, tolerance, old=_old(stored)))
        left = len(problems) - _LISTED
        if left > 0:
            problems = [*problems[:_LISTED], f"and {left} more"]
        note = f"choices equal; log-likelihoods within {tolerance:g} nats" if not problems else ""
        found.append(checked(f"answers of {where}", answers.choice.size, problems, note))
    return found


def _old(stored: StoredRun) -> bool:
    """Whether rows hold no task texts (the first schema)."""
    return "fields" not in stored.items.schema.names


def _chosen(items: tuple[Any, ...], sample: int | None, seed: int, name: str) -> tuple[Any, ...]:
    if sample is None or sample >= len(items):
        return items
    generator = np.random.default_rng([seed, *name.encode()])
    places = np.sort(generator.choice(len(items), size=sample, replace=False))
    return tuple(items[place] for place in places)


def _patch_of(
    stored: StoredRun,
    loaded: LoadedModel,
    config: RunConfig,
    task: str,
    state: str,
    trial: int | None,
) -> Patch | None:
    if state == "original":
        return None
    if trial is None:
        return stored.patch  # the union of all tasks' patches
    patch = trial_patch(stored, task, trial)
    if state == "patched" or not patch:
        return patch
    number = int(state.removeprefix("control-"))
    return list(controls(loaded, patch, config, trial))[number]


def _compared(
    written: Predictions, answers: Predictions, tolerance: float, *, old: bool
) -> Iterator[str]:
    """Every way in which stored answers are not those given now."""
    place = {instance.id: n for n, instance in enumerate(written.instances)}
    for n, instance in enumerate(answers.instances):
        m = place[instance.id]
        yield from _item(written.instances[m], instance, old=old)
        for i in range(len(answers.instructions)):
            where = f"{instance.id}, instruction {i + 1}"
            then, now = int(written.choice[i, m]), int(answers.choice[i, n])
            if then != now:
                yield f"{where}: chose option {then}, recomputed {now}"
            one, other = _row(written.n_tokens, i, m), _row(answers.n_tokens, i, n)
            if one is not None and other is not None and not np.array_equal(one, other):
                yield f"{where}: {one.tolist()} tokens, recomputed {other.tolist()}"
            one, other = _row(written.log_likelihood, i, m), _row(answers.log_likelihood, i, n)
            if (one is None) != (other is None):
                yield f"{where}: log-likelihoods on one side only"
            elif one is not None and other is not None and len(one) == len(other):
                off = float(np.abs(one - other).max())
                if not off <= tolerance:
                    yield f"{where}: log-likelihoods differ by {off:.2g} nats"
            elif one is not None:
                yield f"{where}: another number of options"


def _item(written: Instance, now: Instance, *, old: bool) -> Iterator[str]:
    names = ("options", "gold", "template", "condition", "unknown", "stereotyped", "group")
    for name in names if old else (*names, "fields", "block", "unrelated"):
        one, other = getattr(written, name), getattr(now, name)
        if (dict(one) != dict(other)) if name == "fields" else one != other:
            yield f"{now.id}: stored {name} {one!r}, the data says {other!r}"


def _row(table: Any, i: int, n: int) -> Any:
    """The numbers of the options that there are; None where there is no table."""
    if table is None:
        return None
    row = table[i, n]
    return row[~np.isnan(row)] if row.dtype.kind == "f" else row[row > 0]
