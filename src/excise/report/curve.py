"""Accuracy on the tune split against the number of excised neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from excise.report.numbers import percent
from excise.report.svg import (
    LEFT,
    RIGHT,
    WIDTH,
    Plot,
    add,
    horizontal_grid,
    legend,
    linear,
    mark,
    markup,
    path,
    picture,
)

_CURVES = (
    ("accuracy", "right answers", "s1", ""),
    ("accuracy_ambiguous", "ambiguous contexts", "s2", "6 4"),
    ("accuracy_disambiguated", "disambiguated contexts", "s3", "2 3"),
)


def tune_curve(trials: Sequence[Mapping[str, Any]], best: int) -> Plot | None:
    """Accuracy on the tune split against the number of excised neurons.

    Args:
        trials: those of one task in run.json.
        best: which one's patch is kept; the others' objectives are drawn thin.

    Returns:
        None where no number was searched for.
    """
    curve = sorted(trials[best].get("curve") or (), key=lambda point: point["n"])
    if len(curve) < 2:
        return None
    numbers = [point["n"] for point in curve]
    lines = [
        (label, klass, dash, [point.get("metrics", {}).get(name) for point in curve])
        for name, label, klass, dash in _CURVES
    ]
    lines = [line for line in lines if any(value is not None for value in line[3])]
    if not lines:
        lines = [("objective", "s1", "", [point["objective"] for point in curve])]
    chosen = trials[best]["n"]
    root = picture(
        290,
        "Accuracy against the number of excised neurons",
        f"On the tune split; {chosen} neurons were chosen. The table below has the numbers.",
    )
    known = [v for line in lines for v in line[3] if v is not None]
    low, high = min(0.0, *known), max(1.0, *known)
    y = linear(low, high, 220, 26)
    # Evenly spaced: the grid of n widens, and a linear axis would crowd the small ones.
    x = linear(0, len(numbers) - 1, LEFT + 6, WIDTH - RIGHT - 6)
    horizontal_grid(root, y, low, high)
    step = max(1, -(-len(numbers) // 11))
    for position, number in enumerate(numbers):
        if position % step == 0 or position == len(numbers) - 1:
            add(root, "text", f"{number}", x=x(position), y=237, klass="tick middle")
    add(root, "text", "excised neurons", x=(LEFT + WIDTH) / 2, y=254, klass="axis middle")
    add(root, "text", "%", x=4, y=10, klass="axis")
    if chosen in numbers:
        at = x(numbers.index(chosen))
        add(root, "line", x1=at, x2=at, y1=26, y2=220, klass="chosen")
        anchor = "end" if at > WIDTH * 0.7 else ""
        shift = -5 if anchor else 5
        add(root, "text", f"chosen: {chosen}", x=at + shift, y=214, klass=f"note {anchor}")
    for number, trial in enumerate(trials):
        if number != best:
            points = [
                (x(numbers.index(p["n"])), y(p["objective"]))
                for p in trial.get("curve") or ()
                if p["n"] in numbers and p.get("objective") is not None
            ]
            if len(points) > 1:
                add(root, "path", d=path(points), klass="line thin")
    for label, klass, dash, values in lines:
        points = [(x(i), y(v)) for i, v in enumerate(values) if v is not None]
        add(root, "path", d=path(points), klass=f"line {klass}", stroke_dasharray=dash or "none")
        for position, (a, b) in enumerate(points):
            dot = mark(root, "circle", a, b, 3, f"dot {klass}")
            dot.set("data-tip", f"{numbers[position]} neurons: {percent(values[position])} {label}")
    legend(root, [(label, f"line{dash}", klass) for label, klass, dash, _ in lines], 274)
    others = " Thin lines: the other trials' accuracy." if len(trials) > 1 else ""
    return Plot(
        markup(root),
        f"On the tune split, which chose {chosen} neurons; the test split was not looked at."
        + others,
        ("excised neurons", *(line[0] for line in lines)),
        tuple(
            (str(number), *(percent(line[3][i]) for line in lines))
            for i, number in enumerate(numbers)
        ),
    )
