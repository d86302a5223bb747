"""A chart as an image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.experiments.findings import Chart

_MARKERS = "osD^vP*X<>hd"


def draw(chart: Chart, path: Path) -> None:
    """Draw a chart.

    Args:
        chart: what is drawn.
        path: an image file; its ending decides the format.
    """
    # Imported here: it takes a second, and most commands draw nothing.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A fixed salt: the same numbers give the same file.
    with rc_context({"svg.hashsalt": "excise", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=_size(chart), layout="constrained")
        axes = figure.subplots()
        _DRAWERS[chart.kind](figure, axes, chart)
        # Over the whole figure: beside long names an axis is too narrow for a title.
        figure.suptitle(chart.title)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _size(chart: Chart) -> tuple[float, float]:
    if chart.kind == "intervals":
        return 7.5, 1.4 + 0.3 * len(chart.places) * max(1, len(chart.series))
    if chart.kind == "heat":
        return 3.0 + 1.0 * len(chart.places), 1.8 + 0.55 * len(chart.series)
    return min(14.0, 4.5 + 0.25 * len(chart.places) * len(chart.series)), 4.2


def _bars(figure: Any, axes: Any, chart: Chart) -> None:
    width = 0.8 / len(chart.series)
    for number, series in enumerate(chart.series):
        at = [place + (number + 0.5) * width - 0.4 for place in range(len(chart.places))]
        axes.bar(at, _numbers(series.values), width, label=series.name, color=f"C{number % 10}")
    axes.set_xticks(range(len(chart.places)), chart.places, rotation=20, ha="right")
    _labelled(figure, axes, chart)


def _lines(figure: Any, axes: Any, chart: Chart) -> None:
    at = range(len(chart.places))
    for number, series in enumerate(chart.series):
        level = len(set(series.values)) == 1 and series.name.startswith("original")
        style = {"linestyle": ":"} if level else {"marker": _MARKERS[number % len(_MARKERS)]}
        axes.plot(at, _numbers(series.values), label=series.name, **style)
    axes.set_xticks(at, chart.places)
    axes.set_xlabel(chart.place)
    axes.grid(alpha=0.25)
    _labelled(figure, axes, chart)


def _heat(figure: Any, axes: Any, chart: Chart) -> None:
    table = [_numbers(series.values) for series in chart.series]
    known = [abs(number) for row in table for number in row if number == number]
    most = max(known, default=1.0) or 1.0
    image = axes.imshow(table, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for y, row in enumerate(table):
        for x, number in enumerate(row):
            if number == number:
                colour = "white" if abs(number) > 0.6 * most else "black"
                axes.text(x, y, f"{number:+.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(chart.places)), chart.places, rotation=25, ha="right")
    axes.set_yticks(range(len(chart.series)), [series.name for series in chart.series])
    axes.set_xlabel(chart.place)
    axes.set_ylabel(chart.value)
    figure.colorbar(image, ax=axes)


def _intervals(figure: Any, axes: Any, chart: Chart) -> None:
    count = len(chart.series)
    for number, series in enumerate(chart.series):
        at = [-(place + (number + 1) / (count + 1)) for place in range(len(chart.places))]
        marker, colour = _MARKERS[number % len(_MARKERS)], f"C{number % 10}"
        axes.scatter(
            _numbers(series.values), at, marker=marker, color=colour, label=series.name, zorder=3
        )
        for y, low, high in zip(at, series.low, series.high, strict=True):
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=colour)
    axes.set_ylim(-len(chart.places), 0)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks([-(place + 0.5) for place in range(len(chart.places))], chart.places)
    axes.set_xlabel(chart.value)
    axes.grid(axis="x", alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


_DRAWERS = {"bars": _bars, "lines": _lines, "heat": _heat, "intervals": _intervals}


def _labelled(figure: Any, axes: Any, chart: Chart) -> None:
    axes.set_ylabel(chart.value)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
