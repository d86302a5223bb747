"""The benchmarks' arithmetic and files; what they time is not timed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny
from excise.scoring import EncodedPrompt, scorer_for

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as bench  # noqa: E402
from benchmarks import harness, page, scoring, timing  # noqa: E402


def test_ratios_are_taken_round_by_round() -> None:
    sides = timing.Sides(
        wall={"slow": [10.0, 30.0, 80.0], "fast": [1.0, 10.0, 10.0]},
        processor={"slow": [4.0, 4.0, 4.0], "fast": [2.0, 1.0, 2.0]},
    )
    two = sides.described("slow", "fast", threads=2)
    # 10, 3 and 8; of sums or medians it would be 5.7 or 3.
    assert (two["ratio"], two["lowest"], two["highest"]) == (8.0, 3.0, 10.0)
    assert two["seconds"] == {"slow": 30.0, "fast": 10.0}
    assert two["clock"] == "wall"
    one = sides.described("slow", "fast", threads=1)
    assert (one["ratio"], one["clock"], one["rounds"]) == (2.0, "processor", 3)


def test_sides_run_in_turns_and_samples_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    sides = timing.alternate(
        {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 3, scale={"b": 8.0}
    )
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert sides.wall == {"a": [1.0] * 3, "b": [8.0] * 3}


def test_the_sample_is_whole_batches_scaled_by_tokens() -> None:
    # 40 prompts of 1 to 40 tokens with two options of one token: 80 pairs, 5 batches.
    items = [EncodedPrompt((3,) * n, ((4,), (5,))) for n in range(1, 41)]
    pairs, scale = harness.sampled(items, 5)
    # Of the five batches the middle one: prompts of 24 down to 17 tokens.
    assert sorted({len(item.prompt) for item, _ in pairs}) == list(range(17, 25))
    assert len(pairs) == 16
    everything = 2 * sum(n + 1 for n in range(1, 41))
    assert scale == pytest.approx(everything / (2 * sum(n + 1 for n in range(17, 25))))
    whole, one = harness.sampled(items, 1)
    assert (len(whole), one) == (80, 1.0)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_harness_scores_the_same_tokens(name: str) -> None:
    pytest.importorskip("lm_eval")
    model = tiny.loaded(name)
    end = (tiny.END,) if name == "t5" else ()
    items = [
        EncodedPrompt((5, 6, 7, 8, *end), ((9, 10, *end), (11, 12, 13, *end))),
        EncodedPrompt((5, 6, *end), ((9, 3, *end), (14, 15, *end))),
    ]
    pairs = [(item, place) for item in items for place in (0, 1)]
    theirs = harness.Harness(model).score(pairs)
    ours = [value for values in scorer_for(model).score(items) for value in values]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_the_floor_forwards_as_many_tokens_and_rows_as_the_tree() -> None:
    model = tiny.loaded("llama")
    items = [EncodedPrompt((5, 6, 7), ((1, 2, 3), (4, 4)))]  # 6 nodes, 4 of them predict
    counts: list[tuple[int, int]] = []
    model.model.get_output_embeddings().register_forward_hook(
        lambda _m, inputs, _o: counts.append(tuple(inputs[0].shape[:2]))
    )
    read: list[int] = []
    model.model.get_input_embeddings().register_forward_pre_hook(
        lambda _m, inputs: read.append(inputs[0].numel())
    )
    scoring.dense(model, items)
    assert counts == [(1, 4)]
    assert read == [6]


RESULT = {
    "ratio": 7.0,
    "clock": "wall",
    "lowest": 6.9,
    "highest": 7.2,
    "rounds": 3,
    "threads": 2,
}


def test_a_named_measurement_replaces_its_part_only(tmp_path: Path) -> None:
    described = {"machine": {"cores": 2}, "versions": {"torch": "2"}}
    empty = bench.read(tmp_path / "none.json")
    first = bench.merged(empty, {"keys": {"a": 1, "b": 2}, "details": {"a": RESULT}}, described)
    file = tmp_path / "latest.json"
    file.write_text(json.dumps(bench.flat(first)), encoding="utf-8")
    assert bench.read(file) == first
    second = bench.merged(bench.read(file), {"keys": {"b": 3}, "details": {}}, described)
    assert bench.flat(second)["a"] == 1
    assert bench.flat(second)["b"] == 3
    assert bench.flat(second)["details"] == {"a": RESULT}


def test_settings_reach_the_measurements_that_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def measure(items: int = 5, rounds: int = 6) -> dict[str, Any]:
        seen.update(items=items, rounds=rounds)
        return {}

    monkeypatch.setattr(scoring, "measure", measure)
    bench.measured("scoring", {"rounds": 1, "every": 9})
    assert seen == {"items": 5, "rounds": 1}


def test_the_page_has_every_ratio_the_machine_and_the_plot(tmp_path: Path) -> None:
    growth = [
        {"items": n, "seconds": n / 10, "processor_seconds": n / 5, "mib_above_the_model": 90}
        for n in (100, 400, 1600)
    ]
    results = {
        "keys": {"scoring_vs_lm_eval": 7.0, "another": 2.5},
        "details": {"scoring_vs_lm_eval": RESULT, "growth": growth},
        "machine": {"processor": "Some CPU", "cores": 2},
        "versions": {"torch": "2.13"},
    }
    page.write(results, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    for words in ("`scoring_vs_lm_eval`", "6.90 to 7.20", "`another`", "Some CPU", "torch 2.13"):
        assert words in text
    assert (tmp_path / "benchmarks-growth.svg").stat().st_size > 1000
    before = (tmp_path / "benchmarks-growth.svg").read_bytes()
    page.write(results, tmp_path)
    assert (tmp_path / "benchmarks-growth.svg").read_bytes() == before


def test_the_committed_results_are_those_of_the_page(tmp_path: Path) -> None:
    file = ROOT / "benchmarks" / "latest.json"
    if not file.exists():
        pytest.skip("no results yet: make bench")
    results = bench.read(file)
    page.write(results, tmp_path)
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == (
        ROOT / "docs" / "benchmarks.md"
    ).read_text(encoding="utf-8")
    wanted = {
        "scoring_vs_lm_eval",
        "scoring_vs_lm_eval_12",
        "scoring_vs_floor",
        "seq2seq_vs_lm_eval",
        "peak_rss_mib",
    }
    assert wanted <= results["keys"].keys()
