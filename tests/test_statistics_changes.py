"""What kind of answers changed, counted by hand; and the verdicts of a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from excise.config import RunConfig
from excise.evidence import results_record
from excise.metrics import CHOICE
from excise.patches import Patch
from excise.results import POOLED, RunResult, TaskResult, TrialResult
from excise.statistics import Pair, changes
from excise.types import Instance, Predictions, Split

# Options of every item: 0 "unknown", 1 with the stereotype, 2 against it.
UNKNOWN, WITH, AGAINST = 0, 1, 2


def asked(choices: list[list[int]], golds: list[int], n_templates: int = 4) -> Predictions:
    """Answers under several instructions; an item whose gold is "unknown" is ambiguous."""
    instances = tuple(
        Instance(
            id=str(number),
            fields={},
            options=("unknown", "with", "against"),
            gold=gold,
            template=f"t{number % n_templates}",
            block=str(number),
            condition="ambiguous" if gold == UNKNOWN else "disambiguated",
            unknown=UNKNOWN,
            stereotyped=WITH,
        )
        for number, gold in enumerate(golds)
    )
    names = tuple(f"wording {i}" for i in range(len(choices)))
    return Predictions(instances, names, np.array(choices))


GOLDS = [UNKNOWN, UNKNOWN, UNKNOWN, WITH, AGAINST, AGAINST]
BEFORE = asked([[WITH, AGAINST, UNKNOWN, WITH, WITH, AGAINST]], GOLDS)
AFTER = asked([[UNKNOWN, UNKNOWN, AGAINST, UNKNOWN, AGAINST, UNKNOWN]], GOLDS)


def test_changes_by_hand() -> None:
    found = changes([Pair(BEFORE, AFTER, "task")], n_resamples=50)
    counted = {
        part: {name: of[name] for name in of if name not in ("from_to", "net")}
        for part, of in found.items()
    }
    assert counted == {
        "all": {
            "answers": 6,
            "changed": 6,
            "fixed": 3,
            "broken": 3,
            "kept_right": 0,
            "kept_wrong": 0,
            "fewer_stereotyped": 3,
            "more_anti_stereotyped": 0,
            "more_unknown": 3,
        },
        "ambiguous": {
            "answers": 3,
            "changed": 3,
            "fixed": 2,
            "broken": 1,
            "kept_right": 0,
            "kept_wrong": 0,
            "fewer_stereotyped": 1,
            "more_anti_stereotyped": 0,
            "more_unknown": 1,
        },
        "disambiguated": {
            "answers": 3,
            "changed": 3,
            "fixed": 1,
            "broken": 2,
            "kept_right": 0,
            "kept_wrong": 0,
            "fewer_stereotyped": 2,
            "more_anti_stereotyped": 0,
            "more_unknown": 2,
        },
    }
    moved = found["disambiguated"]["from_to"]
    assert moved["stereotyped"] == {
        "stereotyped": 0,
        "anti_stereotyped": 1,
        "unknown": 1,
        "other": 0,
    }
    assert moved["anti_stereotyped"]["unknown"] == 1
    net = found["all"]["net"]["unknown"]
    assert (net["original"], net["patched"]) == pytest.approx((1 / 6, 4 / 6))
    assert net["difference"] == pytest.approx(0.5)
    assert net["low"] <= 0.5 <= net["high"]


def test_trials_and_instructions_are_counted_and_unchanged_answers_kept() -> None:
    same = asked([[UNKNOWN, WITH]] * 2, [UNKNOWN, AGAINST])
    found = changes([Pair(same, same, "task")] * 3, n_resamples=20)["all"]
    assert (found["answers"], found["changed"]) == (12, 0)
    assert (found["kept_right"], found["kept_wrong"]) == (6, 6)
    assert found["net"]["unknown"]["difference"] == 0.0


def test_answers_that_match_nothing_or_have_no_annotation_are_other() -> None:
    before, after = asked([[-1, UNKNOWN]], [WITH, WITH]), asked([[WITH, -1]], [WITH, WITH])
    found = changes([Pair(before, after, "task")], n_resamples=20)
    assert "ambiguous" not in found
    assert found["all"]["from_to"]["other"]["stereotyped"] == 1
    assert found["all"]["from_to"]["unknown"]["other"] == 1
    bare = tuple(replace(i, stereotyped=None, unknown=None) for i in before.instances)
    one, other = replace(before, instances=bare), replace(after, instances=bare)
    found = changes([Pair(one, other, "task")], n_resamples=20)
    assert found["all"]["from_to"]["other"]["other"] == 2
    assert found["all"]["fewer_stereotyped"] == 0


# --- a whole run ----------------------------------------------------------------------------------

N_TEMPLATES = 12


def half_right(name: str, patched_unknown: bool, trials: int = 1, controls: int = 2) -> TaskResult:
    """Every answer with the stereotype; the patched model says "unknown" to all, or the same."""
    golds = [UNKNOWN if n % 2 else AGAINST for n in range(4 * N_TEMPLATES)]
    # Both kinds of context in every template.
    original = asked([[WITH] * len(golds)], golds, n_templates=1)
    instances = tuple(
        replace(instance, template=f"{name}-{n // 4}", id=f"{name}-{n}")
        for n, instance in enumerate(original.instances)
    )
    original = replace(original, instances=instances)
    choice = np.full_like(original.choice, UNKNOWN if patched_unknown else WITH)
    patched = replace(original, choice=choice)
    split = Split((), (), instances, "template")
    patch = Patch((), (), base_model="m", base_digest="d")
    made = [
        TrialResult(n, split, None, patch, (), {}, original, patched, (original,) * controls)
        for n in range(trials)
    ]
    return TaskResult(name, "licence", "citation", "digest", CHOICE, tuple(made))


def run(*tasks: TaskResult, **options: Any) -> RunResult:
    config = RunConfig(tasks=tuple(task.task for task in tasks), resamples=200, **options)
    return RunResult(config, "m", "d", 10, tasks, Patch((), (), base_model="m", base_digest="d"))


def test_a_model_that_abstains_improves_and_is_found_out() -> None:
    result = run(half_right("one", patched_unknown=True))
    rows = {row.metric: row for row in result.paired["one"]}
    # All twelve templates go one way: 2 / 2**12. Tests that count: accuracy, its ambiguous half
    # (whose twin is `unknown_ambiguous`), and `unknown_disambiguated`; nothing else changed.
    assert rows["accuracy"].p_value == 2 / 2**12
    assert rows["accuracy"].n_tests == 3
    assert rows["accuracy"].p_adjusted == pytest.approx(6 / 2**12)
    assert rows["accuracy_ambiguous"].verdict == "improved"
    assert rows["accuracy_disambiguated"].verdict == "not worse by more than 2 points"
    assert rows["unknown_disambiguated"].verdict == "worse"
    assert rows["accuracy"].control_position == 1.0
    assert rows["accuracy"].n_controls == 2
    assert rows["unmatched"].control_position == 0.0
    over = result.changes["one"]["over_abstention"]
    assert (over["verdict"], over["difference"]) == ("worse", 1.0)
    assert over["right_before"] == 0
    assert result.changes["one"]["all"]["more_unknown"] == 4 * N_TEMPLATES


def test_the_correction_runs_over_all_tasks_and_their_mean() -> None:
    one, two = half_right("one", patched_unknown=True), half_right("two", patched_unknown=True)
    result = run(one, two)
    assert set(result.paired) == {"one", "two", POOLED}
    assert {row.n_tests for rows in result.paired.values() for row in rows} == {9}
    assert result.estimates([two]) == list(result.paired["two"])
    assert result.estimates() == list(result.paired[POOLED])
    pooled = next(row for row in result.estimates() if row.metric == "accuracy")
    assert pooled.p_value == 2 / 2**24
    assert pooled.n_clusters == 24


def test_settings_reach_the_verdict() -> None:
    task = half_right("one", patched_unknown=True)
    none = run(task, statistics={"correction": "none", "margin": 0.1, "level": 0.9})
    rows = {row.metric: row for row in none.paired["one"]}
    assert rows["accuracy"].p_adjusted == rows["accuracy"].p_value
    assert rows["accuracy"].level == 0.9
    assert rows["accuracy_disambiguated"].verdict == "not worse by more than 10 points"
    strict = run(task, statistics={"level": 0.9999})
    assert {row.verdict for row in strict.paired["one"]} <= {
        "no evidence",
        "not worse by more than 2 points",
    }


def test_results_json_holds_tests_verdicts_and_changes() -> None:
    record = results_record(run(half_right("one", patched_unknown=True)))
    row = next(r for r in record["paired"]["one"] if r["metric"] == "accuracy")
    assert {
        *("p_value", "p_adjusted", "test", "minimum_detectable", "control_position"),
        *("n_controls", "verdict", "verdict_text", "gain", "margin", "n_tests"),
    } <= row.keys()
    assert row["test"] == "exact sign-flip test over templates"
    assert set(record["changes"]["one"]) == {
        *("all", "ambiguous", "disambiguated", "over_abstention"),
    }
    json.dumps(record["changes"], allow_nan=False)
    json.dumps(record["paired"], allow_nan=False)


def test_a_patch_that_changes_nothing_says_so() -> None:
    result = run(half_right("one", patched_unknown=False))
    rows = {row.metric: row for row in result.paired["one"]}
    assert rows["accuracy"].verdict == "not worse by more than 2 points"
    assert "no change; no template changed" in rows["accuracy"].verdict_text
    assert result.changes["one"]["over_abstention"]["verdict"] == "not worse by more than 2 points"
