"""The verb `reproduce`: the experiments of the paper and of the study."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from excise.cli import options
from excise.cli.progress import watching
from excise.cli.resolving import given
from excise.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from excise.experiments import Reproduction

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="Names of `excise ls experiments`, groups of them (all, paper, uqac), or your own "
        ".toml file.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Hub id, local folder, GGUF file or a model of the test bed; the embedded model by "
        "default.",
        show_default=False,
    ),
]
ScaleOption = Annotated[
    str,
    typer.Option(
        metavar="small|paper",
        help="small: hours on a laptop with the default model; paper: as much as was published.",
    ),
]


def reproduce(
    context: typer.Context,
    names: Names,
    model: Model = None,
    scale: ScaleOption = "small",
    out: options.Out = None,
    limit: options.Limit = None,
    test_instructions: options.TestInstructions = None,
    trials: options.Trials = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    data_dir: options.DataDir = None,
    assignments: options.Set = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Carry out experiments of the paper and of the study on any model.

    Writes a folder with a page, a figure and the numbers of each, beside what was published.
    Experiments of one call share fits and answers. Interrupted, it goes on where it stopped when
    the same command, with the same --out, is run again.
    """
    if scale not in ("small", "paper"):
        raise ConfigError(f"--scale must be small or paper, not {scale!r}.")
    said = given(context)
    folder = out or Path("experiments") / _folder_name(names, model)
    with watching(context.obj, quiet=quiet) as progress:
        from excise import experiments
        from excise.evidence import keeping, refuse_existing

        experiments.chosen(names)  # an unknown one is refused before anything is kept
        refuse_existing(folder)
        with keeping(folder) as parts:
            context.obj.kept = parts if out else folder
            if parts.found:
                progress.stage(f"going on after {parts.found} finished parts")
            found = experiments.reproduce(
                names,
                model=model,
                scale=cast(Literal["small", "paper"], scale),
                options=said,
                journal=parts,
                progress=progress,
            )
            record = experiments.write(found, folder)
    context.obj.written = folder
    if as_json:
        typer.echo(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False))
    elif quiet:
        typer.echo(folder)
    else:
        _print(context.obj.out, found)
        typer.echo(f"\nFolder: {folder}")


def _folder_name(names: list[str], model: str | None) -> str:
    told = "+".join(Path(name).stem for name in names)[:60]
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{told}-{Path(model or options.DEFAULT).name}-{moment}"


def _print(console: Console, found: Reproduction) -> None:
    """One experiment with its tables; of several, a line each."""
    if len(found.outcomes) == 1:
        _print_one(console, found)
        return
    from excise.cli.tables import print_table

    rows: list[list[Any]] = [
        [
            outcome.definition.name,
            outcome.status,
            outcome.reason or " ".join(outcome.findings.answers) or outcome.definition.title,
        ]
        for outcome in found.outcomes
    ]
    header = ["experiment", "status", "what came out, why not, or what it is"]
    title = f"Experiments on {found.model}, scale {found.scale}"
    print_table(console, title, header, rows, left=True)


def _print_one(console: Console, found: Reproduction) -> None:
    from excise.cli.tables import print_table

    (outcome,) = found.outcomes
    console.print(f"{outcome.definition.title} ({outcome.definition.source})\n")
    for text in outcome.findings.answers:
        console.print(f"{text.replace('**', '')}\n")
    for table in outcome.findings.tables:
        print_table(console, table.title, table.header, table.rows)
        console.print()
    if outcome.published is not None:
        table = outcome.published
        print_table(console, table.title, table.header, table.rows)
    elif outcome.elsewhere:
        console.print("Published numbers belong to other models; the page names them.")
    for what, why in outcome.findings.left_out:
        console.print(f"Not measured: {what}: {why}")
