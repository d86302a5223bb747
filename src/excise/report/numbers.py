"""Numbers as texts, in the unit in which the field reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from excise.metrics import METRICS

UNDEFINED = "undefined"
Row = Mapping[str, Any]
"""One estimate of the `paired` block of results.json: metric, original, patched, difference, low,
high, controls, ..."""

_SCALED = ("%", "points")
_LARGE = 100_000


def percent(value: float | None) -> str:
    """A share in per cent, or a score in points, with one decimal."""
    return UNDEFINED if value is None else _no_minus_zero(f"{100 * value:.1f}")


def signed(value: float | None) -> str:
    """A difference in points, with its sign."""
    return UNDEFINED if value is None else _no_minus_zero(f"{100 * value:+.1f}")


def counted(number: int, thing: str) -> str:
    """A number of things, such as "1 trial" or "3 trials"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def title(name: str) -> str:
    """The heading of a metric; its name where this version of the program does not know it."""
    return METRICS[name].title if name in METRICS else name


def unit(name: str) -> str:
    """The sign behind a value of a metric: per cent, or nothing."""
    return " %" if name in METRICS and METRICS[name].unit == "%" else ""


def scaled(name: str) -> bool:
    """Whether a metric reads in per cent or points, so that its differences share one axis."""
    return name not in METRICS or METRICS[name].unit in _SCALED


def shown(name: str, value: float | None) -> str:
    """A value of a metric: a share in per cent, a score in points, anything else as it is."""
    if value is None or scaled(name):
        return percent(value)
    return _plain(value)


def shown_change(name: str, value: float | None) -> str:
    """A difference of a metric, with its sign."""
    if value is None or scaled(name):
        return signed(value)
    return ("+" if value >= 0 else "") + _plain(value)


def shown_interval(row: Row) -> str:
    """The interval of a row's difference: "+25.9 to +43.8", or "no interval"."""
    low, high = row.get("low"), row.get("high")
    if low is None or high is None:
        return "no interval"
    return f"{shown_change(row['metric'], low)} to {shown_change(row['metric'], high)}"


def level(row: Row) -> str:
    """The level of a row's interval, or of options, such as "95 %"."""
    return f"{100 * row.get('level', 0.95):g} %"


def drawn(row: Row) -> list[float]:
    """The values under the random controls that are defined."""
    return [value for value in row.get("controls") or () if value is not None]


def controls(row: Row) -> tuple[str, str]:
    """The mean over random controls, and their range; "not drawn" where there are none."""
    values = drawn(row)
    if not values:
        return ("not drawn" if not row.get("controls") else UNDEFINED), ""
    name = row["metric"]
    mean = shown(name, sum(values) / len(values))
    if len(values) == 1:
        return mean, "one draw"
    return mean, f"{shown(name, min(values))} to {shown(name, max(values))}"


def _plain(number: float) -> str:
    if abs(number) >= _LARGE:
        return f"{number:.1e}"
    return f"{number:.2f}" if abs(number) >= 10 else f"{number:.3f}"


def _no_minus_zero(text: str) -> str:
    return "0.0" if text in ("-0.0", "+0.0") else text
