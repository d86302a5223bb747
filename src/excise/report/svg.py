"""Building blocks of the plots: SVG elements, scales and ticks.

Elements are trees that are written with every text escaped. Colours are classes of the style sheet,
so that a plot follows the page from light to dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from xml.etree import ElementTree

from markupsafe import Markup

Element = ElementTree.Element
Scale = Callable[[float], float]
_numbers = count(1)

WIDTH = 440
"""Coordinates from side to side: as many as text needs to stay readable on a telephone."""
LEFT, RIGHT = 44, 14
"""Margins of plots with a vertical axis."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture with the same numbers as a table."""

    picture: Markup
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def picture(height: float, name: str, description: str) -> Element:
    """An empty plot that says what it shows to those who do not see it.

    Args:
        height: of its coordinates, which are `WIDTH` wide; it is drawn as wide as the page allows.
        name: what it is.
        description: what it shows, in a sentence.
    """
    root = Element("svg", viewBox=f"0 0 {WIDTH} {height:g}", role="img")
    key = name.lower().replace(" ", "-")
    ids = {part: f"{part}-{key}-{next(_numbers)}" for part in ("title", "desc")}
    root.set("aria-labelledby", " ".join(ids.values()))
    for part, content in (("title", name), ("desc", description)):
        ElementTree.SubElement(root, part, id=ids[part]).text = content
    return root


def add(
    parent: Element, tag: str, text: str | None = None, /, **attributes: float | str
) -> Element:
    """Add an element; `klass` stands for `class`, and `_` in names for `-`."""
    named = {
        "class" if name == "klass" else name.replace("_", "-"): _written(value)
        for name, value in attributes.items()
    }
    element = ElementTree.SubElement(parent, tag, named)
    element.text = text
    return element


def markup(root: Element) -> Markup:
    """The element as HTML."""
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """A scale from [low, high] to coordinates [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from low to high, about as many as wanted."""
    span = (high - low) or 1.0
    raw = span / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= raw - 1e-12)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, as the `d` of a path."""
    return " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))


def mark(parent: Element, shape: str, x: float, y: float, size: float, klass: str) -> Element:
    """A mark whose shape says what it is, beside its colour.

    Args:
        parent: where to.
        shape: `circle`, `square`, `diamond`, `triangle`, `down` or `cross`.
        x: of its centre.
        y: of its centre.
        size: half its width.
        klass: class of its colour.
    """
    s = size
    outlines = {
        "square": [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)],
        "diamond": [(x, y - s * 1.3), (x + s * 1.3, y), (x, y + s * 1.3), (x - s * 1.3, y)],
        "triangle": [(x, y - s * 1.15), (x + s * 1.1, y + s), (x - s * 1.1, y + s)],
        "down": [(x, y + s * 1.15), (x + s * 1.1, y - s), (x - s * 1.1, y - s)],
    }
    if shape == "circle":
        return add(parent, "circle", cx=x, cy=y, r=s, klass=klass)
    if shape == "cross":
        d = f"M{x - s:.1f} {y - s:.1f}L{x + s:.1f} {y + s:.1f}M{x - s:.1f} {y + s:.1f}"
        return add(parent, "path", d=f"{d}L{x + s:.1f} {y - s:.1f}", klass=f"{klass} stroke")
    return add(parent, "path", d=path(outlines[shape]) + " Z", klass=klass)


def legend(
    root: Element, entries: Sequence[tuple[str, str, str]], y: float, *, left: float = LEFT
) -> None:
    """Names of marks, in as many lines as they need; the picture grows as high as that.

    Args:
        root: the picture.
        entries: label, shape (`line` or one of `mark`), class.
        y: middle of the first line.
        left: where lines start.
    """
    x = left
    for label, shape, klass in entries:
        needed = 30 + 6.3 * len(label)
        if x > left and x + needed > WIDTH:
            x, y = left, y + 19
        if shape.startswith("line"):
            dash = shape.removeprefix("line") or "none"
            ends = {"x1": x - 2, "x2": x + 16, "y1": y, "y2": y}
            add(root, "line", **ends, klass=f"line {klass}", stroke_dasharray=dash)
        else:
            mark(root, shape, x + 6, y, 4.5, klass)
        add(root, "text", label, x=x + 20, y=y + 4, klass="legend")
        x += needed
    root.set("viewBox", f"0 0 {WIDTH} {y + 12:g}")


def horizontal_grid(root: Element, y: Scale, low: float, high: float) -> None:
    """Lines at round per cents, named on the left."""
    for value in ticks(low * 100, high * 100):
        at = y(value / 100)
        add(root, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, klass="grid")
        add(root, "text", f"{value:g}", x=LEFT - 8, y=at + 4, klass="tick end")


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}" if abs(value) < 1 else f"{value:.1f}"
