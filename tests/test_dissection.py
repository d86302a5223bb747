"""Dissections: planted neurons, sets and places against brute force, and the verb."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import test_planted
import tiny
from cli_models import WORKPLACE, excise, save
from excise.attribution import attribute, competing_sites
from excise.config import DissectionConfig, RunConfig, ScoringConfig
from excise.dissection import EVIDENCE_FILE, MINIMAL_FOLDER, Subject, dissect
from excise.dissection.effects import TunePanel, part, smallest
from excise.dissection.elimination import eliminate
from excise.dissection.overlap import Chance, all_pairs, compared
from excise.dissection.peaks import ITEMS
from excise.dissection.places import where
from excise.dissection.subjects import most_telling
from excise.errors import OutputError
from excise.evaluation import predict
from excise.evidence import open_run
from excise.evidence.manifest import check_manifest
from excise.models import LoadedModel, weights_digest
from excise.patches import Patch
from excise.types import Neuron
from test_cli import assert_one_line

# --- the smallest set -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_elimination_leaves_exactly_what_is_needed(seed: int) -> None:
    generator = random.Random(seed)
    elements = list(range(generator.randint(1, 30)))
    needed = {e for e in elements if generator.random() < 0.2}
    calls: list[tuple[int, ...]] = []

    def holds(rest: tuple[int, ...]) -> bool:
        calls.append(rest)
        return needed <= set(rest)

    order = generator.sample(elements, len(elements))
    found = eliminate(elements, holds, order=order)
    assert set(found.kept) == needed
    assert list(found.kept) == sorted(needed)
    assert found.complete
    assert found.asked == len(calls) == len(set(calls))
    assert all(list(rest) == sorted(rest) for rest in calls)


def test_elimination_ends_where_no_single_drop_holds() -> None:
    # Two of the four suffice, whichever; and a set that a first pass refuses may go in a second.
    found = eliminate("abcd", lambda rest: len(rest) >= 2, order="dcba")
    assert found.kept == ("a", "b")

    def holds(rest: tuple[str, ...]) -> bool:
        return "c" in rest and ("a" not in rest or "b" in rest)

    assert eliminate("abc", holds).kept == ("c",)


def test_elimination_is_cheap_where_little_is_needed_and_stops_at_its_limit() -> None:
    elements = list(range(128))
    found = eliminate(elements, lambda rest: 77 in rest)
    assert found.kept == (77,)
    assert found.asked < 30
    stopped = eliminate(elements, lambda rest: 77 in rest, limit=4)
    assert (stopped.asked, stopped.complete) == (4, False)
    assert 77 in stopped.kept
    assert eliminate([], lambda rest: True).kept == ()


# --- overlap and places ---------------------------------------------------------------------------


def test_chance_is_that_of_all_pairs_of_sets() -> None:
    sets_a, sets_b = (list(itertools.combinations(range(6), k)) for k in (2, 3))
    overlaps = [len(set(a) & set(b)) / len(set(a) | set(b)) for a in sets_a for b in sets_b]
    shared = [len(set(a) & set(b)) for a in sets_a for b in sets_b]
    chance = Chance.of({"": (6, 2, 3)})
    assert chance.jaccard == pytest.approx(np.mean(overlaps))
    assert chance.at_least(1) == pytest.approx(np.mean(np.array(shared) >= 1))
    assert Chance.of({"": (6, 0, 0)}).jaccard is None


def test_chance_within_modules_is_that_of_all_pairs_of_sets() -> None:
    # One of three in the first module by either set; two and one of four in the second.
    first = [{("a", i), *(("b", j) for j in js)} for i in range(3) for js in _pairs(4)]
    second = [{("a", i), ("b", j)} for i in range(3) for j in range(4)]
    overlaps = [len(x & y) / len(x | y) for x in first for y in second]
    chance = Chance.of({"a": (3, 1, 1), "b": (4, 2, 1)})
    assert chance.jaccard == pytest.approx(np.mean(overlaps))
    exact = np.mean([len(x & y) >= 2 for x in first for y in second])
    assert chance.at_least(2) == pytest.approx(exact)


def _pairs(n: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(n), 2))


def test_overlap_of_named_sets() -> None:
    a, b, c = Neuron("m", 0), Neuron("m", 1), Neuron("k", 0)
    got = all_pairs({"x": [a, b], "y": [b, c], "z": [a]}, {"m": 4, "k": 4})
    assert [(p["first"], p["second"], p["shared"]) for p in got["pairs"]] == [
        ("x", "y", 1),
        ("x", "z", 1),
        ("y", "z", 0),
    ]
    assert [p["jaccard"] for p in got["pairs"]] == [1 / 3, 1 / 2, 0.0]
    assert got["jaccard"] == pytest.approx((1 / 3 + 1 / 2) / 3)
    assert got["neurons"] == [
        {"module": "m", "index": 0, "in": ["x", "z"]},
        {"module": "m", "index": 1, "in": ["x", "y"]},
    ]
    same = compared([a, b], [b], {"m": 4, "k": 4})
    # Of four neurons of m two and one are drawn: the one is among the two in half of the cases.
    assert same["p_value_same_modules"] == pytest.approx(0.5)
    assert same["p_value"] == pytest.approx(2 / 8)


def test_places_sum_up_and_expect_what_sizes_say() -> None:
    model = tiny.loaded("t5-gated")
    sites = model.sites
    inside = [Neuron(sites[0].module, i) for i in range(3)] + [Neuron(sites[-1].module, 0)]
    got = where(sites, [*inside, Neuron("elsewhere", 0)])
    assert (got["n"], got["elsewhere"]) == (5, 1)
    for rows in (got["cells"], got["sublayers"], got["layers"]):
        assert sum(row["excised"] for row in rows) == 4
        assert sum(row["neurons"] for row in rows) == model.n_neurons
        assert sum(row["expected"] for row in rows) == pytest.approx(4)
    cell = got["cells"][0]
    assert (cell["stack"], cell["layer"], cell["kind"]) == ("encoder", 0, "SelfAttention.q")
    assert cell["share"] == 3 / sites[0].size
    # At least three of four draws without replacement, by counting.
    size, total = sites[0].size, model.n_neurons
    draws = np.random.default_rng(0).permuted(np.tile(np.arange(total), (4000, 1)), axis=1)[:, :4]
    assert cell["p_value"] == pytest.approx(((draws < size).sum(1) >= 3).mean(), abs=0.01)
    assert got["cells"][1]["p_value"] == 1.0


# --- planted neurons ------------------------------------------------------------------------------

TUNE = test_planted.instances()


def planted(kind: str) -> tuple[LoadedModel, Neuron, list[Neuron]]:
    """A model with a planted neuron, and three neurons of it that nothing reads."""
    made = test_planted.planted(kind, seed=1)
    down = made.neuron.module.replace("up_proj", "down_proj").replace("wi", "wo")
    dead = [Neuron(made.neuron.module, index) for index in (2, 20, 41)]
    with torch.no_grad():
        for neuron in dead:
            made.model.linear(down).weight[:, neuron.index] = 0.0
    model = replace(made.model, digest=weights_digest(made.model.model))
    return model, made.neuron, dead


def subject_of(model: LoadedModel, excised: list[Neuron], **options: Any) -> tuple[Subject, Patch]:
    task = tiny.task(TUNE)
    scores = attribute(model, task, TUNE, RunConfig().attribution).by_module
    values = tuple(float(scores[n.module][n.index]) for n in excised)
    patch = Patch(tuple(excised), values, model.name, model.digest)
    own = DissectionConfig(resamples=30, objective="log_share", **options)
    config = RunConfig(dissection=own)
    return Subject(task, patch, (TUNE,), TUNE, config, trials=(patch, patch)), patch


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_planted_neuron_is_all_that_matters(kind: str) -> None:
    model, neuron, dead = planted(kind)
    alone, only = subject_of(model, [neuron])
    record = dissect(model, [alone], only).record
    (row,) = record["stability"]["toy"]["neurons"]
    assert row["frequency"] == row["frequency_templates"] == 1.0
    assert record["stability"]["toy"]["jaccard"]["instance"] == {"mean": 1, "low": 1, "high": 1}

    before = {n: p.clone() for n, p in model.model.named_parameters()}
    entry, patch = subject_of(model, [dead[0], neuron, *dead[1:]])
    found = dissect(model, [entry], patch)
    record = found.record
    assert all(torch.equal(p, before[n]) for n, p in model.model.named_parameters())
    assert found.minimal.neurons == (neuron,)
    minimal = record["minimal"]["tasks"]["toy"]
    assert minimal["minimal"]["objective"] == minimal["patched"]["objective"]
    assert minimal["patched"]["objective"] > minimal["original"]["objective"] + 0.5
    assert minimal["complete"]
    without = {(r["module"], r["index"]): r for r in record["leave_one_out"]["toy"]["neurons"]}
    single = {(r["module"], r["index"]): r for r in record["alone"]["toy"]["neurons"]}
    for other in dead:
        for rows in (without, single):
            changes = rows[other.module, other.index]
            assert {v for k, v in changes.items() if isinstance(v, float)} <= {0.0}, changes
    gain = minimal["patched"]["objective"] - minimal["original"]["objective"]
    assert without[neuron.module, neuron.index]["objective"] == pytest.approx(-gain)
    assert single[neuron.module, neuron.index]["objective"] == pytest.approx(gain)
    # What the unit reads where the answer is predicted.
    (told,) = [t for t in record["tokens"]["toy"]["neurons"] if t["index"] == neuron.index]
    token = {"t5": "<pad>", "llama": ":"}[kind]
    assert {peak["token"] for peak in told["peaks"]} == {token}
    assert {peak["reads"] for peak in told["peaks"]} == {"start" if kind == "t5" else "prompt"}
    assert told["texts"] == [{"token": token, "share": pytest.approx(1.0)}]
    assert record["overlap"]["trials"]["toy"]["jaccard"] == 1.0
    assert record["overlap"]["tasks"] is None
    assert record["cost"]["prompts_attributed"] == len(TUNE) * 2
    summary = {row["index"]: row["minimal"] for row in record["neurons"]}
    assert summary == {neuron.index: True, **{other.index: False for other in dead}}
    assert record["items"] == {"toy": {}}
    json.dumps(record, allow_nan=False)

    shown = dissect(model, [replace(entry, shown=TUNE)], patch).record
    assert {name: value for name, value in shown.items() if name not in ("items", "cost")} == {
        name: value for name, value in record.items() if name not in ("items", "cost")
    }
    asked = shown["items"]["toy"]
    assert asked
    # The dead neurons add nothing, so the planted one's token has all of the weight.
    assert all(pairs[0] == [token, 1.0] for pairs in asked.values())
    assert shown["cost"]["prompts_attributed"] == len(TUNE) * 3


def test_chance_counts_the_neurons_that_compete_and_no_others() -> None:
    model, neuron, dead = planted("llama")
    entry, patch = subject_of(model, [neuron, *dead[:2]])
    attribution = entry.config.attribution.model_copy(update={"modules": "feed-forward"})
    entry = replace(entry, config=entry.config.model_copy(update={"attribution": attribution}))
    record = dissect(model, [entry], patch).record
    sets = {f"trial {n}": patch.neurons for n in (0, 1)}
    competing = {site.module: site.size for site in competing_sites(model, attribution)}
    assert len(competing) < len(model.sites)
    assert record["overlap"]["trials"]["toy"] == all_pairs(sets, competing)
    every = {site.module: site.size for site in model.sites}
    assert record["overlap"]["trials"]["toy"] != all_pairs(sets, every)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_items_tokens_sum_what_each_neuron_says_there(kind: str) -> None:
    model, _, _ = planted(kind)
    up = [s.module for s in model.sites if s.module.endswith(("up_proj", "q_proj", "wi", "q"))]
    neurons = [Neuron(module, index) for module in up for index in (1, 5)]
    entry, patch = subject_of(model, neurons)
    few = TUNE[:ITEMS]
    single = entry.config.attribution.model_copy(update={"instructions": 1})
    entry = replace(
        entry,
        find=(few,),
        shown=few,
        config=entry.config.model_copy(update={"attribution": single}),
    )
    record = dissect(model, [entry], patch).record
    expected: dict[str, Counter[str]] = {instance.id: Counter() for instance in few}
    for told in record["tokens"]["toy"]["neurons"]:
        for peak in told["peaks"]:
            expected[peak["instance"]][peak["token"].strip() or peak["token"]] += peak["value"]
    assert any(len(sums) > 1 for sums in expected.values())
    for instance, sums in expected.items():
        found = dict(map(tuple, record["items"]["toy"][instance]))
        whole = sum(map(abs, sums.values()))
        first = sorted(sums, key=lambda text: -abs(sums[text]))[:8]
        assert found == pytest.approx(
            {text: sums[text] / whole for text in first if abs(sums[text] / whole) > 5e-5}, abs=1e-4
        )


def test_effects_are_those_of_asking_the_model_anew() -> None:
    model, neuron, dead = planted("llama")
    entry, patch = subject_of(model, [neuron, dead[0], Neuron("model.layers.0.mlp.up_proj", 5)])
    panel = TunePanel(
        model, entry.task, patch, TUNE, entry.task.instructions, ScoringConfig(), "log_share",
        lambda prompts: None,
    )  # fmt: skip
    for n in range(3):
        some = part(patch, set(patch.neurons[:n]))
        with some.applied(model):
            said = predict(model, entry.task, TUNE, ScoringConfig())
        assert said.log_likelihood is not None
        assert said.n_tokens is not None
        got = panel.measure(patch.neurons[:n])
        assert got.accuracy == pytest.approx(np.mean(said.choice == said.gold), abs=1e-9)
        gold, shares = [], []
        for i in range(2):
            for k, instance in enumerate(TUNE):
                width = len(instance.options)
                per_token = said.log_likelihood[i, k, :width] / said.n_tokens[i, k, :width]
                gold.append(per_token[instance.gold])
                share = np.exp(per_token) / np.exp(per_token).sum()
                shares.append((instance.condition, np.log(share[instance.gold])))
        assert got.gold_log_probability == pytest.approx(np.mean(gold), abs=1e-4)
        kinds = [
            np.mean([s for c, s in shares if (c == "ambiguous") == wanted])
            for wanted in (True, False)
        ]
        assert got.objective == pytest.approx(np.mean(kinds), abs=1e-4)
    asked = panel.asked
    panel.measure(patch.neurons[:2])
    assert panel.asked == asked == 3


def test_a_patch_that_does_nothing_has_the_empty_set_as_its_smallest() -> None:
    model, _, dead = planted("llama")
    entry, patch = subject_of(model, dead)
    panel = TunePanel(
        model, entry.task, patch, TUNE, entry.task.instructions, ScoringConfig(), "accuracy",
        lambda prompts: None,
    )  # fmt: skip
    minimal, how = smallest(panel, tolerance=0.0, limit=10)
    assert len(minimal) == how["n"] == 0
    assert panel.asked == 2


def test_parts_keep_factors_and_order() -> None:
    neurons = tuple(Neuron("m", i) for i in range(3))
    patch = Patch(neurons, (3.0, 2.0, 1.0), "x", "0" * 64, factors=(0.0, 2.0, -1.0))
    got = part(patch, {neurons[2], neurons[1]})
    assert (got.neurons, got.scores, got.factors) == (neurons[1:], (2.0, 1.0), (2.0, -1.0))


def test_few_neurons_are_looked_at_and_few_kept_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, neuron, dead = planted("llama")
    entry, patch = subject_of(model, [neuron, *dead], neurons=2, memory=1)
    # 100 neurons at 8 prompts; the package names the function, not the module.
    module = sys.modules["excise.dissection.dissect"]
    monkeypatch.setattr(module, "_MEGABYTE", 100 * 8 * 4)
    record = dissect(model, [entry], patch).record
    stability = record["stability"]["toy"]
    assert stability["competing"] == sum(
        s.size for s in competing_sites(model, RunConfig().attribution)
    )
    assert 100 <= stability["candidates"] <= 104
    assert len(stability["neurons"]) == 4
    assert stability["neurons"][0]["frequency"] == 1.0
    assert len(record["leave_one_out"]["toy"]["neurons"]) == 2
    assert len(record["tokens"]["toy"]["neurons"]) == 2
    assert record["tasks"]["toy"]["looked_at"] == 2
    assert record["minimal"]["tasks"]["toy"]["n"] == 1


# --- the verb -------------------------------------------------------------------------------------

FAST = [
    *("--task", WORKPLACE, "--limit", 4, "--controls", 0, "--test-instructions", 1),
    *("--find-instances", 2, "--find-instructions", 1, "--tune-instances", 4),
    *("--set", "resamples=100", "--set", "selection.tune_instructions=1"),
    *("--set", "dissection.resamples=20"),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def run(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = excise("run", llama, *FAST, "--trials", 2, "--n", 3, "--out", folder, "--dissect")
    assert result.exit_code == 0, result.output
    assert (folder / EVIDENCE_FILE).is_file()
    assert "keep the effect on the tune split" in result.stdout
    return folder


def test_a_run_is_dissected_again_in_place(run: Path) -> None:
    first = json.loads((run / EVIDENCE_FILE).read_text())
    result = excise("dissect", run, "--json", "--set", "dissection.neurons=2")
    assert result.exit_code == 0, result.output
    second = json.loads(result.stdout)
    assert json.loads((run / EVIDENCE_FILE).read_text()) == second
    assert second["stability"] == first["stability"]
    assert second["stability"]["workplace"]["reproduced"] == 1.0
    assert second["where"] == first["where"]
    assert len(second["alone"]["workplace"]["neurons"]) == 2
    assert first["overlap"]["trials"]["workplace"]["sets"] == {"trial 0": 3, "trial 1": 3}
    minimal = Patch.load(run / MINIMAL_FOLDER)
    assert len(minimal) == second["minimal"]["n"] <= 3
    assert set(minimal.neurons) <= set(Patch.load(run / "patch").neurons)
    # The report shows the asked items' tokens, those of changed answers first.
    stored = open_run(run)
    before, after = (stored.predictions("workplace", state) for state in ("original", "patched"))
    shown = most_telling(before, after, 3)
    moved = before.choice[0] != after.choice[0]
    order = [*np.flatnonzero(moved), *np.flatnonzero(~moved)][:3]
    assert shown == tuple(before.instances[n] for n in order)
    assert second["items"]["workplace"]
    assert set(second["items"]["workplace"]) <= {i.id for i in before.instances}
    assert check_manifest(run) == []
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    quiet = excise("dissect", run, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (f"{run}\n", "")


def test_what_is_printed_holds_no_control_characters(run: Path) -> None:
    from io import StringIO

    from rich.console import Console

    from excise.cli.dissection import print_dissection

    record = json.loads((run / EVIDENCE_FILE).read_text())
    for row in record["neurons"]:
        row["tokens"] = ["\x1b[31m\u202eevil"]
    out = StringIO()
    print_dissection(Console(file=out, width=100, markup=False), record)
    assert "evil" in out.getvalue()
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


def test_several_tasks_are_dissected_apart(llama: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.jsonl"
    second.write_bytes(WORKPLACE.read_bytes())
    folder = tmp_path / "run"
    made = excise("run", llama, *FAST, "-t", second, "--n", 2, "--out", folder, "--quiet")
    assert made.exit_code == 0, made.output
    result = excise("dissect", folder)
    assert result.exit_code == 0, result.output
    record = json.loads((folder / EVIDENCE_FILE).read_text())
    assert list(record["stability"]) == ["workplace", "second"]
    # The same data: the same neurons.
    assert record["overlap"]["tasks"]["jaccard"] == 1.0
    assert record["overlap"]["trials"] == {}
    assert "Tasks: mean overlap of 1 pair of sets 100.0 %" in result.stdout
    assert len(Patch.load(folder / MINIMAL_FOLDER)) == record["minimal"]["n"]


def test_a_patch_is_dissected_with_its_model_and_task(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "patch"
    options = ["--find-instances", 2, "--find-instructions", 1, "--seed", 5]
    made = excise("locate", llama, "-t", WORKPLACE, *options, "--n", 3, "--out", folder)
    assert made.exit_code == 0, made.output
    shown = ["dissect", folder, llama, "--set", "dissection.resamples=10", "--json"]
    result = excise(*shown, "--task", WORKPLACE, "--set", "dissection.tune_instances=4")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["stability"]["workplace"]["reproduced"] == 1.0
    assert record["cost"]["tasks"]["workplace"]["tune_instances"] == 4
    assert (folder / MINIMAL_FOLDER / "neurons.json").is_file()
    assert_one_line(excise(*shown), "--task")


def test_bad_input_is_one_line(run: Path, llama: Path, tmp_path: Path) -> None:
    assert_one_line(excise("dissect", tmp_path), "neither a run folder nor a patch folder")
    assert_one_line(excise("dissect", run, "--task", WORKPLACE), "leave --task out")
    other = excise("dissect", run, "--set", "attribution.tokens=mean")
    assert_one_line(other, "a run is dissected with its own options, but attribution")
    assert_one_line(excise("dissect", run, "--set", "dissection.resamples=0"), "resamples")
    model = save(tmp_path / "other", seed=9)
    assert_one_line(excise("dissect", run, model), "weights")
    empty = tmp_path / "empty"
    made = excise("run", llama, *FAST, "--n", 0, "--out", empty, "--quiet")
    assert made.exit_code == 0, made.output
    assert_one_line(excise("dissect", empty), "excises no neuron")


@pytest.mark.parametrize("failing", ["write_text", "rename"])
def test_a_full_disk_leaves_the_folder_as_it_was(
    run: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from excise.dissection import Dissection, write_evidence

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = Dissection({"new": True}, replace(Patch.load(run / MINIMAL_FOLDER), base_model="new"))

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, failing, full)
        with pytest.raises(OutputError, match="No space left"):
            write_evidence(found, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
