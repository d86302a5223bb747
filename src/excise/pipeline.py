"""The straight line: load, split, locate, choose, excise, compare, save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from excise.config import RunConfig
from excise.errors import ConfigError
from excise.evaluation import ArrayJournal
from excise.evidence import RunFolder
from excise.methods import ATTRIBUTION_WORK, method_named, random_patch
from excise.metrics import metrics_of
from excise.models import LoadedModel, load, wrap
from excise.patches import Patch, lora_if_possible
from excise.progress import Progress, Silent
from excise.questioning import TestQuestions, weights_unchanged
from excise.report.writing import write_report
from excise.results import RunResult, TaskResult, TrialResult
from excise.tasks import load_task
from excise.trials import excise_trials
from excise.types import AnyTask, Predictions, Task


def run(
    config: RunConfig | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Locate bias neurons, excise them, and compare original, patched and random controls.

    Args:
        config: all options; the defaults locate on BBQ in the embedded model.
        model: an already loaded `PreTrainedModel`, instead of `config.model`. Its weights are
            changed meanwhile and come back bit for bit.
        tokenizer: its tokenizer.
        out: the run folder to write; nothing is written by default. Interrupted, even by a kill,
            the same call goes on where it stopped.
        progress: who watches.

    Raises:
        ExciseError: see `excise.errors`; nothing is written then.
    """
    config, progress = config or RunConfig(), progress or Silent()
    method_named(config.method)  # an unknown one is refused before anything is loaded
    folder = RunFolder.prepare(Path(out)) if out else None
    with folder.resuming(progress) if folder else nullcontext() as journal:
        tasks = choice_tasks(config)
        progress.stage("loading the model")
        loaded = load_model(config, model, tokenizer)
        loaded.refuse_offloaded("locating and excising neurons")
        progress.plan(sum(work(config, task) for task in tasks))
        results = tuple(run_task(loaded, task, config, progress, journal) for task in tasks)
        patch = reduce(or_, (result.best.patch for result in results))
        if len(tasks) > 1:
            results = tuple(
                result.with_union(
                    TestQuestions.of(task, config).ask(loaded, patch, progress, journal=journal)
                )
                for result, task in zip(results, tasks, strict=True)
            )
        result = RunResult(
            config,
            loaded.name,
            loaded.digest,
            loaded.n_neurons,
            results,
            patch,
            weights_unchanged(loaded, patch),
        )
        if folder:
            folder.write(result, lora_if_possible(loaded, patch))
            write_report(folder.path)
    return result


def run_task(
    loaded: LoadedModel,
    task: Task,
    config: RunConfig,
    progress: Progress,
    journal: ArrayJournal | None = None,
) -> TaskResult:
    """All trials of one task; the test split is the same in each, and read last."""
    found = excise_trials(loaded, task, config, progress, journal)
    progress.stage(f"{task.name}: asking original, patched and random controls")
    test = TestQuestions.of(task, config)

    def answers(patch: Patch) -> Predictions:
        return test.ask(loaded, patch, progress, original, journal)

    original = test.ask(loaded, None, progress, journal=journal)
    trials = []
    for trial, (split, fitted) in enumerate(found):
        trials.append(
            TrialResult(
                number=trial,
                split=split,
                scores=fitted.scores,
                patch=fitted.patch,
                curve=fitted.curve,
                facts=fitted.facts,
                original=original,
                patched=answers(fitted.patch),
                controls=tuple(map(answers, controls(loaded, fitted.patch, config, trial))),
            )
        )
    return TaskResult(
        task=task.name,
        licence=task.licence,
        citation=task.citation,
        data_digest=task.digest,
        metrics=tuple(metric.name for metric in metrics_of(task)),
        trials=tuple(trials),
        prompt_format=task.prompt_format,
    )


def controls(loaded: LoadedModel, patch: Patch, config: RunConfig, trial: int) -> Iterator[Patch]:
    """The random controls of one trial's patch, each drawn when it is asked for."""
    for draw in range(config.controls):
        yield random_patch(loaded, patch, seed=1000 * (config.seed + trial) + draw)


def choice_tasks(config: RunConfig) -> list[Task]:
    """The configured tasks, all of them choices between options, as locating neurons needs.

    Raises:
        ConfigError: as in `load_tasks`; or a task without options to choose from.
    """
    chosen = []
    for task in load_tasks(config):
        if not isinstance(task, Task) or task.kind != "choice":
            raise ConfigError(
                f"task {task.name!r} has no correct option to choose, so no bias neurons can be "
                "located on it; use it with `excise evaluate`."
            )
        if any(instance.gold < 0 for instance in task.instances):
            raise ConfigError(
                f"task {task.name!r} names no correct option, so no bias neurons can be located "
                "on it; use it with `excise evaluate`."
            )
        chosen.append(task)
    return chosen


def load_tasks(config: RunConfig) -> list[AnyTask]:
    """The configured tasks, with the user's instructions if there are any.

    Raises:
        ConfigError: no task, or two of one name; results are kept by name.
    """
    if not config.tasks:
        raise ConfigError("no task is given; see `excise ls tasks`.")
    folder = Path(config.data_dir) if config.data_dir else None
    file = Path(config.instructions) if config.instructions else None
    tasks = [load_task(name, data_dir=folder, instructions=file) for name in config.tasks]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"two tasks share a name ({', '.join(names)}); rename a file.")
    return tasks


def load_model(config: RunConfig, model: Any = None, tokenizer: Any = None) -> LoadedModel:
    """The configured model, or the given one."""
    if model is not None:
        return wrap(
            model,
            tokenizer,
            apply_chat_template=config.apply_chat_template,
            neurons=config.neurons,
            no_neurons=config.no_neurons,
        )
    return load(
        config.model,
        dtype=config.dtype,
        device=config.device,
        device_map=config.device_map,
        revision=config.revision,
        apply_chat_template=config.apply_chat_template,
        neurons=config.neurons,
        no_neurons=config.no_neurons,
    )


def work(config: RunConfig, task: Task) -> int:
    """Estimated work of one task, in units of one scored prompt."""
    test = TestQuestions.of(task, config)
    asked = len(test.instances) * len(test.instructions)
    selection = config.selection
    steps = 0 if isinstance(selection.n, int) else len(selection.grid)
    if selection.search == "racing":
        steps = -(-steps // 2)
    tune = min(selection.tune_instances or 10**9, len(task.instances) // 4)
    tune *= min(selection.tune_instructions or 10**9, len(task.instructions))
    find = config.attribution.instances * min(
        config.attribution.instructions or 10**9, len(task.instructions)
    )
    per_trial = find * ATTRIBUTION_WORK + tune * steps + asked * (1 + config.controls)
    return asked * (2 if len(config.tasks) > 1 else 1) + config.trials * per_trial
