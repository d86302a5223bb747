"""The verb `gate`: hold a run against declared limits, for continuous integration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from excise.cli.resolving import assigned_numbers
from excise.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from excise.auditing import Gate

Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A folder of `excise run`, or of `excise evaluate --patch --out`."
    ),
]
MaxLoss = Annotated[
    list[str] | None,
    typer.Option(
        "--max-loss",
        metavar="NAME=LIMIT",
        help="A metric, or TASK:METRIC, and what it may lose, for example "
        "accuracy_disambiguated=0.02; several by commas or repeated.",
        show_default=False,
    ),
]
MinGain = Annotated[
    list[str] | None,
    typer.Option(
        "--min-gain",
        metavar="NAME=AMOUNT",
        help="A metric, or TASK:METRIC, and what it must gain.",
        show_default=False,
    ),
]
OnNoEvidence = Annotated[
    str,
    typer.Option(
        "--on-no-evidence", metavar="fail|pass", help="What an interval that decides nothing is."
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Write JUnit XML.", show_default=False),
]
Summary = Annotated[
    Path | None,
    typer.Option(
        "--summary", metavar="FILE.md", help="Append a Markdown table.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the decisions as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing that passes.")]


def gate(
    context: typer.Context,
    run: Run,
    max_loss: MaxLoss = None,
    min_gain: MinGain = None,
    on_no_evidence: OnNoEvidence = "fail",
    junit: Junit = None,
    summary: Summary = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Decide on intervals whether a patch may pass: limits on losses, wanted gains.

    Exit code 0 if it passes, 1 if it does not, 2 if it cannot be decided.
    """
    from excise import auditing
    from excise.auditing import reports

    limits = [
        auditing.Limit.parse(kind, name, amount)
        for kind, given in _kinds(max_loss, min_gain)
        for name, amount in (assigned_numbers(given, f"--{kind}") or {}).items()
    ]
    decided = auditing.gate(run, limits, on_no_evidence=_choice(on_no_evidence))
    if junit is not None:
        _write(junit, reports.junit(decided), append=False)
    if summary is not None:
        # Several steps of a job share one summary.
        _write(summary, reports.markdown(decided), append=True)
    if as_json:
        typer.echo(json.dumps(decided.record(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _print(context.obj.out, decided, quiet=quiet)
    if not decided.passed:
        raise typer.Exit(1)


def _kinds(
    max_loss: list[str] | None, min_gain: list[str] | None
) -> tuple[tuple[Literal["max-loss", "min-gain"], list[str] | None], ...]:
    return (("max-loss", max_loss), ("min-gain", min_gain))


def _choice(given: str) -> Any:
    if given not in ("fail", "pass"):
        raise ConfigError(f"--on-no-evidence must be fail or pass, not {given!r}.")
    return given


def _write(path: Path, text: str, *, append: bool) -> None:
    try:
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}.") from error


def _print(console: Console, decided: Gate, *, quiet: bool) -> None:
    for decision in decided.decisions:
        stops = decided.stops(decision)
        if quiet and not stops:
            continue
        change = "" if decision.change is None else f"; change {decision.change:+.4f}"
        between = (
            ""
            if decision.low is None or decision.high is None
            else f" ({decision.low:+.4f} to {decision.high:+.4f})"
        )
        console.print(
            f"{'x' if stops else '='} {decision.name}: {decision.verdict}: "
            f"{decision.reason}{change}{between}",
            soft_wrap=True,
        )
    if not quiet:
        said = "passes" if decided.passed else "does not pass"
        console.print(f"{decided.path}: {said}.", soft_wrap=True)
