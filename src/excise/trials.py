"""The trials of a run: a patch out of the find and tune splits of each."""

from __future__ import annotations

from excise.attribution import average
from excise.config import RunConfig
from excise.errors import ConfigError
from excise.evaluation import ArrayJournal
from excise.evidence import provenance
from excise.methods import (
    ATTRIBUTION_WORK,
    Excision,
    Fitting,
    choose_patch,
    excision,
    locate,
    method_named,
)
from excise.models import LoadedModel
from excise.progress import Progress
from excise.splits import split_instances
from excise.types import Split, Task


def excise_trials(
    loaded: LoadedModel,
    task: Task,
    config: RunConfig,
    progress: Progress,
    journal: ArrayJournal | None = None,
) -> list[tuple[Split, Excision]]:
    """Fit the configured method in every trial; one trial where their scores are averaged.

    With a journal, what an interrupted call has finished is not done again.

    Raises:
        ConfigError: a method that gives no patch, or averaged scores of another than CRISPR.
    """
    splits = [
        split_instances(task.instances, by=config.split_by, seed=config.split_seed, trial=trial)
        for trial in range(config.trials)
    ]
    if config.selection.trials == "average":
        return [_averaged(loaded, task, splits, config, progress, journal)]
    method = method_named(config.method)
    found = []
    for trial, split in enumerate(splits):
        progress.stage(f"{task.name}: locating bias neurons (trial {trial + 1}/{config.trials})")
        fitted = method.fit(
            Fitting(
                loaded=loaded,
                task=task,
                split=split,
                config=config,
                seed=config.seed + trial,
                provenance=provenance(config, task, split, trial),
                progress=progress,
                journal=journal,
            )
        )
        if not isinstance(fitted, Excision):
            raise ConfigError(
                f"method {method.name!r} excises no neurons, so there is no patch to report on; "
                "use it with `excise compare`."
            )
        found.append((split, fitted))
    return found


def _averaged(
    loaded: LoadedModel,
    task: Task,
    splits: list[Split],
    config: RunConfig,
    progress: Progress,
    journal: ArrayJournal | None,
) -> tuple[Split, Excision]:
    """One ranking by the mean of the trials' scores (the authors' code)."""
    if config.method != "crispr":
        raise ConfigError(
            f"selection.trials = average is CRISPR's, not that of {config.method!r}; "
            "use --set selection.trials=separate."
        )
    scores = []
    for trial, split in enumerate(splits):
        progress.stage(f"{task.name}: locating bias neurons (trial {trial + 1}/{config.trials})")
        scores.append(
            locate(
                loaded,
                task,
                split.find,
                config,
                seed=config.seed + trial,
                advance=lambda prompts: progress.advance(prompts * ATTRIBUTION_WORK),
                journal=journal,
            )
        )
    progress.stage(f"{task.name}: choosing how many")
    mean = average(scores)
    choice = choose_patch(
        loaded,
        task,
        splits[0].tune,
        mean,
        config,
        seed=config.seed,
        provenance=provenance(config, task, splits[0], 0),
        advance=progress.advance,
        journal=journal,
    )
    return splits[0], excision("crispr", choice, mean)
