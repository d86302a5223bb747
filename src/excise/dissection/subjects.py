"""What is dissected: one task's patch with the splits that it was found and chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from excise.config import RunConfig, read_record
from excise.errors import ConfigError, PatchError
from excise.evidence import StoredRun
from excise.methods import method_named
from excise.patches import Patch
from excise.splits import digest, sample, split_instances
from excise.types import FloatArray, Instance, Predictions, Task


@dataclass(frozen=True)
class Subject:
    """The patch of one task, with what found it; of test items, only what is shown."""

    task: Task
    patch: Patch
    find: tuple[tuple[Instance, ...], ...]
    """The find sample; of every trial where their scores were averaged."""
    tune: tuple[Instance, ...]
    """The tune sample."""
    config: RunConfig
    """With the method's own options of attribution."""
    trial: int = 0
    trials: tuple[Patch, ...] = ()
    """The patches of all trials."""
    scores: Mapping[str, FloatArray] | None = None
    """Module -> scores of all neurons, where they were kept."""
    shown: tuple[Instance, ...] = ()
    """Asked items whose tokens are looked at, for the item browser of the report."""

    @property
    def instructions(self) -> tuple[str, ...]:
        """Those of the find sample."""
        return self.task.instructions[: self.config.attribution.instructions]

    @property
    def tune_instructions(self) -> tuple[str, ...]:
        """Those of the tune sample."""
        own = self.config.dissection.tune_instructions or self.config.selection.tune_instructions
        return self.task.instructions[:own]


def subject(
    task: Task,
    patch: Patch,
    config: RunConfig,
    *,
    trial: int = 0,
    trials: Sequence[Patch] = (),
    scores: Mapping[str, FloatArray] | None = None,
) -> Subject:
    """Draw the samples again that a patch was found on.

    Args:
        task: the task that it was found on.
        patch: the neurons.
        config: the options that it was found with.
        trial: the trial that it belongs to.
        trials: the patches of all trials.
        scores: of that trial.
    """
    config = _of_the_method(config)
    averaged = config.selection.trials == "average"
    splits = [
        split_instances(task.instances, by=config.split_by, seed=config.split_seed, trial=number)
        for number in (range(config.trials) if averaged else [trial])
    ]
    first = 0 if averaged else trial
    find = tuple(
        sample(
            split.find, config.attribution.instances, seed=config.seed + first + n, unit="instance"
        )
        for n, split in enumerate(splits)
    )
    size = config.dissection.tune_instances or config.selection.tune_instances
    tune = sample(splits[0].tune, size, seed=config.seed + first, unit="block")
    return Subject(task, patch, find, tune, config, trial, tuple(trials), scores)


def of_run(stored: StoredRun, tasks: Sequence[Task], config: RunConfig) -> tuple[Subject, ...]:
    """The kept patch of every task of a run.

    Args:
        stored: the run folder.
        tasks: its tasks, loaded again.
        config: the run's options; only what does not decide the patch may differ.

    Raises:
        ConfigError: other options, tasks, data or splits than those of the run.
        PatchError: a patch of the folder is missing or damaged.
    """
    _refuse_other_options(stored, config)
    names = tuple(task.name for task in tasks)
    if names != stored.tasks:
        raise ConfigError(f"{stored.path} holds the tasks {stored.tasks}, not {names}.")
    found = []
    for task in tasks:
        record = stored.run["tasks"][task.name]
        trial, number = stored.best_trial(task.name), len(record["trials"])
        prefix = f"{task.name}/{trial}/"
        scores = {
            name.removeprefix(prefix): values
            for name, values in stored.scores.items()
            if name.startswith(prefix)
        }
        made = subject(
            task,
            stored.trial_patch(task.name, trial),
            config,
            trial=trial,
            trials=[stored.trial_patch(task.name, t) for t in range(number)],
            scores=scores or None,
        )
        split = record["trials"][trial].get("split")
        _refuse_other_data(made, record["data_digest"], split, str(stored.path))
        before = stored.predictions(task.name, "original")
        after = stored.predictions(task.name, "patched")
        found.append(replace(made, shown=most_telling(before, after, config.dissection.items)))
    return tuple(found)


def most_telling(
    before: Predictions, after: Predictions, size: int, *, instruction: int = 0
) -> tuple[Instance, ...]:
    """The items to look at: those whose answer changed come first, each kind in its order.

    Args:
        before: the original model's answers.
        after: the patched model's, to the same items.
        size: how many, at most.
        instruction: the one whose answers are compared.
    """
    changed = before.choice[instruction] != after.choice[instruction]
    order = np.argsort(~changed, kind="stable")[:size]
    return tuple(before.instances[n] for n in order)


def of_patch(patch: Patch, task: Task, config: RunConfig, *, place: str) -> Subject:
    """A patch without a run, as `excise locate` writes it.

    Args:
        patch: with the options and digests that it was found with.
        task: the task that it was found on.
        config: where model and data are, and how to dissect.
        place: where the patch is, for messages.

    Raises:
        ConfigError: the patch does not say how it was found, or was found on other data.
    """
    told = patch.provenance
    sections = {name: told.get(name) for name in ("attribution", "selection", "scoring")}
    if not all(isinstance(section, Mapping) for section in sections.values()):
        raise ConfigError(
            f"patch {place} does not say how it was found (a union of patches does not); dissect "
            "the run folder, or the patch of one task."
        )
    split = told.get("split") or {}
    given = {
        **config.model_dump(mode="json"),
        **sections,
        "seed": told.get("seed", config.seed),
        "method": told.get("method", "crispr"),
        "split_by": split.get("by", config.split_by),
    }
    made = subject(task, patch, read_record(given, Path(place)), trial=told.get("trial", 0))
    _refuse_other_data(made, told.get("data_digest"), split, place)
    return made


def refuse_empty(subjects: Sequence[Subject]) -> None:
    """Refuse patches without a neuron.

    Raises:
        PatchError: no patch excises any.
    """
    if not any(entry.patch for entry in subjects):
        raise PatchError(
            "the patch excises no neuron (on the tune split none did better than the original), "
            "so there is nothing to dissect; run with --n N for a patch of N neurons."
        )


_FREE = {
    *("dissection", "model", "revision", "data_dir", "device", "device_map", "dtype"),
    *("preset", "resamples"),
}
"""Options that may differ from the run's: where things are, and how they are examined."""


def _refuse_other_options(stored: StoredRun, config: RunConfig) -> None:
    ours, theirs = config.model_dump(mode="json"), stored.config.model_dump(mode="json")
    other = [name for name in ours if name not in _FREE and ours[name] != theirs[name]]
    if other:
        raise ConfigError(
            f"a run is dissected with its own options, but {', '.join(other)} would differ; only "
            "the section dissection, the model's place and the data's may be set."
        )


def _refuse_other_data(
    made: Subject, data: str | None, written: Mapping[str, Any] | None, place: str
) -> None:
    """Compare digests of data and splits, where they were written."""
    name = made.task.name
    if data not in (None, made.task.digest):
        raise ConfigError(
            f"the data of task {name!r} are not those of {place} (their digests differ); give the "
            "folder with the same files by --data-dir."
        )
    split = split_instances(
        made.task.instances,
        by=made.config.split_by,
        seed=made.config.split_seed,
        trial=made.trial,
    )
    for kind in ("find", "tune"):
        if (written or {}).get(kind) not in (None, digest(getattr(split, kind))):
            raise ConfigError(
                f"the {kind} split of task {name!r} is not that of {place} (their digests "
                "differ), so its patch cannot be dissected; run again."
            )


def _of_the_method(config: RunConfig) -> RunConfig:
    """The options with which the method ranks: the ablations of CRISPR have their own."""
    configured = getattr(method_named(config.method), "configured", None)
    return config if configured is None else configured(config)
