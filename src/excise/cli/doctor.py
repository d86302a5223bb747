"""The verb `doctor`: every metric on responders whose values are known, and what is at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from excise.doctor import Check, Finding

DEVIATES = 1
"""Exit code where a value is not the expected one."""

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print deviations and the last line only.")
]
Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of tables.")]


def doctor(
    context: typer.Context,
    data_dir: options.DataDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every metric on responders whose values are known, and show what is on this machine.

    Small synthetic benchmarks are answered by responders that are always right, always follow the
    stereotype, guess, say nothing and so on. Exits with 1 where a metric deviates.
    """
    from excise.doctor import environment, examine, oracles, unchecked

    findings = environment(Path(data_dir) if data_dir else None)
    checks = examine(oracles())
    missing = unchecked(checks)
    deviating = [check for check in checks if not check.as_expected]
    if as_json:
        document = _document(findings, checks, missing)
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        if not quiet:
            _print_all(context.obj.out, findings, checks)
        for check in deviating:
            typer.echo(f"Deviates: {_told(check)}")
        if missing:
            typer.echo(f"No responder checks: {', '.join(missing)}")
        typer.echo(f"{len(checks) - len(deviating)} of {len(checks)} values as expected")
    if deviating:
        raise typer.Exit(DEVIATES)


def _print_all(console: Console, findings: Sequence[Finding], checks: Sequence[Check]) -> None:
    from excise.doctor import RESPONDERS

    used = {check.responder for check in checks}
    _print_lines(console, "This machine", [(f.name, f.state) for f in findings])
    _print_lines(console, "Responders", [line for line in RESPONDERS.items() if line[0] in used])
    console.print(
        "Shares are in per cent, scores in points, other values as they are; - is undefined, "
        "(!) not as expected."
    )
    for benchmark in dict.fromkeys(check.benchmark for check in checks):
        console.print()
        _print_benchmark(console, [check for check in checks if check.benchmark == benchmark])
    console.print()


def _print_lines(console: Console, title: str, lines: Sequence[tuple[str, str]]) -> None:
    """Names with texts; long paths stay whole, so that they can be copied."""
    console.print(title, style="bold")
    widest = max(len(name) for name, _ in lines)
    for name, text in lines:
        console.print(f"{name:<{widest}}   {text}", soft_wrap=True)
    console.print()


def _print_benchmark(console: Console, checks: Sequence[Check]) -> None:
    """Metrics by responders, in as many tables as the width asks for."""
    from excise.cli.tables import print_table

    value = {(check.metric, check.responder): check for check in checks}
    metrics = list(dict.fromkeys(check.metric for check in checks))
    responders = list(dict.fromkeys(check.responder for check in checks))
    title = checks[0].benchmark
    for some in _columns(responders, console.width - max(map(len, metrics))):
        print_table(
            console,
            title,
            ["metric", *some],
            [[name, *(_cell(value[name, responder]) for responder in some)] for name in metrics],
        )
        title = f"{checks[0].benchmark}, continued"


def _columns(names: Sequence[str], room: int) -> Iterator[list[str]]:
    """Names in rows that fit, each with a gap of three; at least one name a row."""
    row: list[str] = []
    for name in names:
        if row and sum(len(other) + 3 for other in (*row, name)) > room:
            yield row
            row = []
        row.append(name)
    yield row


def _cell(check: Check) -> str:
    found = "error" if check.error else _shown(check.metric, check.found)
    return found if check.as_expected else f"{found} (!)"


def _shown(metric: str, number: float | None) -> str:
    from excise.cli.values import shown
    from excise.metrics import METRICS

    return "-" if number is None else shown(METRICS[metric], number)


def _told(check: Check) -> str:
    from excise.doctor import Undefined

    expected = (
        f"undefined ({check.expected.reason})"
        if isinstance(check.expected, Undefined)
        else f"{check.expected:.12g}"
    )
    found = check.error or ("undefined" if check.found is None else f"{check.found:.12g}")
    return (
        f"{check.metric}, responder {check.responder} ({check.benchmark}): "
        f"expected {expected}, found {found}"
    )


def _document(
    findings: Sequence[Finding], checks: Sequence[Check], missing: Sequence[str]
) -> dict[str, Any]:
    return {
        "as_expected": sum(check.as_expected for check in checks),
        "values": len(checks),
        "metrics_without_responder": list(missing),
        "machine": [{"what": f.name, "state": f.state, "present": f.present} for f in findings],
        "checks": [_record(check) for check in checks],
    }


def _record(check: Check) -> dict[str, Any]:
    from excise.doctor import Undefined

    return {
        "benchmark": check.benchmark,
        "responder": check.responder,
        "metric": check.metric,
        "expected": None if isinstance(check.expected, Undefined) else check.expected,
        "why_undefined": check.expected.reason if isinstance(check.expected, Undefined) else "",
        "found": check.found,
        "error": check.error,
        "as_expected": check.as_expected,
    }
