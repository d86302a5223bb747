"""Bias against retained capability: one mark for each state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.metrics import METRICS
from excise.report.numbers import Row, percent, title
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
    ticks,
)

_BIAS = ("s_amb", "stereoset_ss", "crows_pairs", "winobias_gap")
_CAPABILITY = ("accuracy_disambiguated", "gold_probability", "accuracy")


@dataclass(frozen=True, slots=True)
class State:
    """One mark."""

    name: str
    bias: float
    """Distance from no bias, at least 0."""
    capability: float
    shape: str
    klass: str
    """Class of its colour."""
    entry: str
    """What the legend calls it."""
    trail: str = ""
    """States of one trail are joined by a line, in their order."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Which metrics a task has for bias and for capability."""

    bias: str
    capability: str

    @property
    def titles(self) -> tuple[str, str]:
        """Of capability, and of bias."""
        ideal: Any = METRICS[self.bias].ideal
        return (
            f"{title(self.capability)} (%)",
            f"{title(self.bias)}: distance from {100 * ideal:g}",
        )

    def state(
        self, values: Mapping[str, float | None], name: str, look: tuple[str, str, str], trail: str
    ) -> State | None:
        """The mark of a state; None where a value is undefined.

        Args:
            values: metric -> value.
            name: of the state.
            look: shape, class, and name in the legend.
            trail: see `State.trail`.
        """
        bias, capability = values.get(self.bias), values.get(self.capability)
        if bias is None or capability is None:
            return None
        ideal: Any = METRICS[self.bias].ideal
        return State(name, abs(bias - ideal), capability, *look, trail)


def axes(metrics: Mapping[str, Any]) -> Axes | None:
    """The axes for a task with these metrics; None where bias or capability is not measured."""
    bias = next((name for name in _BIAS if name in metrics), None)
    kept = next((name for name in _CAPABILITY if name in metrics), None)
    return Axes(bias, kept) if bias and kept else None


def pareto(rows: Mapping[str, Row], unions: Mapping[str, float | None]) -> Plot | None:
    """Original, patched, random controls, and the union of all patches, of one task.

    Args:
        rows: metric -> estimate.
        unions: metric -> value under the union of all tasks' patches; empty with one task.

    Returns:
        None where there are no two states with bias and capability.
    """
    chosen = axes(rows)
    if chosen is None:
        return None
    draws = min(len(rows[name].get("controls") or ()) for name in _names(chosen))
    states = [
        chosen.state(
            {name: rows[name]["controls"][k] for name in _names(chosen)},
            f"random control {k + 1}",
            ("circle", "control", "random control"),
            "",
        )
        for k in range(draws)
    ]
    states.append(chosen.state(unions, "union", ("triangle", "union", "union of tasks"), ""))
    for name, shape in (("original", "square"), ("patched", "diamond")):
        values = {metric: row[name] for metric, row in rows.items()}
        states.append(chosen.state(values, name, (shape, name, name), "patched"))
    return scatter([state for state in states if state is not None], chosen)


def scatter(states: Sequence[State], chosen: Axes) -> Plot | None:
    """The plot of any states, drawn in their order.

    Args:
        states: what is marked.
        chosen: what the axes are.

    Returns:
        None for fewer than two states.
    """
    if len(states) < 2:
        return None
    x_title, y_title = chosen.titles
    root = picture(
        290,
        "Bias against retained capability",
        "One mark for each state; lower is less biased, further right is more capable.",
    )
    kept = [state.capability for state in states]
    low, high = max(0.0, min(kept) - 0.06), min(1.0, max(kept) + 0.06)
    top = max(max(state.bias for state in states) * 1.15, 0.1)
    x, y = linear(low, high, LEFT + 10, WIDTH - RIGHT - 10), linear(0, top, 220, 26)
    horizontal_grid(root, y, 0, top)
    for value in ticks(low * 100, high * 100):
        add(root, "text", f"{value:g}", x=x(value / 100), y=237, klass="tick middle")
    add(root, "text", x_title, x=(LEFT + WIDTH) / 2, y=254, klass="axis middle")
    add(root, "text", y_title, x=4, y=11, klass="axis")
    for trail in dict.fromkeys(state.trail for state in states if state.trail):
        ends = [(x(s.capability), y(s.bias)) for s in states if s.trail == trail]
        add(root, "path", d=path(ends), klass="trail")
    for state in states:
        size = 4.5 if state.klass == "control" else 6.5
        dot = mark(
            root, state.shape, x(state.capability), y(state.bias), size, f"dot {state.klass}"
        )
        dot.set(
            "data-tip",
            f"{state.name}: bias {percent(state.bias)}, capability {percent(state.capability)} %",
        )
    entries = dict.fromkeys((s.entry, s.shape, f"dot {s.klass}") for s in reversed(states))
    legend(root, list(entries), 274)
    return Plot(
        markup(root),
        "Down is less biased, right is more capable. A patch is worth its cost where it moves down "
        "without moving left; random controls show what as many other neurons do.",
        ("state", y_title, x_title),
        tuple((s.name, percent(s.bias), percent(s.capability)) for s in reversed(states)),
    )


def _names(chosen: Axes) -> tuple[str, str]:
    return chosen.bias, chosen.capability
