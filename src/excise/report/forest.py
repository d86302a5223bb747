"""The forest of metrics: every difference with its interval, beside the random controls."""

from __future__ import annotations

from collections.abc import Sequence

from excise.report.numbers import Row, drawn, scaled, shown_change, shown_interval, signed, title
from excise.report.story import LABELS, kind_of
from excise.report.svg import (
    WIDTH,
    Element,
    Plot,
    Scale,
    add,
    legend,
    linear,
    mark,
    markup,
    picture,
    ticks,
)

_MARKS = {"improved": "triangle", "worse": "down", "spared": "square", "unclear": "circle"}


def forest(rows: Sequence[Row]) -> Plot | None:
    """Differences of all metrics with intervals, and those of the random controls.

    Args:
        rows: estimates of one task.

    Returns:
        None where no metric in per cent or points has a difference.
    """
    drawable = [row for row in rows if row["difference"] is not None and scaled(row["metric"])]
    if not drawable:
        return None
    height = 34
    bottom = height * len(drawable) + 14
    root = picture(
        bottom + 46,
        "Differences of all metrics",
        "Patched minus original in points, with intervals; marks say the verdict.",
    )
    known = [row[key] for row in drawable for key in ("difference", "low", "high")]
    against = [c - row["original"] for row in drawable for c in drawn(row)]
    reach = max([abs(v) for v in (*known, *against) if v is not None] + [0.02]) * 1.05
    low = min([v for v in (*known, *against) if v is not None] + [0.0])
    high = max([v for v in (*known, *against) if v is not None] + [0.0])
    pad = 0.06 * ((high - low) or reach)
    x = linear(low - pad, high + pad, 10, WIDTH - 10)
    for value in ticks((low - pad) * 100, (high + pad) * 100, 6):
        at = x(value / 100)
        klass = "zero" if value == 0 else "grid"
        add(root, "line", x1=at, x2=at, y1=6, y2=bottom, klass=klass)
        add(root, "text", f"{value:+g}" if value else "0", x=at, y=bottom + 15, klass="tick middle")
    for number, row in enumerate(drawable):
        _strip(root, row, x, 14 + number * height)
    entries = [
        (label, _MARKS[kind], f"dot {kind}")
        for kind, label in LABELS.items()
        if any(kind_of(row) == kind for row in drawable)
    ]
    crosses = [("random control", "cross", "control")] if against else []
    legend(root, entries + crosses, bottom + 34, left=10)
    return Plot(
        markup(root),
        "Patched minus original, in points. A bar that crosses the line at 0 is no evidence of a "
        "change. Whether more is better depends on the metric; the mark says it.",
        ("metric", "difference", "interval", "verdict", "controls minus original"),
        tuple(
            (
                title(row["metric"]),
                signed(row["difference"]),
                shown_interval(row),
                LABELS[kind_of(row)],
                ", ".join(signed(c - row["original"]) for c in drawn(row)) or "not drawn",
            )
            for row in drawable
        ),
    )


def _strip(root: Element, row: Row, x: Scale, y: float) -> None:
    kind = kind_of(row)
    add(root, "text", title(row["metric"]), x=10, y=y + 4, klass="label halo")
    value = f"{shown_change(row['metric'], row['difference'])}  ({shown_interval(row)})"
    add(root, "text", value, x=WIDTH - 10, y=y + 4, klass="label end halo")
    middle = y + 15
    for control in drawn(row):
        mark(root, "cross", x(control - row["original"]), middle, 2.6, "control")
    if row.get("low") is not None and row.get("high") is not None:
        ends = {"x1": x(row["low"]), "x2": x(row["high"]), "y1": middle, "y2": middle}
        add(root, "line", **ends, klass=f"bar {kind}")
    dot = mark(root, _MARKS[kind], x(row["difference"]), middle, 4.5, f"dot {kind}")
    dot.set("data-tip", f"{title(row['metric'])}: {value}, {LABELS[kind]}")
