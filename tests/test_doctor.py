"""Oracle responders: every metric is covered, every value holds, and broken code is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_models import excise
from excise import metrics as registry
from excise.doctor import (
    RESPONDERS,
    Check,
    Oracle,
    Undefined,
    environment,
    examine,
    oracles,
    unchecked,
)
from excise.errors import ConfigError, UnknownNameError
from excise.metrics import METRICS, accuracy, judged, stereoset
from excise.metrics.metric import share
from excise.models import loading
from excise.sources import SOURCES
from excise.types import Continuations, FloatArray, Predictions, Readings

Function = Callable[[Any, FloatArray], FloatArray]


@cache
def responders() -> tuple[Oracle, ...]:
    return oracles()


def about(name: str) -> list[Oracle]:
    """The responders that a metric applies to, with nothing else to compute."""
    return [
        replace(oracle, expected={name: oracle.expected[name]})
        for oracle in responders()
        if name in oracle.expected
    ]


def deviating(checks: tuple[Check, ...]) -> dict[str, set[str]]:
    """Metric -> responders whose value is not the expected one."""
    found: dict[str, set[str]] = {}
    for check in checks:
        if not check.as_expected:
            found.setdefault(check.metric, set()).add(check.responder)
    return found


# --- what holds -----------------------------------------------------------------------------------


def test_every_value_is_as_expected() -> None:
    checks = examine(responders())
    assert deviating(checks) == {}
    assert len(checks) > 700


def test_every_metric_has_a_responder_with_a_defined_value() -> None:
    """A new metric needs an expectation in `excise.doctor`."""
    assert unchecked(examine(responders())) == ()
    some = [check for check in examine(responders()) if check.metric != "f1"]
    assert unchecked(some) == ("f1",)


def test_every_metric_has_a_responder_for_which_it_is_undefined() -> None:
    undefined = {c.metric for c in examine(responders()) if isinstance(c.expected, Undefined)}
    assert undefined == set(METRICS)


def test_expected_values_lie_in_the_range_of_their_metric_and_differ() -> None:
    for name, metric in METRICS.items():
        expected = [oracle.expected[name] for oracle in about(name)]
        values = {value for value in expected if not isinstance(value, Undefined)}
        assert all(metric.low <= value <= metric.high for value in values), name
        assert len(values) > 1, f"{name}: a constant could pass"


def test_responders_of_a_benchmark_answer_to_the_same_metrics() -> None:
    for benchmark in {oracle.benchmark for oracle in responders()}:
        some = [oracle for oracle in responders() if oracle.benchmark == benchmark]
        assert len({tuple(oracle.expected) for oracle in some}) == 1, benchmark
        names = [oracle.responder for oracle in some]
        assert len(set(names)) == len(names), benchmark
        assert set(names) <= set(RESPONDERS)
    assert {oracle.responder for oracle in responders()} == set(RESPONDERS)


def test_synthetic_items_are_distinct() -> None:
    for oracle in responders():
        ids = [item.id for item in oracle.answers.instances]
        assert len(set(ids)) == len(ids)


# --- what is reported -----------------------------------------------------------------------------


def check(expected: float | Undefined, found: float | None, error: str = "") -> Check:
    return Check("benchmark", "responder", "accuracy", expected, found, error)


@pytest.mark.parametrize(
    ("made", "as_expected"),
    [
        (check(0.5, 0.5), True),
        (check(0.5, 0.5 + 9e-10), True),
        (check(0.5, 0.5 + 2e-9), False),
        (check(0.5, None), False),
        (check(Undefined("nothing"), None), True),
        (check(Undefined("nothing"), 0.0), False),
        (check(Undefined("nothing"), None, "ValueError: broken"), False),
        (check(0.5, 0.5, "ValueError: broken"), False),
    ],
)
def test_values_are_compared_within_the_tolerance(made: Check, as_expected: bool) -> None:
    assert made.as_expected is as_expected


def test_an_oracle_of_an_unknown_metric_is_a_mistake() -> None:
    made = replace(responders()[0], expected={"acuracy": 1.0})
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        examine([made])


def breaking(monkeypatch: pytest.MonkeyPatch, name: str, function: Function) -> None:
    broken = {**METRICS, name: replace(METRICS[name], function=function)}
    monkeypatch.setattr(registry, "METRICS", broken)


def fails(answers: object, weights: FloatArray) -> FloatArray:
    raise ZeroDivisionError("no\ngroups")


def test_a_metric_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "accuracy", fails)
    checks = [c for c in examine(responders()) if not c.as_expected]
    assert {c.metric for c in checks} == {"accuracy"}
    assert {c.error for c in checks} == {"ZeroDivisionError: no groups"}
    breaking(monkeypatch, "accuracy", lambda answers, weights: np.full((len(weights), 1), inf))
    (first, *_) = [c for c in examine(responders()) if not c.as_expected]
    assert (first.found, first.error) == (None, "the value is inf")


@pytest.mark.parametrize("name", METRICS)
def test_general_mistakes_of_every_metric_are_reported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = METRICS[name].function
    low, high = METRICS[name].low, min(METRICS[name].high, 1e6)

    def with_zero(answers: Any, weights: FloatArray) -> FloatArray:
        return np.nan_to_num(inner(answers, weights), nan=0.0)

    def off_by_little(answers: Any, weights: FloatArray) -> FloatArray:
        return inner(answers, weights) + 1e-8

    def reversed_(answers: Any, weights: FloatArray) -> FloatArray:
        return low + high - inner(answers, weights)

    def without_weights(answers: Any, weights: FloatArray) -> FloatArray:
        return inner(answers, np.ones_like(weights))

    def best_case(answers: Any, weights: FloatArray) -> FloatArray:
        return np.where(np.isnan(inner(answers, weights)), nan, low)

    for function in (with_zero, off_by_little, reversed_, without_weights, best_case):
        breaking(monkeypatch, name, function)
        assert deviating(examine(about(name))), function.__name__


def _all(answers: Any) -> Any:
    return np.ones(len(answers.instances), dtype=np.bool_)


def _unmatched_left_out(p: Predictions, weights: FloatArray) -> FloatArray:
    return share(p.choice == p.gold, p.choice >= 0, weights)


def _unmatched_as_unknown(p: Predictions, weights: FloatArray) -> FloatArray:
    counted = p.ambiguous & (p.unknown >= 0)
    return share((p.choice == p.unknown) | (p.choice < 0), counted, weights)


def _no_unknown_option_counts(p: Predictions, weights: FloatArray) -> FloatArray:
    return share(p.choice == p.unknown, p.disambiguated, weights)


def _lean(p: Predictions, weights: FloatArray, among: Any) -> FloatArray:
    sides = among & (p.choice != p.unknown)
    return 2 * share(p.choice == p.stereotyped, sides, weights) - 1


def _without_accuracy(p: Predictions, weights: FloatArray) -> FloatArray:
    return _lean(p, weights, p.ambiguous & (p.stereotyped >= 0) & (p.choice >= 0))


def _unannotated_count(p: Predictions, weights: FloatArray) -> FloatArray:
    among = p.ambiguous & (p.choice >= 0)
    return (1 - share(p.choice == p.gold, among, weights)) * _lean(p, weights, among)


def _accuracy_of_all(p: Predictions, weights: FloatArray) -> FloatArray:
    right = share(p.choice == p.gold, p.ambiguous & (p.stereotyped >= 0), weights)
    return (1 - right) * _without_accuracy(p, weights)


def _polarity_ignored(p: Predictions, weights: FloatArray) -> FloatArray:
    target = np.array([i.options.index("The grandfather") for i in p.instances])
    other = replace(
        p,
        instances=tuple(
            replace(i, stereotyped=None if i.stereotyped is None else int(t))
            for i, t in zip(p.instances, target, strict=True)
        ),
    )
    return METRICS["s_dis"].function(other, weights)


def _f1_of_the_other_class(p: Predictions, weights: FloatArray) -> FloatArray:
    said, true = p.choice == 1, np.broadcast_to(p.gold == 1, p.choice.shape)
    both = said.astype(float) + true
    return np.asarray(2 * (weights @ (said & true).T) / np.maximum(weights @ both.T, 1e-9))


def _compared_in_total(p: Predictions, weights: FloatArray) -> FloatArray:
    return stereoset.ss(replace(p, compared=p.log_likelihood), weights)


def _ties_are_stereotypes(p: Predictions, weights: FloatArray) -> FloatArray:
    if p.compared is None:
        return np.full((len(weights), 1), nan)
    shifted = p.compared + 1e-9 * (np.arange(3) == p.stereotyped[:, None])
    return stereoset.ss(replace(p, compared=shifted), weights)


def _icat_per_target(p: Predictions, weights: FloatArray) -> FloatArray:
    parts = []
    for target in sorted(set(p.templates)):
        some = weights * [name == target for name in p.templates]
        parts.append(stereoset.icat(p, some))
    return np.mean(parts, axis=0)


def _ties_left_out(p: Predictions, weights: FloatArray) -> FloatArray:
    if p.compared is None:
        return np.full((len(weights), 1), nan)
    more = np.take_along_axis(p.compared, p.stereotyped[None, :, None], -1)[..., 0]
    less = p.compared.sum(-1) - more
    return share(more > less, more != less, weights)


def _ties_in_directions(p: Predictions, weights: FloatArray) -> FloatArray:
    own = np.array([i.fields["direction"] == "antistereo" for i in p.instances])
    return METRICS["crows_pairs"].function(p, weights * own)


def _absolute_gap(p: Predictions, weights: FloatArray) -> FloatArray:
    return np.abs(METRICS["winobias_gap"].function(p, weights))


def _unmatched_as_against(p: Predictions, weights: FloatArray) -> FloatArray:
    return share(p.choice == p.stereotyped, p.stereotyped >= 0, weights)


def _mean_of_groups(label: str, c: Continuations, weights: FloatArray) -> FloatArray:
    groups = sorted(set(c.groups))
    parts = [judged.mean(label, c, weights * [g == name for g in c.groups]) for name in groups]
    return np.mean(parts, axis=0)


def _strictly_above(c: Continuations, weights: FloatArray) -> FloatArray:
    if "toxicity" not in c.scores:
        return np.full((len(weights), 1), nan)
    above = (c.scores["toxicity"] > 0.5).mean(axis=1)
    return np.asarray((weights @ above / np.where(weights.sum(1), weights.sum(1), nan))[:, None])


def _mean_of_passages(r: Readings, weights: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        each = np.exp(-r.log_likelihood / r.n_tokens)
        return np.asarray((weights @ each / weights.sum(axis=1))[:, None])


@pytest.mark.parametrize(
    ("name", "function", "responder"),
    [
        ("accuracy", _unmatched_left_out, "half empty"),
        ("unknown_ambiguous", _unmatched_as_unknown, "empty"),
        ("unknown_disambiguated", _no_unknown_option_counts, "verbose"),
        ("s_amb", _without_accuracy, "mixed"),
        ("s_amb", _unannotated_count, "stereotyped"),
        ("s_amb", METRICS["s_dis"].function, "mixed"),
        ("s_dis", _polarity_ignored, "stereotyped"),
        ("accuracy_ambiguous", accuracy.accuracy, "stereotyped"),
        ("f1", _f1_of_the_other_class, "first"),
        ("f1", accuracy.accuracy, "mixed"),
        ("gold_share", METRICS["gold_probability"].function, "perfect"),
        ("stereoset_ss", stereoset.ss_micro, "mixed"),
        ("stereoset_ss_micro", stereoset.ss, "mixed"),
        ("stereoset_lms", stereoset.lms_micro, "mixed"),
        ("stereoset_icat", _icat_per_target, "mixed"),
        ("stereoset_ss", _compared_in_total, "stereotyped"),
        ("stereoset_ss", _ties_are_stereotypes, "indifferent"),
        ("choice_lms", METRICS["choice_lms_unparsed_as_unrelated"].function, "empty"),
        ("choice_lms_unparsed_as_unrelated", METRICS["choice_lms"].function, "mixed"),
        ("choice_icat", METRICS["stereoset_icat"].function, "perfect"),
        ("crows_pairs", _ties_left_out, "half tied"),
        ("crows_pairs", METRICS["crows_pairs_per_token"].function, "mixed"),
        ("crows_pairs_antistereo", _ties_in_directions, "indifferent"),
        ("winobias_pro", accuracy.accuracy, "stereotyped"),
        ("winobias_anti", METRICS["winobias_pro"].function, "mixed"),
        ("winobias_gap", _absolute_gap, "anti-stereo"),
        ("winobias_stereotyped", _unmatched_as_against, "half empty"),
        ("honest", partial(_mean_of_groups, "hurtful"), "stereotyped"),
        ("regard_other", partial(_mean_of_groups, "regard_other"), "half empty"),
        ("toxicity_ratio", _strictly_above, "mixed"),
        ("toxicity_expected_maximum", METRICS["toxicity_maximum"].function, "mixed"),
        ("toxicity_probability", METRICS["toxicity_ratio"].function, "uniform"),
        ("perplexity", _mean_of_passages, "mixed"),
    ],
)
def test_known_mistakes_are_reported_by_the_responder_that_shows_them(
    name: str, function: Function, responder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, name, function)
    found = deviating(examine(responders()))
    assert set(found) == {name}
    assert responder in found[name]


def test_an_accuracy_of_unmatched_answers_in_s_amb_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Half of the annotated ambiguous questions get no answer: they must not enter its accuracy.
    def taken_for_right(p: Predictions, weights: FloatArray) -> FloatArray:
        some = p.ambiguous & (p.stereotyped >= 0)
        right = share((p.choice == p.gold) | (p.choice < 0), some, weights)
        return (1 - right) * _without_accuracy(p, weights)

    breaking(monkeypatch, "s_amb", taken_for_right)
    assert "half empty" in deviating(examine(responders()))["s_amb"]


def found_in_text(answer: str, options: tuple[str, ...]) -> int:
    places = [n for n, option in enumerate(options) if option.lower() in answer.lower()]
    return places[0] if places else -1


def equal_as_it_stands(answer: str, options: tuple[str, ...]) -> int:
    return options.index(answer) if answer in options else -1


@pytest.mark.parametrize(
    ("place", "broken", "expected"),
    [
        # Matching of answers: a verbose or multi-word one must match nothing.
        (
            "excise.doctor.answering.match",
            found_in_text,
            {("accuracy", "verbose"), ("unmatched", "multi-word"), ("choice_unparsed", "verbose")},
        ),
        ("excise.doctor.answering.match", equal_as_it_stands, {("accuracy", "perfect")}),
        # Comparing options: by the wrong number, or the last of equals.
        (
            "excise.doctor.answering.normalised",
            lambda totals, n_tokens, n_bytes, by: totals,
            {("accuracy", "perfect"), ("stereoset_ss", "stereotyped")},
        ),
        (
            "excise.doctor.answering.likeliest",
            lambda compared: compared.shape[-1] - 1 - np.nanargmax(compared[..., ::-1], -1),
            set(),
        ),
        # Words of the lexicon: looked for inside of other words, or case ignored.
        (
            "excise.judges.lexicon._words",
            lambda text: [word for word in ("vipers",) if word in text.lower()],
            {("honest", "verbose")},
        ),
        # Only answers of a single word are looked up.
        ("excise.judges.lexicon._words", lambda text: [text], {("honest", "multi-word")}),
    ],
)
def test_mistakes_on_the_way_to_the_metrics_are_reported(
    place: str, broken: Any, expected: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, broken)
    found = deviating(examine(oracles()))
    assert all(responder in found.get(metric, ()) for metric, responder in expected)


def test_a_divergence_in_the_wrong_direction_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from excise.doctor import passages

    inner = passages.compared

    def turned(logits: Any, targets: Any, original: Any) -> tuple[float, float]:
        likely, _ = inner(logits, targets, None)
        if original is None:
            return likely, 0.0
        return likely, inner(original, targets, logits)[1]

    monkeypatch.setattr(passages, "compared", turned)
    assert deviating(examine(oracles())) == {"kl_divergence": {"uniform", "mixed"}}


def test_responders_and_benchmarks_are_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert [n for n, what in RESPONDERS.items() if f"| {n} | {what}" not in page] == []
    # "Yes or no" is asked in two ways, which share a line.
    names = {oracle.benchmark.removesuffix(", options scored") for oracle in responders()}
    names = {name.removesuffix(", answers in words") for name in names}
    assert [name for name in names if f"| {name}" not in page] == []


# --- this machine ---------------------------------------------------------------------------------


def states(**options: Any) -> dict[str, tuple[str, bool]]:
    return {f.name: (f.state, f.present) for f in environment(**options)}


def test_the_machine_is_described_without_loading_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXCISE_DATA", raising=False)
    families = {source.path.split("/")[0] for source in SOURCES}
    found = states()
    assert {f"data: {family}" for family in families} <= found.keys()
    assert found["torch"][1]
    assert found["transformers"][1]
    glue = [source for source in SOURCES if source.path.startswith("glue/")]
    for number, source in enumerate(glue):
        file = tmp_path / source.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("not looked at", encoding="utf-8")
        state, present = states(data_dir=tmp_path)["data: glue"]
        assert state.startswith(f"{number + 1} of {len(glue)} files, the first is {tmp_path}")
        assert present is (number + 1 == len(glue))


def test_the_default_model_is_looked_for_in_its_package_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "excise.doctor.machine"
    package = tmp_path / "some_model"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(f"{module}.DEFAULT_PACKAGE", "some_model")
    monkeypatch.setattr(f"{module}.try_to_load_from_cache", lambda name, file: None)
    assert states()["default model"] == (
        f"{loading.DEFAULT_MODEL}, not on this machine: loaded from the Hub",
        False,
    )
    monkeypatch.setattr(f"{module}.try_to_load_from_cache", lambda name, file: "/somewhere")
    assert states()["default model"] == (f"{loading.DEFAULT_MODEL}, in the Hub cache", True)
    (package / loading.DEFAULT_FILE).touch()
    assert states()["default model"][0].endswith("in package some_model")


def test_a_data_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        environment(tmp_path / "nowhere")


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [44, 80, 100, 200])
def test_doctor_prints_every_metric_and_ends_with_the_count(columns: int) -> None:
    done = excise("doctor", columns=columns)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    total = len(examine(responders()))
    assert lines[-1] == f"{total} of {total} values as expected"
    assert done.stdout.count("(!)") == 1  # the legend
    start = lines.index("Questions, options scored")
    assert all(len(line) <= columns for line in lines[start:])
    rows = {line.split()[0] for line in lines[start:] if line}
    assert set(METRICS) <= rows
    for responder in RESPONDERS:
        assert responder in done.stdout


def test_doctor_quiet_prints_the_count_only() -> None:
    total = len(examine(responders()))
    assert excise("doctor", "-q").stdout == f"{total} of {total} values as expected\n"


def test_doctor_as_json() -> None:
    document = json.loads(excise("doctor", "--json").stdout)
    assert document["as_expected"] == document["values"] == len(document["checks"])
    assert document["metrics_without_responder"] == []
    assert {line["what"] for line in document["machine"]} >= {"Python", "default model"}
    by_cell = {(c["benchmark"], c["responder"], c["metric"]): c for c in document["checks"]}
    mixed = by_cell["Three sentences, likelihoods compared", "mixed", "stereoset_ss"]
    assert (mixed["expected"], mixed["found"], mixed["as_expected"]) == (0.5, 0.5, True)
    silent = by_cell["Questions, answers in words", "empty", "s_amb"]
    assert (silent["expected"], silent["found"]) == (None, None)
    assert silent["why_undefined"] == "no answer matched an option"


def test_doctor_names_deviating_cells_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "stereoset_ss", stereoset.ss_micro)
    done = excise("doctor")
    assert done.exit_code == 1
    total = len(examine(responders()))
    assert done.stdout.splitlines()[-3:] == [
        "Deviates: stereoset_ss, responder mixed (Three sentences, likelihoods compared): "
        "expected 0.5, found 0.333333333333",
        "Deviates: stereoset_ss, responder half tied (Three sentences, likelihoods compared): "
        "expected 0.5, found 0.666666666667",
        f"{total - 2} of {total} values as expected",
    ]
    assert "33.3 (!)" in done.stdout
    quiet = excise("doctor", "--quiet")
    assert quiet.exit_code == 1
    assert len(quiet.stdout.splitlines()) == 3
    as_json = excise("doctor", "--json")
    assert as_json.exit_code == 1
    document = json.loads(as_json.stdout)
    assert document["as_expected"] == document["values"] - 2


def test_doctor_shows_a_metric_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "kl_divergence", fails)
    done = excise("doctor")
    assert done.exit_code == 1
    assert (
        "Deviates: kl_divergence, responder empty (Plain text): expected undefined (no token was "
        "scored), found ZeroDivisionError: no groups" in done.stdout
    )
    assert "error (!)" in done.stdout


def test_doctor_names_metrics_that_no_responder_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    some = tuple(o for o in responders() if "kl_divergence" not in o.expected)
    monkeypatch.setattr("excise.doctor.oracles", lambda: some)
    done = excise("doctor", "--quiet")
    assert done.exit_code == 0
    assert done.stdout.startswith("No responder checks: perplexity, bits_per_byte, kl_divergence\n")


def test_a_wrong_data_folder_is_one_line(tmp_path: Path) -> None:
    done = excise("doctor", "--data-dir", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is not a folder" in done.stderr
