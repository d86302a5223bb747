"""Values of metrics as texts, in the unit in which the field reads them."""

from __future__ import annotations

from excise.cli.tables import UNDEFINED, Cell, percent, signed
from excise.cli.words import Record, interval
from excise.metrics import METRICS, Metric

_SCALED = ("%", "points")


def shown(metric: Metric, number: float | None) -> str:
    """A value: a share in per cent, a score in points, anything else as it is."""
    if metric.unit in _SCALED or number is None:
        return percent(number)
    return _plain(number)


def shown_interval(metric: Metric, low: float | None, high: float | None) -> str:
    """An interval of a value, in brackets; empty without one."""
    if low is None or high is None:
        return ""
    return f"({shown(metric, low)} to {shown(metric, high)})"


def shown_difference(estimate: Record) -> Cell:
    """A paired difference with its interval."""
    metric = METRICS[estimate["metric"]]
    if estimate["difference"] is None:
        return Cell(UNDEFINED)
    if metric.unit in _SCALED:
        return Cell(signed(estimate["difference"]), interval(estimate))
    low, high = estimate["low"], estimate["high"]
    between = "(no interval)" if low is None else f"({_signed(low)} to {_signed(high)})"
    return Cell(_signed(estimate["difference"]), between)


def title(name: str) -> Cell:
    """The title of a metric, in two parts where it names a context."""
    main, comma, context = METRICS[name].title.partition(",")
    return Cell(main + comma, context.strip())


def better(estimate: Record) -> bool | None:
    """Whether patched is better than original by more than chance; None without evidence."""
    return {"improved": True, "worse": False}.get(estimate["verdict"])


_LARGE = 100_000


def _plain(number: float) -> str:
    if abs(number) >= _LARGE:
        return f"{number:.1e}"
    return f"{number:.2f}" if abs(number) >= 10 else f"{number:.3f}"


def _signed(number: float) -> str:
    return ("+" if number >= 0 else "") + _plain(number)
