"""The verb `compare`: mitigation methods side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from excise import parallel
from excise.cli import options
from excise.cli.progress import watching
from excise.cli.resolving import names_of, resolve
from excise.cli.run import folder_name

Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods",
        "--method",
        metavar="NAME",
        help="Names of `excise ls methods`, separated by commas; the original is always there.",
        show_default="crispr,random",
    ),
]
RetentionTasks = Annotated[
    list[str] | None,
    typer.Option(
        "--retention",
        metavar="NAME",
        help="Tasks that show the cost elsewhere, separated by commas, or none; of bbq, the "
        "categories that are not mitigated.",
        show_default="bbq,mrpc,rte,qnli,wikipedia-sentences",
    ),
]
RetentionLimit = Annotated[
    int, typer.Option(metavar="N", min=1, help="Items asked of each retention task.")
]


def compare(
    context: typer.Context,
    model: options.Model = None,
    task: options.Task = None,
    methods: Methods = None,
    retention: RetentionTasks = None,
    retention_limit: RetentionLimit = 60,
    preset: options.Presets = None,
    out: options.Out = None,
    limit: options.Limit = None,
    instructions: options.Instructions = None,
    n: options.N = None,
    max_loss: options.MaxLoss = None,
    seed: options.Seed = None,
    trials: options.Trials = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    data_dir: options.DataDir = None,
    config: options.Config = None,
    apply_chat_template: options.ChatTemplate = None,
    split_by: options.SplitBy = None,
    test_instructions: options.TestInstructions = None,
    tune_instances: options.TuneInstances = None,
    find_instances: options.FindInstances = None,
    find_instructions: options.FindInstructions = None,
    normalisation: options.Normalisation = None,
    revision: options.Revision = None,
    neurons: options.Neurons = None,
    no_neurons: options.NoNeurons = None,
    assignments: options.Set = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Compare mitigation methods on the same splits, prompts and metrics.

    Writes comparison.json, .csv, .md and .tex, a Pareto plot and every answer. Interrupted, it goes
    on where it stopped when the same command, with the same --out, is run again.
    """
    resolved = resolve(context)
    folder = parallel.own(out or Path("comparisons") / folder_name(resolved))
    with watching(context.obj, quiet=quiet) as progress:
        from excise import comparing
        from excise.evidence import keeping, refuse_existing

        refuse_existing(folder)
        kept = names_of(retention, "--retention")
        if kept is None:
            kept = comparing.default_retention(resolved.tasks)
        elif kept == ["none"]:
            kept = []
        with keeping(folder) as parts:
            context.obj.kept = parts
            if parts.found:
                progress.stage(f"going on after {parts.found} finished parts")
            found = comparing.compare(
                resolved,
                names_of(methods, "--methods") or ["crispr", "random"],
                retention=kept,
                retention_limit=retention_limit,
                progress=progress,
                journal=parts,
            )
            document = comparing.record(found)
            comparing.write(found, document, folder)
    context.obj.written = folder
    if as_json:
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
    elif quiet:
        typer.echo(folder)
    else:
        from excise.cli.comparison import print_comparison

        print_comparison(context.obj.out, document)
        typer.echo(f"\nFolder: {folder}")
