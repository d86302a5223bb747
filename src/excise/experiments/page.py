"""Pages: what was run, what came out, what was published, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from re import sub

from tabulate import tabulate

from excise.experiments.findings import Table
from excise.experiments.reproduce import Outcome, Reproduction
from excise.experiments.settings import ModelPreset

FIGURE_FILE = "figure.svg"


def page(found: Reproduction, outcome: Outcome, *, folder: str = "") -> str:
    """One experiment as Markdown.

    Args:
        found: the reproduction that it belongs to.
        outcome: the experiment.
        folder: where its figure lies, seen from the page; with a slash at the end.
    """
    entry, findings = outcome.definition, outcome.findings
    parts = [f"# {entry.title}", f"{entry.question} ({entry.source})", "## What was run"]
    parts.append("\n".join(f"- {line}" for line in what_was_run(found, outcome)))
    if outcome.status != "done":
        parts += ["## What came out", f"**{outcome.status.capitalize()}**: {outcome.reason}"]
    else:
        parts.append("## What came out")
        parts += findings.answers
        if findings.chart is not None:
            parts.append(f"![{findings.chart.title}]({folder}{FIGURE_FILE})")
        parts += [markdown(table) for table in findings.tables]
    parts.append("## What was published")
    if outcome.published is not None:
        parts.append(markdown(outcome.published))
    elif outcome.status == "done":
        parts.append(_not_comparable(found.preset, outcome))
    if outcome.elsewhere:
        parts.append("Of other models, for orientation; no difference to them is taken:")
        parts += [markdown(table) for table in outcome.elsewhere]
    if findings.left_out:
        told = [f"- {what}: {why}" for what, why in findings.left_out]
        parts += ["## What was not measured", "\n".join(told)]
    if entry.notes:
        parts += ["## To know", "\n".join(f"- {note}" for note in entry.notes)]
    return "\n\n".join(parts) + "\n"


def what_was_run(found: Reproduction, outcome: Outcome) -> list[str]:
    """Model, scale and the sizes that decide what the numbers are worth."""
    config = outcome.config
    limit = "all" if config.limit is None else f"at most {config.limit}"
    told = config.test_instructions
    instructions = "all" if told is None else str(told)
    asked = config.attribution.instructions
    lines = [
        f"`excise reproduce {outcome.definition.name}`, scale {found.scale}, kind "
        f"{outcome.definition.kind}, preset {config.preset}",
        f"model {found.model} ({found.preset.note}), {found.n_neurons:,} neurons",
        f"{limit} test items of each task under {instructions} instructions, "
        f"{config.trials} trial{'s' if config.trials > 1 else ''}, split by {config.split_by}",
        f"neurons located on {config.attribution.instances} instances under "
        f"{'all' if asked is None else asked} instructions, n = {config.selection.n}",
    ]
    lines += outcome.definition.told
    if found.preset.replace:
        by_task: dict[str, list[str]] = {}
        for name, asked_instead in found.preset.replace.items():
            by_task.setdefault(asked_instead, []).append(name)
        listed = "; ".join(f"{own} for {', '.join(names)}" for own, names in by_task.items())
        lines.append(f"tasks in place of the benchmarks, each asked once: {listed}")
    return lines


def index(found: Reproduction) -> str:
    """All experiments of a reproduction on one page, as Markdown."""
    rows = []
    for outcome in found.outcomes:
        name = outcome.definition.name
        against = "yes" if outcome.published is not None else "no"
        asks = outcome.definition.question
        rows.append((f"[{name}]({name}/README.md)", outcome.status, against, asks))
    header = ("experiment", "status", "published of this model", "what it asks")
    done = sum(outcome.status == "done" for outcome in found.outcomes)
    lines = [
        f"# Experiments on {found.model}",
        f"{done} of {len(rows)} experiments at scale {found.scale}; {found.preset.note}.",
        markdown(Table("", header, tuple(rows))).strip(),
    ]
    for outcome in found.outcomes:
        if outcome.findings.answers:
            lines += [f"## {outcome.definition.title}", *outcome.findings.answers]
    missing = [o for o in found.outcomes if o.status != "done"]
    if missing:
        listed = [f"- {o.definition.name} ({o.status}): {o.reason}" for o in missing]
        lines += ["## What was not done", "\n".join(listed)]
    return "\n\n".join(lines) + "\n"


def html(found: Reproduction, outcome: Outcome, figure: str) -> str:
    """One experiment as a self-contained page: no script, no network, texts escaped.

    Args:
        found: the reproduction that it belongs to.
        outcome: the experiment.
        figure: its SVG, or empty.
    """
    entry, findings = outcome.definition, outcome.findings
    parts = [f"<h1>{escape(entry.title)}</h1>"]
    parts.append(f"<p>{escape(entry.question)} ({escape(entry.source)})</p>")
    parts.append(_listed("What was run", what_was_run(found, outcome)))
    parts.append("<h2>What came out</h2>")
    if outcome.status != "done":
        parts.append(f"<p><b>{escape(outcome.status)}</b>: {escape(outcome.reason)}</p>")
    parts += [f"<p>{_bold(escape(text))}</p>" for text in findings.answers]
    # Without its prologue, which an HTML page must not hold.
    parts.append(sub(r"(?s)^.*?(?=<svg)", "", figure))
    parts += map(_html_table, findings.tables)
    parts.append("<h2>What was published</h2>")
    if outcome.published is not None:
        parts.append(_html_table(outcome.published))
    elif outcome.status == "done":
        parts.append(f"<p>{escape(_not_comparable(found.preset, outcome))}</p>")
    if outcome.elsewhere:
        parts.append("<p>Of other models, for orientation; no difference to them is taken:</p>")
        parts += map(_html_table, outcome.elsewhere)
    if findings.left_out:
        told = [f"{what}: {why}" for what, why in findings.left_out]
        parts.append(_listed("What was not measured", told))
    if entry.notes:
        parts.append(_listed("To know", entry.notes))
    title = f"<title>{escape(entry.title)}</title>"
    return _HEAD + title + _STYLE + "</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'\">"
)
_STYLE = (
    "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;"
    "margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #ccc;padding:.25rem .7rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}caption{text-align:left;font-weight:600}"
    "svg{max-width:100%;height:auto}</style>"
)


def markdown(table: Table) -> str:
    """A table with its title, as Markdown."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
    body = tabulate(rows, table.header, tablefmt="github", disable_numparse=True)
    return f"**{table.title}**\n\n{body}" if table.title else str(body)


def _not_comparable(preset: ModelPreset, outcome: Outcome) -> str:
    if outcome.elsewhere:
        return (
            f"No number for this experiment was published of this model ({preset.note}), so there "
            "is no difference to report."
        )
    return "No number is known to have been published for this experiment (figures, or our own)."


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _listed(title: str, lines: Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{escape(title)}</h2><ul>{listed}</ul>"


def _bold(text: str) -> str:
    return sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
