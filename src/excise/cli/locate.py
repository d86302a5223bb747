"""The verb `locate`: find bias neurons and choose how many, without asking the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from excise import parallel
from excise.cli import options
from excise.cli.progress import watching
from excise.cli.resolving import resolve
from excise.cli.run import folder_name
from excise.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from excise.config import RunConfig
    from excise.methods import Choice
    from excise.models import LoadedModel
    from excise.patches import Patch
    from excise.progress import Progress
    from excise.types import Task

_CURVE = ("accuracy", "accuracy_ambiguous", "accuracy_disambiguated")
"""Metrics printed for every n; the patch's provenance holds the others too."""


def locate(
    context: typer.Context,
    model: options.Model = None,
    task: options.Task = None,
    preset: options.Presets = None,
    out: options.Out = None,
    instructions: options.Instructions = None,
    n: options.N = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    data_dir: options.DataDir = None,
    config: options.Config = None,
    apply_chat_template: options.ChatTemplate = None,
    split_by: options.SplitBy = None,
    tune_instances: options.TuneInstances = None,
    find_instances: options.FindInstances = None,
    find_instructions: options.FindInstructions = None,
    normalisation: options.Normalisation = None,
    mode: options.Mode = None,
    revision: options.Revision = None,
    neurons: options.Neurons = None,
    no_neurons: options.NoNeurons = None,
    assignments: options.Set = None,
    quiet: options.Quiet = False,
) -> None:
    """Locate bias neurons, choose how many on the tune split, and write a patch.

    Writes a patch folder; patches/MODEL-TASKS-TIME unless --out names another. Of several trials
    the first is done; several tasks give the union of their patches.
    """
    resolved = resolve(context)
    if resolved.method != "crispr":
        raise ConfigError(
            f"locate ranks neurons by CRISPR and knows no method {resolved.method!r}; use "
            f"`excise run --method {resolved.method}`, or --set method=crispr."
        )
    folder = parallel.own(out or Path("patches") / folder_name(resolved))
    with watching(context.obj, quiet=quiet) as progress:
        from excise import pipeline
        from excise.evidence import refuse_existing, save_patch_folder
        from excise.patches import lora_if_possible

        refuse_existing(folder)
        tasks = pipeline.choice_tasks(resolved)
        progress.stage("loading the model")
        loaded = pipeline.load_model(resolved)
        loaded.refuse_offloaded("locating neurons")
        progress.plan(sum(_work(resolved, entry) for entry in tasks))
        choices = {entry.name: _choose(loaded, entry, resolved, progress) for entry in tasks}
        patch = reduce(or_, (_with_curve(choice) for choice in choices.values()))
        save_patch_folder(patch, folder, lora_if_possible(loaded, patch))
    context.obj.written = folder
    if quiet:
        typer.echo(folder)
        return
    from excise.cli.places import print_places

    _print_curves(context.obj.out, choices)
    print_places(context.obj.out, patch, loaded.n_neurons)
    typer.echo(f"\nPatch folder: {folder}")


def _choose(loaded: LoadedModel, task: Task, config: RunConfig, progress: Progress) -> Choice:
    from excise import methods
    from excise.evidence import provenance
    from excise.splits import split_instances

    split = split_instances(task.instances, by=config.split_by, seed=config.split_seed)
    progress.stage(f"{task.name}: locating bias neurons")
    scores = methods.locate(
        loaded,
        task,
        split.find,
        config,
        seed=config.seed,
        advance=lambda prompts: progress.advance(prompts * methods.ATTRIBUTION_WORK),
    )
    progress.stage(f"{task.name}: choosing how many")
    return methods.choose_patch(
        loaded,
        task,
        split.tune,
        scores,
        config,
        seed=config.seed,
        provenance=provenance(config, task, split, 0),
        advance=progress.advance,
    )


def _work(config: RunConfig, task: Task) -> int:
    """The work of a run of one trial that asks next to nothing of the test split."""
    from excise.pipeline import work

    least = {"limit": 1, "test_instructions": 1, "controls": 0, "trials": 1}
    return work(config.model_copy(update=least), task)


def _with_curve(choice: Choice) -> Patch:
    """The patch with the curve that chose n among the facts of how it was found."""
    curve = [asdict(point) for point in choice.curve]
    return replace(choice.patch, provenance={**choice.patch.provenance, "curve": curve})


def _print_curves(console: Console, choices: Mapping[str, Choice]) -> None:
    from excise.cli.tables import Row, percent, print_table
    from excise.cli.values import title

    for name, choice in choices.items():
        chosen = len(choice.patch)
        if not choice.curve:
            console.print(f"{name}: n = {chosen}, as given.\n")
            continue
        rows: list[Row] = [
            [
                f"-> {point.n}" if point.n == chosen else str(point.n),
                *(percent(point.metrics.get(metric)) for metric in _CURVE),
            ]
            for point in sorted(choice.curve, key=lambda point: point.n)
        ]
        header: Row = ["neurons", *(title(metric) for metric in _CURVE)]
        print_table(
            console,
            f"{name}: the tune split chose n = {chosen} (->); not a test result\n(in per cent)",
            header,
            rows,
        )
        console.print()
