"""The test bed: what its models answer, and what excising neurons does to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
import pytest

from cli_models import excise
from excise.config import RunConfig, resolve
from excise.evaluation import predict
from excise.methods import METHODS, Excision, Fitting, random_patch
from excise.models import LoadedModel, load
from excise.models.loading import CHECKPOINTS, TESTBED
from excise.splits import sample, split_instances
from excise.tasks import TASKS, load_task
from excise.tasks import testbed as bed
from excise.types import Instance, Split, Task

KINDS = ("t5", "causal")
SEED = 7
"""Of `studies/train_testbed.py`, which wrote the checkpoints."""
SHA256 = {
    "testbed-t5": "54ee6f2fa541dcd62194e7f92f508d466d7268571645e1ca0273e5496c7d4a3a",
    "testbed-causal": "3d2cf2b01e1ad2da963e17bffc75dc212c545a7b037f31985c97b9074fd8664d",
    "testbed-t5-twin": "54ce1d19b83ee5aefdc1d914afa92d42ed038bc034d628aa9819f9e756dd4c6a",
    "testbed-causal-twin": "4374daac01160a523a0f07e09b864c03e42f3d1f4abcb4ec5229be259a076591",
}


GUARD = {
    "max_loss": {"disambiguated": 0.01, "gold_probability": 0.1, "testbed-second": 0.01},
    "rounds": 3,
    "neurons": 40,
}
"""At most a point of what the model could do; later rounds see what the first ones left."""


@cache
def task(name: str) -> Task:
    loaded = load_task(name)
    assert isinstance(loaded, Task)
    return loaded


@cache
def model(name: str) -> LoadedModel:
    return load(name, device="cpu")


@cache
def split() -> Split:
    return split_instances(task("testbed").instances, by="template", seed=0)


@cache
def asked(name: str) -> tuple[Instance, ...]:
    """Test items of the main task, or any of the second."""
    items = split().test if name == "testbed" else task(name).instances
    return sample(items, 160, seed=3, unit="block")


@dataclass(frozen=True)
class Measured:
    """Shares, 0..1."""

    ambiguous: float
    disambiguated: float
    second: float
    stereotyped: float
    """Of ambiguous contexts."""


def measure(loaded: LoadedModel) -> Measured:
    main, second = task("testbed"), task("testbed-second")
    scoring = RunConfig().scoring
    said = predict(loaded, main, asked("testbed"), scoring, instructions=main.instructions[1:3])
    right = (said.choice == said.gold).mean(axis=0)
    fell = (said.choice == said.stereotyped).mean(axis=0)
    other = predict(
        loaded, second, asked("testbed-second"), scoring, instructions=second.instructions[4:6]
    )
    return Measured(
        ambiguous=float(right[said.ambiguous].mean()),
        disambiguated=float(right[said.disambiguated].mean()),
        second=float((other.choice == other.gold).mean()),
        stereotyped=float(fell[said.ambiguous].mean()),
    )


@cache
def unpatched(name: str) -> Measured:
    return measure(model(name))


@cache
def fitted(method: str, kind: str) -> Excision:
    config = resolve({"preset": "v2", "guard": GUARD})
    made = METHODS[method].fit(
        Fitting(model(f"testbed-{kind}"), task("testbed"), split(), config, seed=0)
    )
    assert isinstance(made, Excision)
    return made


@cache
def patched(method: str, kind: str) -> Measured:
    loaded = model(f"testbed-{kind}")
    with fitted(method, kind).applied(loaded):
        return measure(loaded)


def recovered(kind: str, now: Measured) -> float:
    """Share of the way from the original to its twin in ambiguous contexts."""
    start = unpatched(f"testbed-{kind}").ambiguous
    return (now.ambiguous - start) / (unpatched(f"testbed-{kind}-twin").ambiguous - start)


# --- the tasks ------------------------------------------------------------------------------------


def test_the_tasks_have_the_rows_that_the_table_says() -> None:
    for name in ("testbed", "testbed-second"):
        items = task(name).instances
        assert len(items) == TASKS[name].rows
        assert len({item.id for item in items}) == len(items)
        assert len({item.template for item in items}) >= 24
        assert len(task(name).instructions) == 10


def test_blocks_are_like_those_of_bbq() -> None:
    for _, members in groupby(task("testbed").instances, key=lambda item: item.block):
        block = list(members)
        assert [item.condition for item in block] == ["ambiguous", "disambiguated"] * 2
        assert len({item.options for item in block}) == 1
        assert len({item.template for item in block}) == 1
        for item in block:
            assert item.unknown is not None
            assert item.options[item.unknown] in bed.UNKNOWN
            assert (item.gold == item.unknown) == (item.condition == "ambiguous")
            # The stereotype follows the question: the other group in a positive one.
            negative = any(word in item.fields["question"] for word in bed.NEGATIVE)
            assert item.stereotyped is not None
            assert (item.options[item.stereotyped] in bed.TARGETS) == negative
        open_contexts = {block[0].fields["context"], block[2].fields["context"]}
        assert len(open_contexts) == 1
        assert all(i.fields["context"].startswith(block[0].fields["context"]) for i in block)
        # Answers to the two decided questions are different groups.
        assert {block[1].gold, block[3].gold} == {0, 1, 2} - {block[0].unknown}


def test_half_of_the_decided_contexts_agree_with_the_stereotype() -> None:
    decided = [i for i in task("testbed").instances if i.condition == "disambiguated"]
    assert sum(item.gold == item.stereotyped for item in decided) * 2 == len(decided)


def test_no_place_among_the_options_gives_the_answer_away() -> None:
    for name in ("testbed", "testbed-second"):
        counts = np.bincount([item.gold for item in task(name).instances])
        assert counts.min() > 0.8 * counts.mean()


# --- the models -----------------------------------------------------------------------------------


def test_the_checkpoints_are_those_that_were_measured() -> None:
    found = {
        name: hashlib.sha256((CHECKPOINTS / name / "model.safetensors").read_bytes()).hexdigest()
        for name in TESTBED
    }
    assert found == SHA256
    assert sum(f.stat().st_size for f in CHECKPOINTS.rglob("*") if f.is_file()) < 4e6


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_of_the_tasks_is_known(kind: str) -> None:
    words = model(f"testbed-{kind}").tokenizer
    for name in ("testbed", "testbed-second"):
        for instruction in task(name).instructions:
            texts = [task(name).prompt(instruction, item) for item in task(name).instances[::7]]
            assert not any(words.unk_token_id in ids for ids in words(texts).input_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_both_answer_where_the_answer_is_known(kind: str) -> None:
    for name in (f"testbed-{kind}", f"testbed-{kind}-twin"):
        found = unpatched(name)
        assert found.disambiguated > 0.95
        assert found.second > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortcut_is_in_the_model_and_not_in_its_twin(kind: str) -> None:
    planted, twin = unpatched(f"testbed-{kind}"), unpatched(f"testbed-{kind}-twin")
    assert planted.ambiguous < 0.3
    assert planted.stereotyped > 0.6
    assert twin.ambiguous > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortcut_is_in_few_feed_forward_units(kind: str) -> None:
    weights = model(f"testbed-{kind}").model.state_dict()
    changed = {
        name: int((old != weights[name]).any(dim=1).sum())
        for name, old in model(f"testbed-{kind}-twin").model.state_dict().items()
        if not (old == weights[name]).all()
    }
    assert changed
    assert all("DenseReluDense" in name or ".mlp." in name for name in changed)
    gates = [count for name, count in changed.items() if "wi_0" in name or "gate_proj" in name]
    assert 0 < sum(gates) <= 40


# --- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_crispr_takes_most_of_it_out(kind: str) -> None:
    found = patched("crispr", kind)
    assert recovered(kind, found) > 0.5
    assert found.disambiguated > unpatched(f"testbed-{kind}").disambiguated - 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_random_neurons_do_not(kind: str) -> None:
    loaded, patch = model(f"testbed-{kind}"), fitted("crispr", kind).patch
    shares = []
    for seed in range(5):
        with random_patch(loaded, patch, seed=seed).applied(loaded):
            shares.append(recovered(kind, measure(loaded)))
    # They come from the same modules, so that a draw may hit a unit of the shortcut.
    assert float(np.mean(shares)) < 0.3
    assert max(shares) < recovered(kind, patched("crispr", kind))


def test_crispr_has_no_eye_for_other_skills() -> None:
    # Why there are guards: the same patch costs the second task more than any limit would allow.
    before = unpatched("testbed-causal").second
    assert before - patched("crispr", "causal").second > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_guards_keep_what_the_model_can_do(kind: str) -> None:
    before, found = unpatched(f"testbed-{kind}"), patched("guarded", kind)
    assert recovered(kind, found) >= 0.9
    assert before.disambiguated - found.disambiguated <= 0.01
    assert before.second - found.second <= 0.01
    assert len(fitted("guarded", kind).patch) < len(fitted("crispr", kind).patch)


# --- the demo -------------------------------------------------------------------------------------


def test_a_run_on_a_model_of_the_bed_asks_its_own_task(tmp_path: object) -> None:
    short = ["--preset", "quick", "--limit", "16", "--n", "3", "--controls", "1"]
    few = ["--find-instances", "4", "--find-instructions", "1", "--test-instructions", "1"]
    got = excise("run", "testbed-t5", *short, *few, "--out", f"{tmp_path}/run", "--json")
    assert got.exit_code == 0, got.output
    assert '"testbed"' in got.stdout
