"""The verb `push`: a patch or a checkpoint with its model card on the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options
from excise.cli.progress import watching

if TYPE_CHECKING:
    from excise.publishing import Staged

Source = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="A run folder, or a checkpoint of `excise apply`."),
]
Repository = Annotated[str, typer.Argument(metavar="REPO", help="NAMESPACE/NAME on the Hub.")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Upload; without it nothing leaves this machine.")
]
Public = Annotated[
    bool, typer.Option("--public", help="Make a new repository public; private by default.")
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Hub id of the base model, where the run was made on a local folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what goes up as JSON.")]


def push(
    context: typer.Context,
    folder: Source,
    repository: Repository,
    yes: Yes = False,
    public: Public = False,
    base_model: BaseModel = None,
    quiet: options.Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show what would go to the Hub, with the model card; with --yes upload it.

    Of a run folder the patch goes, as a LoRA adapter that PEFT loads; answers and records stay. A
    checkpoint goes as it is.
    """
    with watching(context.obj, quiet=quiet or as_json) as progress:
        progress.stage("preparing the upload")
        from excise.publishing import check_login, staged, upload

        if yes:
            check_login()
        with staged(folder, repository, base_model=base_model) as ready:
            report = _report(ready, uploaded=yes, public=public)
            card = ready.card
            if yes:
                progress.stage(f"uploading to {repository}")
                upload(ready, public=public)
    if as_json:
        typer.echo(json.dumps(report | {"card": card}, indent=1, ensure_ascii=False))
    elif quiet:
        typer.echo(report["url"])
    else:
        _print(report, card)


def _report(ready: Staged, *, uploaded: bool, public: bool) -> dict[str, Any]:
    return {
        "repository": ready.repository,
        "url": ready.url,
        "kind": ready.kind,
        "visibility": "public" if public else "private",
        "uploaded": uploaded,
        "files": ready.files,
        "notes": list(ready.notes),
    }


def _print(report: dict[str, Any], card: str) -> None:
    files: dict[str, int] = report["files"]
    wide = max(map(len, files))
    done = report["uploaded"]
    if not done:
        typer.echo(f"The model card (README.md):\n\n{card}")
    typer.echo(f"{'Uploaded' if done else 'Would upload'} the {report['kind']} to {report['url']}")
    typer.echo(f"({report['visibility']}, if the repository is new)\n")
    for name, size in files.items():
        typer.echo(f"  {name:<{wide}}  {_size(size):>9}")
    typer.echo(f"  {'together':<{wide}}  {_size(sum(files.values())):>9}")
    for note in report["notes"]:
        typer.echo(f"\nNote: {note}")
    if not done:
        typer.echo("\nNothing was uploaded; --yes does it.")


def _size(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
