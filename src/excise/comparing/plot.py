"""The Pareto plot: what is gained in ambiguous contexts against what is kept elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from excise.comparing.comparison import Comparison
from excise.metrics import METRICS, value

_X, _Y = "accuracy_disambiguated", "accuracy_ambiguous"
_MARKERS = "osD^vP*X<>hd"


def draw(comparison: Comparison, path: Path) -> bool:
    """Draw one panel for each task; small marks are trials, large ones their means.

    Args:
        comparison: what is drawn.
        path: an image file; its ending decides the format.

    Returns:
        False, and nothing is written, where no task has both kinds of context.
    """
    panels = {
        task.name: points for task in comparison.tasks if (points := _points(comparison, task.name))
    }
    if not panels:
        return False
    draw_points(panels, path)
    return True


def draw_points(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path
) -> None:
    """Draw given points, one panel for each task; no comparison is needed.

    Args:
        panels: task -> method -> accuracy in disambiguated and in ambiguous contexts, in per cent,
            one pair for each trial; the same methods in every task.
        path: an image file; its ending decides the format.
    """
    # Imported here: it takes a second, and most commands draw nothing.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A fixed salt: the same comparison gives the same file.
    with rc_context({"svg.hashsalt": "excise", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.2 * len(panels) + 1.6, 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, (name, points) in zip(axes, panels.items(), strict=True):
            _panel(panel, name, points)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _points(comparison: Comparison, task: str) -> dict[str, list[tuple[float, float]]]:
    """Method -> one point for each trial, in per cent."""
    found: dict[str, list[tuple[float, float]]] = {}
    for method in comparison.methods:
        for state in comparison.of(method, task):
            x, y = (value(METRICS[name], state.test) for name in (_X, _Y))
            if x is not None and y is not None:
                found.setdefault(method, []).append((100 * x, 100 * y))
    return found


def _panel(panel: Any, name: str, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    means = {}
    for number, (method, trials) in enumerate(points.items()):
        colour, marker = f"C{number % 10}", _MARKERS[number % len(_MARKERS)]
        xs, ys = zip(*trials, strict=True)
        means[method] = (sum(xs) / len(xs), sum(ys) / len(ys))
        if len(trials) > 1:
            panel.scatter(xs, ys, s=14, color=colour, marker=marker, alpha=0.45)
        panel.scatter(*means[method], s=70, color=colour, marker=marker, label=method, zorder=3)
    front = _front(list(means.values()))
    panel.plot(*zip(*front, strict=True), color="0.6", linewidth=1, linestyle="--", zorder=1)
    panel.set_title(name)
    panel.set_xlabel("accuracy, disambiguated (%)")
    panel.set_ylabel("accuracy, ambiguous (%)")
    panel.grid(alpha=0.25)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (-point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best[::-1]
