"""The verb `verify`: recompute a finished folder, and name every mismatch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from excise.cli import options
from excise.cli.progress import watching

if TYPE_CHECKING:
    from rich.console import Console

    from excise.auditing import Verification

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A folder of `excise run`.")]
FilesOnly = Annotated[
    bool,
    typer.Option("--files-only", help="Check files and metrics only: needs no model and no data."),
]
Sample = Annotated[
    int | None,
    typer.Option(
        "--sample",
        metavar="N",
        min=1,
        help="Ask N random items of each task again; all by default.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Decides which items.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="Where the model is now, if it moved.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print mismatches only.")]

_SHOWN = 10
_SIGNS = {"equal": "=", "mismatch": "x", "skipped": "-"}


def verify(
    context: typer.Context,
    run: Run,
    files_only: FilesOnly = False,
    sample: Sample = None,
    seed: Seed = 0,
    model: Model = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Recompute a run folder: files, metrics, digests, and the answers of the model.

    Exit code 0 if everything is equal, 1 if something is not, 2 if it cannot be checked.
    """
    with watching(context.obj, quiet=quiet) as progress:
        from excise import auditing

        found = auditing.verify(
            run,
            files_only=files_only,
            sample=sample,
            seed=seed,
            model=model,
            data_dir=data_dir,
            device=device,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(found.record(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _print(context.obj.out, found, quiet=quiet)
    if not found.equal:
        raise typer.Exit(1)


def _print(console: Console, found: Verification, *, quiet: bool) -> None:
    for check in found.checks:
        if quiet and check.outcome != "mismatch":
            continue
        said = {"equal": f"{check.compared:,} equal", "skipped": f"not checked: {check.note}"}
        note = f" ({check.note})" if check.outcome == "equal" and check.note else ""
        problems = len(check.problems)
        text = said.get(check.outcome, f"{problems} mismatch{'es' if problems > 1 else ''}")
        console.print(f"{_SIGNS[check.outcome]} {check.name}: {text}{note}", soft_wrap=True)
        for problem in check.problems[:_SHOWN]:
            console.print(f"    {problem}", soft_wrap=True)
        if problems > _SHOWN:
            console.print(f"    and {problems - _SHOWN} more; --json lists them")
    if quiet:
        return
    for note in found.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    if found.fingerprint:
        console.print(f"Fingerprint (sha256 of files.json): {found.fingerprint}", soft_wrap=True)
    skipped = sum(check.outcome == "skipped" for check in found.checks)
    left = f"; {skipped} not checked" if skipped else ""
    said_all = "everything that was checked is equal" if found.equal else "there are mismatches"
    console.print(f"{found.path}: {said_all}{left}.", soft_wrap=True)
