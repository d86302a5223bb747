"""Rules, tables and charts of experiments on numbers made by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from excise.experiments.definition import Measure
from excise.experiments.figure import draw
from excise.experiments.findings import (
    Chart,
    Reading,
    Series,
    Table,
    change,
    shown,
    with_spread,
)
from excise.experiments.kinds.benchmarks import training
from excise.experiments.kinds.matrix import _heat
from excise.experiments.kinds.places import _share, _thirds
from excise.experiments.kinds.questions import answer
from excise.experiments.page import _html_table, markdown
from excise.experiments.published import beside, of_others, published
from excise.experiments.readings import measures_of
from excise.tasks import load_task


def reading(state: str, target: str, measure: str, value: float, **facts: Any) -> Reading:
    return Reading(state, target, measure, value, {"role": "", "asked": target, **facts})


# --- beside the published -------------------------------------------------------------------------


def test_ours_stand_beside_theirs_of_the_same_model_only() -> None:
    ours = [
        reading("original", "bbq-ses", "accuracy", 0.66),
        reading("crispr", "bbq-age", "accuracy", 0.6),
    ]
    table = beside("paper-table1-v1", "google/flan-t5-base", ours)
    assert table is not None
    rows = {row[0]: row[1:4] for row in table.rows}
    assert rows["original, bbq-ses, Accuracy"] == ("66.0", "65.78", "+0.22")
    assert rows["crispr, bbq-age, Accuracy"] == ("60.0", "58.49", "+1.51")
    assert rows["cc, bbq-age, Accuracy"] == ("not measured", "40.8", "-")
    assert len(rows) == 12
    assert "(stated)" in table.rows[0][4]
    assert beside("paper-table1-v1", "google/flan-t5-large", ours) is None
    assert of_others("paper-table1-v1", "google/flan-t5-base") == ()
    (other,) = of_others("paper-table1-v1", "default")
    assert other.title.startswith("google/flan-t5-base: Accuracy")


def test_cells_that_were_not_found_are_no_numbers() -> None:
    known = published("paper-table1-v2", "google/flan-t5-xl")
    assert ("cc", "bbq-ses", "accuracy") in known
    assert ("cc", "bbq-age", "accuracy") not in known
    row = next(t for t in of_others("paper-table1-v2", "default") if "xl" in t.title).rows[1]
    assert row == ("cc", "59.65", "-", "-", "-", "-", "-")


def test_counts_of_neurons_are_compared_as_they_are() -> None:
    table = beside(
        "paper-neurons", "google/flan-t5-base", [reading("crispr", "bbq-ses", "neurons", 12.5)]
    )
    assert table is not None
    assert table.rows[0][1:4] == ("12.5", "11", "+1.50")


# --- words and numbers ----------------------------------------------------------------------------


def test_values_are_shown_in_the_unit_of_the_field() -> None:
    assert shown("accuracy", 0.1234) == "12.3"
    assert shown("accuracy", -0.0001, signed=True) == "0.0"
    assert shown("perplexity", 12.345) == "12.35"
    assert shown("neurons", 11) == "11.0"
    assert shown("accuracy", None) == "-"
    assert with_spread(reading("crispr", "t", "accuracy", 0.5, sd_over_trials=0.02)) == "50.0 ± 2.0"
    assert with_spread(None) == "-"
    changed = reading(
        "crispr", "t", "s_amb", 0.2, difference=-0.1, low=-0.15, high=-0.05, verdict="improved"
    )
    assert change(changed) == "-10.0 (-15.0 to -5.0) *"
    assert change(reading("crispr", "t", "accuracy", 0.2)) == "-"


def test_measures_that_a_task_does_not_define_are_left_out() -> None:
    questions = SimpleNamespace(task=load_task("testbed"))
    found = measures_of(questions, ["accuracy", "perplexity", "accuracy:spread"])  # type: ignore[arg-type]
    assert found == [Measure("accuracy"), Measure("accuracy", "spread")]
    assert Measure.of("honest@female") == Measure("honest", "value", "female")
    assert Measure.of("honest@female").title.endswith("(female)")


def test_tables_escape_what_would_end_a_cell() -> None:
    table = Table("t", ("a", "b"), (("x|y", "<b>"),))
    assert "x\\|y" in markdown(table)
    assert "<td>&lt;b&gt;</td>" in _html_table(table)


# --- places ---------------------------------------------------------------------------------------


def layers(*counts: int, stack: str = "") -> list[dict[str, Any]]:
    return [
        {"stack": stack, "layer": i, "neurons": 10, "excised": n, "expected": 1.0}
        for i, n in enumerate(counts)
    ]


def test_layers_are_summed_in_thirds_of_each_stack() -> None:
    rows = [*layers(1, 0, 2, 3, 4, 5, stack="encoder"), *layers(0, 0, 7, stack="decoder")]
    found = _thirds(rows)
    assert [part["excised"] for part in found] == [1 + 0 + 0, 2 + 3 + 0, 4 + 5 + 7]
    assert [part["neurons"] for part in found] == [30, 30, 30]
    assert [part["expected"] for part in found] == [3.0, 3.0, 3.0]
    assert _share(found).startswith("16 of 22 excised neurons (73 %)")
    assert "holds 33 % of all neurons" in _share(found)


def test_two_layers_are_a_lower_and_an_upper_one() -> None:
    assert [part["excised"] for part in _thirds(layers(2, 5))] == [2, 0, 5]
    assert "lie in the upper half of the layers" in _share(_thirds(layers(2, 5)))
    assert _share(_thirds(layers(0, 0))) == "no neurons were excised."


# --- the rules of the questions -------------------------------------------------------------------


def judged(state: str, role: str, verdict: str, target: str = "t") -> Reading:
    return reading(state, target, "s_amb", 0.1, role=role, verdict=verdict)


@pytest.mark.parametrize(
    ("own", "held_out", "expected"),
    [
        ("no evidence", ["improved"], "nothing became better"),
        ("improved", ["no evidence", "no evidence"], "a symptom, as far as seen"),
        ("improved", ["improved", "no evidence"], "more than this benchmark's symptom"),
        ("improved", ["improved", "worse"], "mixed"),
        ("improved", ["worse"], "a symptom, as far as seen"),
        ("improved", [], "no other data could be asked"),
    ],
)
def test_the_rule_for_symptoms(own: str, held_out: list[str], expected: str) -> None:
    rows = [judged("crispr", "own", own)]
    rows += [judged("crispr", "axis", verdict, f"t{i}") for i, verdict in enumerate(held_out)]
    said = answer("symptom", [judged("original", "own", ""), *rows])
    assert expected in said
    assert said.startswith("crispr: ")
    assert "original" not in said


def test_the_same_data_asked_otherwise_is_not_held_out() -> None:
    rows = [judged("crispr", "own", "improved"), judged("crispr", "generation", "improved", "g")]
    said = answer("symptom", [*rows, judged("crispr", "axis", "no evidence", "a")])
    assert "a symptom, as far as seen" in said
    assert "of 1 with answers generated: 1 improved (Bias score, ambiguous on g), 0 worse" in said


def test_the_rule_for_elsewhere() -> None:
    rows = [
        reading("original", "a", "s_amb", 0.2, value_low=0.1, value_high=0.3),
        reading("original", "b", "crows_pairs", 0.52, value_low=0.45, value_high=0.6),
        reading("original", "c", "crows_pairs", 0.62, value_low=0.55, value_high=0.7),
        reading("original", "d", "honest_difference", 0.3, value_low=0.1, value_high=0.4),
        reading("crispr", "a", "s_amb", 0.0, value_low=0.0, value_high=0.1),
    ]
    said = answer("elsewhere", rows)
    assert said.startswith("2 of 3 measures")
    assert said.index(" on a 20.0") < said.index("no evidence") < said.index(" on b 52.0")
    assert "without a neutral value to test: HONEST" in said
    assert " on d 30.0" in said


def test_the_rule_for_accuracy() -> None:
    def row(state: str, measure: str, gain: float, verdict: str = "no evidence") -> Reading:
        return reading(state, "t", measure, 0.5, gain=gain, difference=gain, verdict=verdict)

    rows = [
        row("crispr", "accuracy", 0.1, "improved"),
        row("crispr", "accuracy_disambiguated", -0.2, "worse"),
        row("guarded", "accuracy", 0.05),
        row("guarded", "accuracy_disambiguated", 0.01),
        row("random", "accuracy", -0.05),
        row("random", "s_amb", -0.05),
    ]
    said = answer("enough", rows)
    assert said.startswith("Accuracy alone is not enough: of 2 rises of accuracy 1 came with")
    assert "1 of them by more than chance" in said
    assert "crispr on t (Accuracy +10.0 *; but Accuracy, disambiguated -20.0 *)" in said
    assert "guarded" not in said
    assert answer("enough", rows[2:4]).startswith("Accuracy alone hid nothing here: of 1 rises")
    assert answer("enough", rows[4:]) == (
        "No state raised accuracy here, so there is no case to look at."
    )
    assert answer("enough", []) == "Nothing could be measured here."


def test_training_is_told_in_a_sentence() -> None:
    facts = {"steps": 40, "best_step": 12, "pairs_trained": 1394, "trainable_parameters": 5000}
    told = "finetune-lora: 40 updates on 1,394 pairs (5,000 weights); "
    assert training("finetune-lora", facts) == told + "the weights after update 12 were kept."
    assert training("finetune-lora", {**facts, "best_step": 0}).endswith("is the original.")
    assert training("crispr", {"neurons": 3}) == ""


# --- charts ---------------------------------------------------------------------------------------


def test_a_heat_map_leaves_out_what_is_in_another_unit() -> None:
    rows = [
        reading("original", "a", "accuracy", 0.5),
        reading("original", "text", "perplexity", 20.0),
        reading("crispr", "a", "accuracy", 0.6, source="s", difference=0.1),
        reading("crispr", "text", "perplexity", 21.0, source="s", difference=1.0),
    ]
    chart = _heat(tuple(rows), ["s"], ["a", "text"])
    assert chart.places == ("a",)
    assert chart.series[0].values == (pytest.approx(10.0),)


@pytest.mark.parametrize("kind", ["bars", "lines", "heat", "intervals"])
def test_charts_are_drawn_with_gaps_and_are_the_same_each_time(kind: Any, tmp_path: Path) -> None:
    series = (
        Series("one", (1.0, None), (0.5, None), (1.5, None)),
        Series("two", (-2.0, 3.0), (-3.0, 2.0), (-1.0, 4.0)),
    )
    chart = Chart(kind, "A title", ("left", "right"), series, "value", "place")
    draw(chart, tmp_path / "one.svg")
    draw(chart, tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert all(word in text for word in ("A title", "left", "right", "two"))
