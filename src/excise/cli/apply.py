"""The verb `apply`: a patch made permanent in a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options
from excise.cli.options import resolve
from excise.cli.progress import watching

Patches = Annotated[
    list[Path],
    typer.Argument(metavar="PATCH", help="Patch folders, or run folders; several are joined."),
]
RequiredModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Hub id, local folder or GGUF file; `default`: the embedded model."
    ),
]
RequiredOut = Annotated[
    Path, typer.Option("--out", "--output-path", "-o", metavar="DIR", help="A new folder.")
]


def apply(
    context: typer.Context,
    model: RequiredModel,
    patches: Patches,
    out: RequiredOut,
    force: options.Force = False,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint with the neurons of PATCH excised.

    It is a plain transformers folder: shapes unchanged, safetensors, tokenizer and model card.
    """
    resolved = resolve(context)
    with watching(context.obj, quiet=quiet) as progress:
        progress.stage("reading the patch")
        from excise.cli.patches import joined
        from excise.evidence import finish, refuse_existing, writing
        from excise.patches import save_checkpoint
        from excise.pipeline import load_model

        refuse_existing(out)
        patch = joined(patches)
        progress.stage("loading the model")
        loaded = load_model(resolved)
        patch.check(loaded, force=force)
        progress.stage("writing the checkpoint")
        with writing(out) as scratch:
            save_checkpoint(loaded, patch, scratch, force=force)
            finish(scratch, out)
    context.obj.written = out
    if quiet:
        typer.echo(out)
    else:
        typer.echo(f"Excised neurons: {len(patch)} of {loaded.n_neurons:,}")
        typer.echo(f"Checkpoint: {out}")
