"""The verb `report`: report.html of a run again, or one page for several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options
from excise.errors import ConfigError, OutputError

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run folders; several are compared on one page."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="The page to write; RUN/report.html for one run, needed for several.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the path and the verdict of each run as JSON.")
]


def report(
    runs: Runs, out: Out = None, quiet: options.Quiet = False, as_json: Json = False
) -> None:
    """Write report.html: one self-contained page, verdict first, that opens without a network.

    The page of one run is made anew from the files of its folder; no model is asked. Several runs
    are put side by side.
    """
    if len(runs) > 1 and out is None:
        raise ConfigError("several runs need --out FILE for the page that compares them.")
    if out is not None and out.is_dir():
        raise OutputError(f"{out} is a folder; give the name of a file, such as {out}/report.html.")
    from excise.evidence import open_run
    from excise.report.writing import write_comparison, write_report

    if len(runs) == 1:
        target = write_report(runs[0], out)
    else:
        assert out is not None
        target = write_comparison(runs, out)
    if as_json:
        import json

        from excise.report.report import verdict

        told = {str(run): verdict(open_run(run)) for run in runs}
        typer.echo(json.dumps({"report": str(target), "runs": told}, indent=1, ensure_ascii=False))
    else:
        typer.echo(target if quiet else f"Report: {target}")
