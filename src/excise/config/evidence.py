"""How patches are examined and differences judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.config.section import Section


class DissectionConfig(Section):
    """How excised neurons are examined (docs/dissection.md)."""

    resamples: int = Field(default=500, ge=1)
    """Resamples of find instances and instructions, as many again of templates."""
    neurons: int = Field(default=50, ge=1)
    """Neurons that are measured one by one and looked at per token: those of the highest scores."""
    objective: Literal["auto", "accuracy", "log_share"] = "auto"
    """What the smallest set must keep on the tune split: accuracy, or the mean log share of the
    gold option in nats. `auto`: what the run's method maximised."""
    tolerance: float = Field(default=0.01, ge=0)
    """How much of the objective the smallest set may lose."""
    tune_instances: int | None = Field(default=None, ge=1)
    """Tune instances asked; as many as the run's own by default."""
    tune_instructions: int | None = Field(default=None, ge=1)
    """Instructions under which they are asked; the run's by default."""
    evaluations: int = Field(default=400, ge=1)
    """Sets of neurons that the search for the smallest one may measure, at most."""
    items: int = Field(default=40, ge=0)
    """Test items of each task whose tokens are looked at for the report, changed answers first."""
    memory: int = Field(default=200, ge=1)
    """Megabytes of scores per prompt; neurons that do not fit are left out, lowest scores first."""


class StatisticsConfig(Section):
    """How differences are judged (docs/statistics.md)."""

    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of intervals; a corrected p-value of at most 1 - level is significant."""
    margin: float = Field(default=0.02, ge=0)
    """Largest loss that counts as none: a share or score (0.02 is two points); for metrics without
    a fixed range, as perplexity, a share of the original's value."""
    correction: Literal["holm", "none"] = "holm"
    """Correction for the number of tests: over all tasks and metrics of a run, or none."""
    power: float = Field(default=0.8, ge=0.5, lt=1)
    """Probability with which the smallest detectable change would be shown."""
