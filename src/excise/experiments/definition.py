"""What an experiment is: a declaration that one of a few kinds carries out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from excise.config.section import Section
from excise.errors import ConfigError
from excise.metrics import METRICS, metric_named

if TYPE_CHECKING:
    from excise.experiments.findings import Findings
    from excise.experiments.lab import Lab

Scale = Literal["small", "paper"]
Options = Mapping[str, Any]
"""Options of a configuration, nested by section, as in a configuration file."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What is read off a task: a metric, its spread over instructions, or its value in a group."""

    metric: str
    statistic: Literal["value", "spread"] = "value"
    group: str = ""

    @classmethod
    def of(cls, text: str) -> Measure:
        """Read `metric`, `metric:spread` or `metric@group`.

        Raises:
            UnknownNameError: no metric has that name.
            ConfigError: another statistic.
        """
        name, _, group = text.partition("@")
        name, _, statistic = name.partition(":")
        metric_named(name)
        if statistic not in ("", "spread"):
            raise ConfigError(f"measure {text!r}: after the colon stands spread, or nothing.")
        return cls(name, "spread" if statistic else "value", group)

    @property
    def text(self) -> str:
        """As it is written in a definition."""
        spread = ":spread" if self.statistic == "spread" else ""
        group = f"@{self.group}" if self.group else ""
        return f"{self.metric}{spread}{group}"

    @property
    def title(self) -> str:
        """For tables."""
        name = METRICS[self.metric].title
        if self.statistic == "spread":
            name = f"{name}, sd over instructions"
        return f"{name} ({self.group})" if self.group else name


class Definition(Section, ABC):
    """An experiment, whatever its kind."""

    name: str = ""
    """The file's name without its ending."""
    title: str
    question: str
    """What it asks, in a sentence."""
    source: str
    """The table, figure or question that it follows."""
    kind: str
    preset: str = "v2"
    options: Options = Field(default_factory=dict)
    """Options of the configuration that it decides."""
    notes: tuple[str, ...] = ()
    """What a reader has to know to compare with the source."""

    @property
    def told(self) -> tuple[str, ...]:
        """What its kind does here, in a line or two for the page."""
        return ()

    @abstractmethod
    def measure(self, lab: Lab) -> Findings:
        """Carry it out.

        Raises:
            NotApplicableError: the model, or this machine, lacks what it needs.
            ExciseError: see `excise.errors`.
        """


class NotApplicableError(ConfigError):
    """An experiment, or a part of one, that cannot be done here; the message is the reason."""
