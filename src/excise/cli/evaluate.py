"""The verb `evaluate`: metrics of a model, or of original against patched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options
from excise.cli.options import resolve
from excise.cli.progress import watching

PatchFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--patch",
        "-p",
        metavar="DIR",
        help="Compare with this patch (a patch folder, or a run folder); several are joined.",
        show_default=False,
    ),
]


def evaluate(
    context: typer.Context,
    model: options.Model = None,
    task: options.Task = None,
    patch: PatchFolders = None,
    out: options.Out = None,
    limit: options.Limit = None,
    instructions: options.Instructions = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    config: options.Config = None,
    apply_chat_template: options.ChatTemplate = None,
    test_instructions: options.TestInstructions = None,
    normalisation: options.Normalisation = None,
    mode: options.Mode = None,
    revision: options.Revision = None,
    assignments: options.Set = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure accuracy and bias on all instances of a task, also of original against patched.

    No split is made: where the patch was found on the same data, the table says so. With --out,
    writes results.json, items.parquet and config.toml.
    """
    resolved = resolve(context)
    with watching(context.obj, quiet=quiet) as progress:
        from excise.cli.evaluation import measure, record, write
        from excise.cli.patches import joined
        from excise.evidence import refuse_existing

        if out:
            refuse_existing(out)
        patches = joined(patch) if patch else None
        states = measure(resolved, patches, progress, force=force)
        document = record(states, resolved)
        if out:
            write(states, document, resolved, out)
            context.obj.written = out
    if as_json:
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    if not quiet:
        from excise.cli.evaluation import print_evaluation

        print_evaluation(context.obj.out, states, document)
    if out:
        typer.echo(out if quiet else f"\nFolder: {out}")
