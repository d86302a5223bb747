"""What an experiment found: readings, tables, a chart and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from excise.experiments.definition import Measure
from excise.metrics import METRICS

UNDEFINED = "-"
_SCALED = ("%", "points")
_LARGE = 100_000


@dataclass(frozen=True)
class Reading:
    """One number: what a state of the model gives on a task."""

    state: str
    """`original`, or the method."""
    target: str
    """The task as the definition names it."""
    measure: str
    """See `Measure`; `neurons` counts excised neurons."""
    value: float | None
    """As the metric is defined, means over trials; None where it is undefined."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known, as JSON values: `fitted_on`, `asked` (the task that was put), `items`,
    `instructions`, `trials`, `sd_over_trials`, `difference` to the original with `low` and `high`,
    `gain`, `p_adjusted`, `verdict`, `at` (the value of an option)."""

    @property
    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "state": self.state,
            "target": self.target,
            "measure": self.measure,
            "value": self.value,
            **self.facts,
        }


@dataclass(frozen=True)
class Table:
    """Texts in rows; the first column names the rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Series:
    """Numbers of one chart with one name; None leaves a gap."""

    name: str
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A figure as data."""

    kind: Literal["bars", "lines", "heat", "intervals"]
    title: str
    places: tuple[str, ...]
    """What stands along the axis; of `heat` the columns, its series are the rows."""
    series: tuple[Series, ...]
    value: str
    """What the numbers are."""
    place: str = ""
    """What the places are."""


@dataclass(frozen=True)
class Findings:
    """Everything that one experiment found."""

    readings: tuple[Reading, ...]
    tables: tuple[Table, ...]
    chart: Chart | None = None
    answers: tuple[str, ...] = ()
    """What came out, in sentences that follow from the readings by rule."""
    left_out: tuple[tuple[str, str], ...] = ()
    """What was not measured, and why."""


def scaled(measure: str, value: float | None) -> float | None:
    """The value in the unit of tables: shares and scores times 100."""
    if value is None or measure == "neurons":
        return value
    return 100 * value if METRICS[Measure.of(measure).metric].unit in _SCALED else value


def unit(measure: str) -> str:
    """The unit of tables."""
    return "" if measure == "neurons" else METRICS[Measure.of(measure).metric].unit


def shown(measure: str, value: float | None, *, signed: bool = False) -> str:
    """The value as a text, in the unit of tables."""
    number = scaled(measure, value)
    if number is None:
        return UNDEFINED
    sign = "+" if signed else ""
    if measure == "neurons" or unit(measure) in _SCALED:
        text = f"{number:{sign}.1f}"
    else:
        text = f"{number:{sign}.2f}" if abs(number) < _LARGE else f"{number:{sign}.1e}"
    return text.lstrip("+-") if not float(text) else text


def with_spread(reading: Reading | None) -> str:
    """Value ± standard deviation over trials."""
    if reading is None:
        return UNDEFINED
    text = shown(reading.measure, reading.value)
    deviation = reading.facts.get("sd_over_trials")
    return text if deviation is None else f"{text} ± {shown(reading.measure, deviation)}"


def change(reading: Reading | None) -> str:
    """The difference to the original with its interval; a star where it is significant."""
    if reading is None or reading.facts.get("difference") is None:
        return UNDEFINED
    facts = reading.facts
    text = shown(reading.measure, facts["difference"], signed=True)
    if facts.get("low") is not None:
        low, high = (shown(reading.measure, facts[end], signed=True) for end in ("low", "high"))
        text = f"{text} ({low} to {high})"
    return f"{text} *" if facts.get("verdict") in ("improved", "worse") else text


def measures_together(readings: Sequence[Reading]) -> tuple[str, ...]:
    """The measures of several readings, once each, in their order."""
    return tuple(dict.fromkeys(reading.measure for reading in readings))
