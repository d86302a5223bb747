"""What `run` prints at its end: the verdict first, then the numbers, on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from excise.cli.places import described
from excise.cli.tables import Cell, Row, print_table
from excise.cli.values import shown_difference, title
from excise.cli.words import Record
from excise.evidence import run_record
from excise.metrics import CHOICE
from excise.patches import Patch
from excise.report.notes import POOLED, notes
from excise.report.numbers import controls, counted, level, shown
from excise.report.places import place
from excise.report.story import LABELS, SYMBOLS, Finding, Kind, Story, tell
from excise.results import HEADLINE, RunResult


def units(config: Mapping[str, Any]) -> str:
    """What a table's numbers are in, and the level of its intervals.

    Args:
        config: the options of a record.
    """
    told = level(config["statistics"])
    return f"in per cent; bias scores and differences in points; {told} intervals"


_STYLES: Mapping[Kind, str] = {"improved": "bold cyan", "worse": "bold yellow", "spared": "cyan"}
_WIDE = 72
"""Columns below which the random controls are left to the report."""
_NAMED = 3
_ASCII = {"▲": "+", "▼": "-", "○": "?", "“": '"', "”": '"', "→": "->"}


def print_run(console: Console, result: RunResult, record: Mapping[str, Any]) -> None:
    """Print the verdict, a table, the places of the neurons and the caveats of a run.

    Args:
        console: where to.
        result: the run.
        record: its results.json.
    """
    run = run_record(result)
    names = [task.task for task in result.tasks]
    n_excised = len(result.patch)
    paired = record["paired"]
    leading = POOLED if POOLED in paired else names[0]
    story = tell(leading, paired[leading], n_excised=n_excised)
    _say(console, f"{result.model} on {', '.join(names)}", style="dim")
    _say(console, story.headline, style="bold")
    _say(console, f"{_excised(result)} {story.summary}")
    console.print()
    what = f"All {len(names)} tasks, each with its own patch" if leading == POOLED else leading
    print_story(
        console, story, f"{what}: {_sizes(result, paired[leading])}\n({units(record['config'])})"
    )
    console.print()
    if leading == POOLED:
        for name in names:
            _say(console, f"{name}: {tell(name, paired[name]).headline}")
        console.print()
    if result.patch:
        _say(console, _places(result.patch))
    for note in notes(run, record, n_excised=n_excised):
        _say(console, f"Note: {note}")


def by_metric(entries: Sequence[Record]) -> dict[str, Record]:
    """Estimates by the name of their metric."""
    return {entry["metric"]: entry for entry in entries}


def headline(names: Iterable[str], *, generated: bool) -> tuple[str, ...]:
    """The metrics of printed tables, out of those that apply.

    Of the many metrics of a choice between options the most telling ones; generated answers may
    also match no option.
    """
    hidden = set(CHOICE) - set(HEADLINE) - ({"unmatched"} if generated else set())
    return tuple(name for name in names if name not in hidden)


def print_story(console: Console, story: Story, heading: str) -> None:
    """Print a story's table: a sign for each verdict, and what the signs mean below it.

    Args:
        console: where to.
        story: what is told.
        heading: a line or two above the table.
    """
    wide = console.width >= _WIDE
    header: list[Cell] = [Cell("  metric"), Cell("original"), Cell("patched")]
    header += [Cell("random", "control")] if wide else []
    header.append(Cell("difference"))
    print_table(
        console,
        heading,
        header,
        [_row(console, finding, wide=wide) for finding in story.findings],
    )
    used = dict.fromkeys(finding.kind for finding in story.findings)
    _say(console, "  ".join(f"{SYMBOLS[kind]} {LABELS[kind]}" for kind in LABELS if kind in used))
    if story.undefined:
        _say(console, f"Undefined for these answers: {'; '.join(story.undefined)}.")


def _row(console: Console, finding: Finding, *, wide: bool) -> Row:
    row, name = finding.row, finding.row["metric"]
    style = _STYLES.get(finding.kind, "")
    label = title(name)
    sign = _readable(console, SYMBOLS[finding.kind])
    detail = f"  {label.detail}" if label.detail and not wide else label.detail
    cells: list[Cell] = [
        Cell(f"{sign} {label.main}", detail, style),
        Cell(shown(name, row["original"])),
        Cell(shown(name, row["patched"])),
    ]
    if wide:
        cells.append(Cell(controls(row)[0]))
    change = shown_difference(row)
    return [*cells, Cell(change.main, change.detail, style)]


def _excised(result: RunResult) -> str:
    return f"Excised neurons: {len(result.patch):,} of {result.n_neurons:,}."


def _sizes(result: RunResult, rows: Sequence[Record]) -> str:
    templates = max((row["n_clusters"] for row in rows), default=0)
    asked = sum(len(task.trials[0].original.instances) for task in result.tasks)
    told = max(len(task.trials[0].original.instructions) for task in result.tasks)
    trials = max(len(task.trials) for task in result.tasks)
    return (
        f"{counted(asked, 'test instance')} of {counted(templates, 'template')}, "
        f"{counted(told, 'instruction')}, {counted(trials, 'trial')}"
    )


def _places(patch: Patch) -> str:
    """Where the neurons lie, in a line or two."""
    own = described(patch)
    placed = [place(neuron.module, own) for neuron in patch.neurons]
    kinds = Counter(p.sublayer or "other" for p in placed)
    layers = Counter(f"{p.stack} {p.layer}".strip() for p in placed)
    first = ", ".join(f"{n.module}[{n.index}]" for n in patch.neurons[:_NAMED])
    return (
        f"Where: {_listed(kinds)}; most in layer {_listed(layers, 3)}. "
        f"First by score: {first}{', ...' if len(patch) > _NAMED else ''}"
    )


def _listed(numbers: Counter[str], most: int | None = None) -> str:
    return ", ".join(f"{name} ({number})" for name, number in numbers.most_common(most))


def _say(console: Console, text: str, style: str = "") -> None:
    """A paragraph, wrapped at words; long names break only where they must."""
    console.print(Text(_readable(console, text), style=style))


def _readable(console: Console, text: str) -> str:
    """Signs that the terminal's encoding has."""
    if console.encoding.lower().startswith("utf"):
        return text
    for sign, plain in _ASCII.items():
        text = text.replace(sign, plain)
    return text.encode(console.encoding, "replace").decode(console.encoding)
