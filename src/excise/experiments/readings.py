"""States of a model read on tasks: values, paired differences and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from excise.errors import ExciseError, NonFiniteError
from excise.experiments.definition import Measure
from excise.experiments.findings import Reading
from excise.experiments.fits import ORIGINAL, Fit
from excise.experiments.lab import Lab, Questions
from excise.metrics import METRICS, Metric, metrics_of, spread, value
from excise.results import to_judge
from excise.statistics import (
    Measured,
    Pair,
    PooledEstimate,
    bootstrap,
    judged,
    pooled_difference,
)
from excise.types import Answers


@dataclass(frozen=True)
class Judged:
    """A reading, with the difference behind it where there is one to be judged."""

    reading: Reading
    difference: PooledEstimate | None = None
    metric: Metric | None = None


def measures_of(questions: Questions, texts: Sequence[str]) -> list[Measure]:
    """Those of the measures that a task defines; all are well-formed names."""
    applies = {metric.name for metric in metrics_of(questions.task)}
    return [m for m in map(Measure.of, texts) if m.metric in applies]


def read(
    lab: Lab,
    fits: Sequence[Fit],
    questions: Questions,
    measures: Sequence[str],
    *,
    target: str,
    state: str = "",
    **facts: Any,
) -> list[Judged]:
    """Ask one state in all its trials, and read what applies.

    Args:
        lab: the model.
        fits: the trials of one method on one task, at least one.
        questions: what is asked.
        measures: what is read, see `Measure`; those that the task does not define are left out.
        target: the task as the definition names it.
        state: what the state is called; the method's name by default.
        facts: further facts of every reading.
    """
    method = fits[0].method
    original = lab.answers(Fit(ORIGINAL, target, 0, questions.config), questions)
    given = [original] if method == ORIGINAL else [lab.answers(fit, questions) for fit in fits]
    common = {
        "fitted_on": None if method == ORIGINAL else fits[0].task,
        "asked": questions.task.name,
        "items": len(questions.items),
        "instructions": len(questions.instructions),
        "trials": len(given),
        **facts,
    }
    found = []
    for measure in measures_of(questions, measures):
        values = [_value(measure, answers) for answers in given]
        defined = [number for number in values if number is not None]
        row: dict[str, Any] = dict(common)
        row["sd_over_trials"] = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
        mean = float(np.mean(defined)) if len(defined) == len(values) else None
        if method == ORIGINAL:
            row |= _interval(lab, measure, original)
        entry = Judged(Reading(state or method, target, measure.text, mean, row))
        if method != ORIGINAL and mean is not None:
            entry = _compared(lab, entry, measure, original, given)
        found.append(entry)
    return found


def with_verdicts(lab: Lab, entries: Sequence[Judged]) -> tuple[Reading, ...]:
    """The readings with their verdicts, p-values corrected for each other."""
    settings = lab.config.statistics
    tested = [entry for entry in entries if entry.difference is not None]
    said = judged(
        [_to_judge(lab, entry) for entry in tested],
        correction=settings.correction,
        power=settings.power,
    )
    verdicts = {id(entry): found for entry, found in zip(tested, said, strict=True)}
    readings = []
    for entry in entries:
        found = verdicts.get(id(entry))
        if found is None:
            readings.append(entry.reading)
            continue
        more = {
            name: getattr(found, name)
            for name in ("gain", "gain_low", "gain_high", "p_value", "p_adjusted", "verdict")
        }
        readings.append(replace(entry.reading, facts={**entry.reading.facts, **more}))
    return tuple(readings)


def neurons(lab: Lab, fits: Sequence[Fit], *, target: str, **facts: Any) -> Judged:
    """How many neurons a method excised, mean over trials.

    Raises:
        NotApplicableError: the method excises none.
    """
    sizes = [len(lab.patch(fit)) for fit in fits]
    row = {
        "fitted_on": fits[0].task,
        "asked": lab.task(target).name,
        "trials": len(sizes),
        "in_each_trial": sizes,
        "share_of_neurons": float(np.mean(sizes)) / lab.loaded.n_neurons,
        "sd_over_trials": float(np.std(sizes, ddof=1)) if len(sizes) > 1 else None,
        **facts,
    }
    return Judged(Reading(fits[0].method, target, "neurons", float(np.mean(sizes)), row))


def reason(error: ExciseError) -> str:
    """Why something was left out, as one line."""
    return " ".join(str(error).split())


def _to_judge(lab: Lab, entry: Judged) -> Measured:
    assert entry.difference is not None
    assert entry.metric is not None
    reading = entry.reading
    family = (
        reading.state,
        reading.facts.get("fitted_on"),
        reading.target,
        reading.facts.get("at"),
    )
    return to_judge(entry.metric, entry.difference, lab.config.statistics, family=family)


def _compared(
    lab: Lab, entry: Judged, measure: Measure, original: Answers, given: Sequence[Answers]
) -> Judged:
    reading, metric = entry.reading, METRICS[measure.metric]
    before = _value(measure, original)
    if before is None or reading.value is None:
        return entry
    facts = {**reading.facts, "original": before, "difference": reading.value - before}
    if measure.statistic == "spread" or measure.group:
        return Judged(replace(reading, facts=facts))
    found = pooled_difference(
        metric.function,
        [Pair(original, answers, reading.target) for answers in given],
        metric_name=metric.name,
        n_resamples=lab.config.resamples,
        level=lab.config.statistics.level,
        seed=lab.config.seed,
        ideal=metric.ideal,
    )
    facts |= {"difference": found.difference, "low": found.low, "high": found.high}
    facts["level"] = lab.config.statistics.level
    return Judged(replace(reading, facts=facts), found, metric)


def _interval(lab: Lab, measure: Measure, answers: Answers) -> dict[str, float | None]:
    """Where the original's own value lies, over templates."""
    metric = METRICS[measure.metric]
    if measure.statistic == "spread" or measure.group or _value(measure, answers) is None:
        return {}
    found = bootstrap(
        metric.function,
        answers,
        n_resamples=lab.config.resamples,
        level=lab.config.statistics.level,
        seed=lab.config.seed,
    )
    if found is None:
        return {}
    level = lab.config.statistics.level
    return {"value_low": found.low, "value_high": found.high, "level": level}


def _value(measure: Measure, answers: Answers) -> float | None:
    metric = METRICS[measure.metric]
    try:
        if measure.statistic == "spread":
            return spread(metric, answers)
        if not measure.group:
            return value(metric, answers)
        inside = [float(item.group == measure.group) for item in answers.instances]
        return value(metric, answers, np.array(inside, dtype=np.float64))
    except NonFiniteError:
        return None
