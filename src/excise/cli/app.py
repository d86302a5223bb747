"""The command `excise`: its verbs, and how errors leave it.

Nothing heavy is imported before a verb runs: `excise --help` needs no torch and no numpy.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from excise import __version__, parallel
from excise.cli import (
    apply,
    compare,
    diff,
    dissect,
    doctor,
    evaluate,
    gate,
    listing,
    locate,
    plan,
    power,
    push,
    report,
    reproduce,
    run,
    verify,
)
from excise.cli.session import Session
from excise.errors import ExciseError

USAGE_ERROR = 2
INTERRUPTED = 130


class _Verbs(TyperGroup):
    """Turns errors that a user can mend into one line; any other error keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ExciseError as error:
            message = " ".join(str(error).split())
            typer.echo(f"excise: error: {message}", err=True)
            raise typer.Exit(USAGE_ERROR) from error
        except KeyboardInterrupt as error:
            typer.echo(f"excise: interrupted; {_state(ctx.obj)}", err=True)
            raise typer.Exit(INTERRUPTED) from error


def _state(session: object) -> str:
    """What an interrupted invocation leaves behind."""
    if not isinstance(session, Session):
        return "nothing was written"
    if session.written:
        return f"{session.written} is complete"
    if session.kept:
        where = f" with --out {session.kept}" if isinstance(session.kept, Path) else ""
        return f"finished parts are kept; run the same command again{where} to go on"
    return "nothing was written"


app = typer.Typer(
    name="excise",
    cls=_Verbs,
    help="Measure the social bias of a language model, find the neurons behind it, excise them, "
    "and show what changed and what it cost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # lm-eval writes --output_path and --output-path alike.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
app.command("run", short_help="Find bias neurons, excise them, compare.")(run.run)
app.command("evaluate", short_help="Measure a model, or original against patched.")(
    evaluate.evaluate
)
app.command("compare", short_help="Mitigation methods side by side.")(compare.compare)
app.command("locate", short_help="Find bias neurons and write a patch.")(locate.locate)
app.command("dissect", short_help="Which excised neurons matter, and how sure that is.")(
    dissect.dissect
)
app.command("verify", short_help="Recompute a run folder, name every mismatch.")(verify.verify)
app.command("diff", short_help="Two runs item by item.")(diff.diff)
app.command("gate", short_help="Hold a run against limits, for CI.")(gate.gate)
app.command("apply", short_help="Write a checkpoint from a model and patches.")(apply.apply)
app.command("push", short_help="Upload a patch or a checkpoint, with its model card.")(push.push)
app.command("report", short_help="report.html again, or several runs on one page.")(report.report)
app.command("reproduce", short_help="Experiments of the paper and of the study.")(
    reproduce.reproduce
)
app.command("plan", short_help="What a run will cost, before it starts.")(plan.plan)
app.command("power", short_help="How many items a margin needs.")(power.power)
app.command("doctor", short_help="Check every metric, and what is on this machine.")(doctor.doctor)
app.add_typer(listing.app, name="ls")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"excise {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    context.obj = Session()
    if context.invoked_subcommand in _SHARED_VERBS:
        parallel.start()
    elif parallel.started_as_follower():
        raise typer.Exit


_SHARED_VERBS = ("run", "evaluate", "compare", "locate")
"""Verbs whose work several processes share; the leader alone does the others."""


def main() -> None:
    """Entry point of the command `excise`."""
    _quieten_libraries()
    if parallel.started_as_follower():
        _keep_silent()
    try:
        app()
    finally:
        parallel.stop()


def _keep_silent() -> None:
    """Print nothing but what is a fault of this program."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)


def _quieten_libraries() -> None:
    """Keep other libraries from writing across tables and progress; the user's settings win."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
