"""Questions that are answered by measurement: the rule is fixed before the numbers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from excise.config.section import Section
from excise.experiments.definition import Definition, NotApplicableError
from excise.experiments.findings import Findings, Reading, Table, shown
from excise.experiments.fits import ORIGINAL
from excise.experiments.lab import Lab
from excise.experiments.readings import with_verdicts
from excise.experiments.states import (
    State,
    Target,
    chart_of,
    listed,
    read_states,
    tables_of,
)
from excise.experiments.words import level_of, named, title_of
from excise.metrics import METRICS

OWN = "own"
"""The role of a target that the states were fitted for."""
OTHERWISE = "generation"
"""The role of the same data asked in another way; a target of any other role is held out."""
HARM = {
    "s_amb",
    "s_dis",
    "nonalignment_cost",
    "accuracy_disambiguated",
    "unknown_disambiguated",
    "gold_probability_ambiguous",
    "gold_probability_disambiguated",
}
"""What may become worse while accuracy rises: bias scores, and the ability to use a context."""


class Question(Section):
    """One question, what is measured for it, and the rule that answers it."""

    title: str
    rule: Literal["symptom", "elsewhere", "enough"]
    """`symptom`: is anything better but what the states were fitted for? `elsewhere`: does the
    original's own value lie off its ideal? `enough`: where does accuracy rise while something
    else becomes worse?"""
    states: tuple[State, ...] = ()
    targets: tuple[Target, ...]


class Questions(Definition):
    """Several questions; p-values are corrected over all numbers of a question."""

    questions: tuple[Question, ...]
    not_measured: tuple[tuple[str, str], ...] = ()
    """What would belong here and is not there, with the reason."""

    @property
    def told(self) -> tuple[str, ...]:
        """The states of each question."""
        return tuple(
            f"{question.title} {listed(question.states)}"
            for question in self.questions
            if question.states
        )

    def measure(self, lab: Lab) -> Findings:
        """Measure everything, then apply the rules.

        Raises:
            NotApplicableError: not one target can be asked.
        """
        left_out = list(self.not_measured)
        readings: list[Reading] = []
        answers: list[str] = []
        tables: list[Table] = []
        chart = None
        for question in self.questions:
            entries, why = read_states(lab, question.states, question.targets, ask=question.title)
            left_out += [(f"{question.title} {what}", reason) for what, reason in why]
            own = with_verdicts(lab, entries)
            answers.append(f"**{question.title}** {answer(question.rule, own)}")
            readings += own
            tables += tables_of(own)
            chart = chart or chart_of(own, question.title)
        if not readings:
            raise NotApplicableError("; ".join(dict.fromkeys(why for _, why in left_out)))
        return Findings(tuple(readings), tuple(tables), chart, tuple(answers), tuple(left_out))


def answer(rule: str, readings: Sequence[Reading]) -> str:
    """The sentence that a rule gives.

    Args:
        rule: see `Question.rule`.
        readings: all that was measured for the question, with verdicts.
    """
    if not readings:
        return "Nothing could be measured here."
    return {"symptom": _symptom, "elsewhere": _elsewhere, "enough": _enough}[rule](readings)


def _symptom(readings: Sequence[Reading]) -> str:
    told = []
    for state in dict.fromkeys(r.state for r in readings if r.state != ORIGINAL):
        own = [r for r in readings if r.state == state]
        inside = [r for r in own if r.facts["role"] == OWN]
        otherwise = [r for r in own if r.facts["role"] == OTHERWISE]
        outside = [r for r in own if r.facts["role"] not in (OWN, OTHERWISE)]
        better, worse = _verdicts(outside, "improved"), _verdicts(outside, "worse")
        if not _verdicts(inside, "improved"):
            verdict = "nothing became better by more than chance even where it was fitted"
        elif not outside:
            verdict = "it became better where it was fitted; no other data could be asked"
        elif not better:
            verdict = "only what it was fitted on became better: a symptom, as far as seen"
        elif worse:
            verdict = "some held-out measures became better and others worse: mixed"
        else:
            verdict = "held-out measures became better, too: more than this benchmark's symptom"
        parts = [_counted(f"{len(inside)} own", inside)]
        if otherwise:
            parts.append(_counted(f"{len(otherwise)} with answers generated", otherwise))
        parts.append(_counted(f"{len(outside)} held out", outside))
        told.append(f"{state}: {verdict} ({'; '.join(parts)}).")
    return " ".join(told)


def _counted(what: str, readings: Sequence[Reading]) -> str:
    """How many measures became better and worse, and which."""
    parts = []
    for verdict in ("improved", "worse"):
        found = _verdicts(readings, verdict)
        named_ones = f" ({', '.join(map(_place, found))})" if found else ""
        parts.append(f"{len(found)} {verdict}{named_ones}")
    return f"of {what}: {', '.join(parts)}"


def _elsewhere(readings: Sequence[Reading]) -> str:
    own = [r for r in readings if r.state == ORIGINAL]
    shows, unclear, no_test = [], [], []
    for reading in own:
        ideal = METRICS[reading.measure].ideal
        low, high = reading.facts.get("value_low"), reading.facts.get("value_high")
        if isinstance(ideal, str) or low is None or high is None:
            no_test.append(reading)
        elif low <= ideal <= high:
            unclear.append(reading)
        else:
            shows.append(reading)
    parts = [
        f"{len(shows)} of {len(shows) + len(unclear)} measures that have a neutral value lie off "
        f"it by more than chance ({level_of(readings)} interval)"
    ]
    if shows:
        parts.append(f"off it: {', '.join(map(_valued, shows))}")
    if unclear:
        parts.append(f"no evidence: {', '.join(map(_valued, unclear))}")
    if no_test:
        parts.append(f"without a neutral value to test: {', '.join(map(_valued, no_test))}")
    return "; ".join(parts) + "."


def _enough(readings: Sequence[Reading]) -> str:
    rises, cases, shown_cases = 0, [], 0
    for reading in readings:
        if reading.measure != "accuracy" or (reading.facts.get("gain") or 0) <= 0:
            continue
        rises += 1
        worse = [
            r
            for r in readings
            if (r.state, r.target) == (reading.state, reading.target)
            and r.measure in HARM
            and (r.facts.get("gain") or 0) < 0
        ]
        if worse:
            certain = _verdicts(worse, "worse")
            shown_cases += bool(certain)
            cases.append(
                f"{reading.state} on {named([reading], reading.target)} ({_change(reading)}; but "
                f"{', '.join(map(_change, worse))})"
            )
    if not rises:
        return "No state raised accuracy here, so there is no case to look at."
    verdict = "Accuracy alone is not enough" if cases else "Accuracy alone hid nothing here"
    listed = f": {'; '.join(cases)}" if cases else ""
    return (
        f"{verdict}: of {rises} rises of accuracy {len(cases)} came with a bias score or an "
        f"ability that is worse, {shown_cases} of them by more than chance{listed}."
    )


def _verdicts(readings: Sequence[Reading], verdict: str) -> list[Reading]:
    return [r for r in readings if r.facts.get("verdict") == verdict]


def _place(reading: Reading) -> str:
    return f"{title_of(reading.measure)} on {named([reading], reading.target)}"


def _valued(reading: Reading) -> str:
    return f"{_place(reading)} {shown(reading.measure, reading.value)}"


def _change(reading: Reading) -> str:
    difference = shown(reading.measure, reading.facts.get("difference"), signed=True)
    star = " *" if reading.facts.get("verdict") in ("improved", "worse") else ""
    return f"{title_of(reading.measure)} {difference}{star}"
