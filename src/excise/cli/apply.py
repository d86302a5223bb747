"""The verb `apply`: a patch made permanent in a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from excise.cli import options
from excise.cli.progress import watching
from excise.cli.resolving import resolve

if TYPE_CHECKING:
    from excise.models import LoadedModel
    from excise.patches import Patch

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
    neurons: options.Neurons = None,
    no_neurons: options.NoNeurons = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint with the neurons of PATCH excised.

    It is a plain transformers folder: shapes unchanged, safetensors, tokenizer and model card. Of a
    run folder's patch the card shows what the run measured.
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
        card = _card(patches, patch, loaded)
        with writing(out) as scratch:
            save_checkpoint(loaded, patch, scratch, force=force, card=card)
            finish(scratch, out)
    context.obj.written = out
    if quiet:
        typer.echo(out)
    else:
        typer.echo(f"Excised neurons: {len(patch)} of {loaded.n_neurons:,}")
        typer.echo(f"Checkpoint: {out}")


def _card(folders: list[Path], patch: Patch, loaded: LoadedModel) -> str | None:
    """The card of a run's patch; None where no run measured this patch on this model."""
    from excise.evidence import RUN_FILE, open_run
    from excise.publishing import card_of

    if len(folders) > 1 or not (folders[0] / RUN_FILE).is_file():
        return None
    if loaded.digest != patch.base_digest:
        return None
    return card_of(open_run(folders[0]), kind="checkpoint")
