"""Guarded CRISPR: first-order effects, the search under limits, and a planted pair of neurons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from cli_models import WORKPLACE
from excise.attribution.effects import (
    Effects,
    Question,
    effects,
    gold_log_likelihood,
    log_share,
    share,
)
from excise.cli import resolving
from excise.config import GuardConfig, RunConfig, ScoringConfig, resolve, to_toml
from excise.errors import ConfigError, UnknownNameError
from excise.evaluation import predict
from excise.methods import METHODS, Excision, Fitting
from excise.methods.crispr import Crispr
from excise.methods.guarded import Guarded
from excise.methods.guarded.guards import disambiguated_loss, gold_probability_loss
from excise.methods.guarded.panel import Panel, Reading, questions
from excise.methods.guarded.pools import pool_of
from excise.methods.guarded.proposals import alternating, predicted_gains
from excise.methods.guarded.search import Move, Search, State
from excise.models import LoadedModel, packed_linears, unpacked, weights_digest
from excise.patches import scaled_outputs
from excise.splits import sample, split_instances
from excise.tasks import load_task
from excise.types import Instance, Neuron, Split

OBJECTIVES = (log_share, share, gold_log_likelihood)

# --- first-order effects --------------------------------------------------------------------------


def asked(*, groups: tuple[int, ...] = (0, 1, 0, 1, 2)) -> list[Question]:
    told = tiny.task().instructions
    return [
        Question(instance, told[n % 2], group)
        for n, (instance, group) in enumerate(zip(tiny.INSTANCES, groups, strict=True))
    ]


def measured(model: LoadedModel) -> np.ndarray[Any, Any]:
    """[objectives, groups] by the scorer, nothing of the code under test."""
    totals: dict[int, list[list[float]]] = {}
    said = predict(
        model, tiny.task(), tiny.INSTANCES, ScoringConfig(normalisation="per_token")
    ).compared
    assert said is not None
    for n, question in enumerate(asked()):
        values = said[n % 2, n]
        gold = values[question.instance.gold]
        log_of_share = gold - np.logaddexp.reduce(values[~np.isnan(values)])
        totals.setdefault(question.group, []).append([log_of_share, math.exp(log_of_share), gold])
    return np.array([np.mean(totals[group], axis=0) for group in sorted(totals)]).T


@pytest.mark.parametrize("name", ["llama", "bloom", "t5-gated"])
def test_effects_are_the_derivatives_by_a_neurons_factor(name: str) -> None:
    # Branches behind one prompt, one row for each option, and an encoder.
    model = tiny.loaded(name)
    model.model.double()
    found = effects(model, tiny.task(), asked(), OBJECTIVES, model.sites, normalisation="per_token")
    generator = np.random.default_rng(0)
    step = 1e-3
    for site in model.sites:
        index = int(generator.integers(site.size))
        sides = []
        for factor in (1 + step, 1 - step):
            with scaled_outputs(model.model, [Neuron(site.module, index)], factor):
                sides.append(measured(model))
        derivative = (sides[0] - sides[1]) / (2 * step)
        got = found.by_module[site.module][:, :, index]
        # The scorer rounds logits to float32.
        np.testing.assert_allclose(got, derivative, rtol=5e-3, atol=2e-3, err_msg=site.module)


def test_effects_do_not_depend_on_the_batch_and_leave_the_model_alone() -> None:
    model = tiny.loaded("llama")
    digest = weights_digest(model.model)
    one, all_at_once = (
        effects(
            model,
            tiny.task(),
            asked(),
            OBJECTIVES,
            model.sites,
            normalisation="per_token",
            batch_size=size,
        )
        for size in (1, 5)
    )
    for module, values in one.by_module.items():
        np.testing.assert_allclose(values, all_at_once.by_module[module], rtol=1e-4, atol=1e-5)
    assert weights_digest(model.model) == digest


def test_effects_refuse_float16_and_nothing_to_ask() -> None:
    model = tiny.loaded("llama")
    with pytest.raises(ConfigError, match="no question"):
        effects(model, tiny.task(), [], OBJECTIVES, model.sites, normalisation="total")
    half = replace(model, model=model.model.half())
    with pytest.raises(ConfigError, match="float16"):
        effects(half, tiny.task(), asked(), OBJECTIVES, model.sites, normalisation="total")


def test_predicted_gains_prefer_what_helps_on_every_template_and_harms_no_text() -> None:
    # Groups: two ambiguous templates, two disambiguated ones. Derivatives by the factor: zeroing
    # changes by their negative. Neurons: steady, unsteady, harmful to the text, harmful elsewhere.
    shares = [
        [-0.2, -0.4, -0.2, -0.2],
        [-0.2, 0.0, -0.2, -0.2],
        [0.0, 0.0, 0.0, 0.2],
        [0.0, 0.0, 0.0, 0.2],
    ]
    gold = [[0.0] * 4, [0.0] * 4, [0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.5, 0.0]]
    made = [Question(tiny.instance(2 * n + (n > 1), "x"), "", n) for n in range(4)]
    kinds = [question.instance.condition for question in made]
    assert kinds == ["ambiguous"] * 2 + ["disambiguated"] * 2
    found = predicted_gains(Effects({"m": np.array([shares, gold])}), made, -1.0, damage_weight=0.1)
    # 0.1 each; less sqrt(0.04 / 2) / 2 of uncertainty; less 0.1 * 0.5 of damage; 0.1 - 0.1.
    wanted = [0.1, 0.1 - math.sqrt(0.02) / 2, 0.1 - 0.05, 0.0]
    np.testing.assert_allclose(found["m"], wanted, atol=1e-12)


def test_lists_of_candidates_take_turns() -> None:
    one, two, three = (Move(Neuron("m", n)) for n in range(3))
    lists = [{one: 3.0, two: 2.0}, {one: 9.0, three: 8.0}, {}]
    assert alternating(lists, 5) == {one: 3.0, two: 2.0, three: 8.0}
    assert list(alternating(lists, 5)) == [one, two, three]
    assert list(alternating(lists, 2)) == [one, two]
    assert alternating([], 5) == {}


# --- panel ----------------------------------------------------------------------------------------


def block(number: int) -> tuple[Instance, ...]:
    """Two ambiguous and two disambiguated items, as BBQ's blocks."""
    return tuple(
        tiny.instance(
            4 * number + k,
            f"The market {number} {k}.",
            template=f"template-{number // 2}",
            block=f"block-{number}",
            condition="ambiguous" if k < 2 else "disambiguated",
        )
        for k in range(4)
    )


def test_questions_are_whole_blocks_in_nested_samples_under_changing_instructions() -> None:
    pool = tuple(item for number in range(6) for item in block(number))
    task = tiny.task(pool)
    made, sizes = questions(task, pool, sizes=(8, 16), instructions=None, seed=3)
    assert sizes == (8, 16)
    assert len(made) == 16
    for part in (made[:8], made):
        assert sum(q.instance.condition == "ambiguous" for q in part) == len(part) // 2
    by_block = {q.instance.block: q.instruction for q in made}
    assert all(by_block[q.instance.block] == q.instruction for q in made)
    assert sorted(by_block.values()) == sorted(task.instructions * 2)
    groups = {(q.instance.template, q.instance.condition): q.group for q in made}
    assert sorted(groups.values()) == list(range(len(groups)))
    again, _ = questions(task, tuple(reversed(pool)), sizes=(8, 16), instructions=None, seed=3)
    assert {q.instance.id for q in again[:8]} == {q.instance.id for q in made[:8]}


def test_a_panel_reads_what_predict_says_in_the_order_of_its_questions() -> None:
    model, done = tiny.loaded("llama"), []
    panel = Panel(model, tiny.task(), tuple(asked()), ScoringConfig(), done.append)
    whole, end = panel.read(), panel.read(3)
    for n, question in enumerate(asked()):
        said = predict(
            model,
            tiny.task(),
            [question.instance],
            ScoringConfig(),
            instructions=(question.instruction,),
        )
        assert said.compared is not None
        own, gold = said.compared[0, 0], question.instance.gold
        assert whole.correct[n] == (said.choice[0, 0] == gold)
        assert whole.gold[n] == pytest.approx(own[gold], abs=1e-4)
        log_share = own[gold] - np.log(np.nansum(np.exp(own)))
        assert whole.share[n] == pytest.approx(log_share, abs=1e-4)
        assert whole.decided[n] == (question.instance.condition == "disambiguated")
    np.testing.assert_allclose(end.share, whole.share[3:], atol=1e-5)
    assert sum(done) == 5 + 2


def test_packing_once_for_many_states_changes_no_answer() -> None:
    model = tiny.loaded("llama")
    panel = Panel(model, tiny.task(), tuple(asked()), ScoringConfig(), lambda _: None)
    neuron = Neuron("model.layers.0.mlp.up_proj", 3)
    linear = model.linear(neuron.module)
    before = panel.read()
    with scaled_outputs(model.model, [neuron]):
        patched = panel.read()
    assert not np.allclose(patched.gold, before.gold, atol=1e-6)
    with packed_linears(model.model):
        own = vars(linear)["forward"]
        for _ in range(2):
            with unpacked([linear]), scaled_outputs(model.model, [neuron]):
                np.testing.assert_array_equal(panel.read().gold, patched.gold)
            np.testing.assert_array_equal(panel.read().gold, before.gold)
        assert vars(linear)["forward"] is own
    assert "forward" not in vars(linear)


def test_losses_by_hand() -> None:
    decided = np.array([False, False, True, True])
    was = Reading(np.array([False, False, True, True]), np.full(4, 0.5), np.zeros(4), decided)
    now = Reading(
        np.array([True, True, True, False]),
        np.array([0.9, 0.7, 0.5, 0.1]),
        np.array([-9.0, 9.0, math.log(0.5), 0.0]),
        decided,
    )
    assert disambiguated_loss(was, now) == 0.5
    assert gold_probability_loss(was, now) == pytest.approx(1 - math.sqrt(0.5))
    assert now.objective == pytest.approx((0.8 + 0.3) / 2)
    assert now.accuracy(~decided) == 1.0
    assert now.first(2).accuracy(now.first(2).decided) is None


# --- search ---------------------------------------------------------------------------------------

A, B, C, D = (Move(Neuron("m", n)) for n in range(4))
N = 40


@dataclass
class Scripted:
    """A judge with known effects: ambiguous share, disambiguated answers lost, loss elsewhere."""

    gains: Mapping[Move, float]
    lost: Mapping[Move, int]
    elsewhere: Mapping[Move, float]
    together: Mapping[frozenset[Move], float] | None = None
    """Gains of sets that are more or less than those of their neurons."""

    def __post_init__(self) -> None:
        self.reads: list[tuple[State, int, int]] = []

    def read(self, state: State, start: int, stop: int) -> Reading:
        self.reads.append((state, start, stop))
        decided = np.arange(N) % 2 == 1
        gain = sum(self.gains.get(neuron, 0.0) for neuron in state)
        gain = (self.together or {}).get(frozenset(state), gain)
        # Three answers are wrong to begin with, so that some can be won.
        lost = 3 + sum(self.lost.get(neuron, 0) for neuron in state)
        correct = decided.copy()
        correct[np.flatnonzero(decided)[::-1][:lost]] = False
        values = np.where(decided, 0.5, 0.1 + gain)
        cut = slice(start, stop)
        return Reading(correct[cut], values[cut], np.zeros(N)[cut], decided[cut])

    def expect(self, states: Sequence[State]) -> None:
        pass

    def other_losses(self, state: State) -> Mapping[str, float]:
        return {"mrpc": sum(self.elsewhere.get(neuron, 0.0) for neuron in state)}


def search(
    judge: Scripted, *, disambiguated: float = 0.05, mrpc: float = 0.01, slack: float = 0.0
) -> Search:
    limits = {"disambiguated": disambiguated, "mrpc": mrpc}
    config = GuardConfig(min_gain=0.004, tolerance=0.002, neurons=3, slack=slack)
    return Search(judge, judge.read((), 0, N), limits, 8, config)


def test_the_search_takes_what_helps_within_the_limits() -> None:
    # One of 20 disambiguated answers is 0.05: A and C may lose one together, B loses two.
    judge = Scripted({A: 0.2, B: 0.3, C: 0.1, D: -0.1}, {A: 1, B: 2}, {})
    found = search(judge)
    assert found.extend([D, B, C, A])
    assert found.state == (A, C)
    assert found.path[-1].losses == {"disambiguated": pytest.approx(0.05), "mrpc": 0.0}
    assert found.rejected["gained less alone than it cost"] == 1
    assert found.reason() == ""
    # B is refused however often it is tried, and allowed where the limit is exactly its loss.
    assert search(judge, disambiguated=0.1).extend([B])
    assert not search(judge, disambiguated=0.0999).extend([B])


def test_the_limit_of_another_task_holds() -> None:
    judge = Scripted({A: 0.2, B: 0.1}, {}, {A: 0.02, B: 0.01})
    found = search(judge)
    found.extend([A, B])
    assert found.state == (B,)
    assert found.path[-1].losses["mrpc"] == 0.01


def test_a_loss_on_the_way_may_be_won_back_but_not_kept() -> None:
    gains = {A: 3.0, B: 2.0, C: 1.0}
    # A loses two answers of 20, the limit is one; B wins one back, C loses it again.
    judge = Scripted(gains, {A: 2, B: -1, C: 1}, {})
    strict = search(judge)
    strict.extend([A, B, C])
    strict.finish()
    assert strict.state == (B, C)
    found = search(judge, slack=0.05)
    found.extend([A, B, C])
    assert [step.state for step in found.path] == [(A,), (A, B), (A, B, C)]
    found.finish()
    assert found.state == (A, B)
    assert found.path[-1].losses["disambiguated"] == pytest.approx(0.05)
    assert found.rejected == {"lost more than allowed in disambiguated": 1}
    # What never came back is nothing.
    alone = search(judge, slack=0.05)
    assert alone.extend([A])
    alone.finish()
    assert alone.state == ()
    assert alone.reason().endswith("1 lost more than allowed in disambiguated")


def test_what_another_neuron_makes_needless_is_dropped() -> None:
    # B is taken before C, which is worth more without it.
    gains = {A: 0.3, B: 0.2, C: 0.15}
    judge = Scripted(gains, {}, {}, {frozenset((A, B, C)): 0.6, frozenset((A, C)): 0.6})
    found = search(judge)
    found.extend([A, B, C])
    assert found.state == (A, B, C)
    found.finish()
    assert found.state == (A, C)


def test_a_neuron_gets_one_factor() -> None:
    double = Move(A.neuron, 2.0)
    found = search(Scripted({A: 0.2, double: 0.3, B: 0.1}, {}, {}))
    found.extend([A, double, B])
    assert found.state == (double, B)
    assert found.path[-1].described()["factors"] == [2.0, 0.0]


def test_no_more_neurons_than_asked_and_none_that_gain_too_little() -> None:
    judge = Scripted({A: 0.1, B: 0.1, C: 0.1, D: 0.1}, {}, {})
    found = search(judge)
    found.extend([A, B, C, D])
    assert len(found.state) == 3
    # The objective is the mean of both contexts: half of 0.007 is below 0.004.
    little = search(Scripted({A: 0.007}, {}, {}))
    assert not little.extend([A])
    assert little.rejected == {"gained too little": 1}


def test_an_empty_result_says_why() -> None:
    found = search(Scripted({A: 0.2, B: -0.1}, {A: 2}, {}))
    assert not found.extend([A, B])
    assert found.reason() == (
        "no candidate helped within the limits: 1 did not help on the first questions, "
        "1 gained less alone than it cost"
    )
    # Worth its cost by the objective, but above the limit.
    found = search(Scripted({A: 2.0}, {A: 2}, {}))
    assert not found.extend([A])
    assert found.rejected == {"lost more than allowed in disambiguated": 1}
    assert search(Scripted({}, {}, {})).reason() == "there was no candidate"


def test_most_candidates_are_asked_few_questions() -> None:
    judge = Scripted({A: 0.2, B: -0.1, C: -0.1, D: -0.2}, {}, {})
    search(judge).extend([A, B, C, D])
    assert {state for state, _, stop in judge.reads if stop == N and state} == {(A,)}


# --- planted neurons ------------------------------------------------------------------------------

LAST = tiny.LAYERS - 1
# One token each: in ambiguous contexts "An" is gold, "The" where the context decides.
OPEN, NAMED, OTHER = "An", "The", "be"
HELPS, WRECKS, HOLDS = (Neuron(f"model.layers.{LAST}.mlp.up_proj", unit) for unit in (11, 13, 17))


@torch.no_grad()
def planted() -> LoadedModel:
    """Units that write into the last residual stream whatever is asked (see test_planted).

    HELPS speaks for a word that is never right. WRECKS speaks for the named option: wrong in
    ambiguous contexts, and what answers the others. HOLDS speaks for the open one, less loudly.
    """
    model = tiny.loaded("llama", seed=0, tie_word_embeddings=False)
    block = model.model.model.layers[LAST]
    model.model.model.embed_tokens.weight[:, 0] = 4.0
    block.post_attention_layernorm.weight.fill_(1.0)
    driver = 4.0 / (1 + 16 / tiny.HIDDEN) ** 0.5
    head = model.model.lm_head.weight
    words = {
        word: head[model.tokenizer(f" {word}", add_special_tokens=False).input_ids[0]]
        for word in (OPEN, NAMED, OTHER)
    }
    plan = ((HELPS, OTHER, OPEN, 6.0), (WRECKS, NAMED, OPEN, 6.0), (HOLDS, OPEN, NAMED, 3.0))
    for neuron, towards, away, strength in plan:
        unit, direction = neuron.index, words[towards] - words[away]
        block.mlp.gate_proj.weight[unit] = 0.0
        block.mlp.gate_proj.weight[unit, 0] = -1.278 / driver
        block.mlp.up_proj.weight[unit] = 0.0
        block.mlp.up_proj.weight[unit, 0] = -1.0 / driver
        block.mlp.down_proj.weight[:, unit] = strength / 0.278 * direction / direction.norm()
    return replace(model, digest=weights_digest(model.model))


def split() -> Split:
    contexts = ("An old man met her.", "Who was late?", "Nothing is known.", "The keys.")
    kinds = (
        ((OPEN, OTHER), 0, "ambiguous"),
        ((NAMED, OPEN), 1, "ambiguous"),
        ((OPEN, NAMED), 1, "disambiguated"),
        ((NAMED, OPEN), 0, "disambiguated"),
    )
    items = [
        tiny.instance(
            4 * number + k,
            context,
            words,
            gold,
            template=f"template-{number}",
            block=f"block-{number}",
            condition=condition,
            stereotyped=None,
        )
        for number, context in enumerate(contexts)
        for k, (words, gold, condition) in enumerate(kinds)
    ]
    return Split(tuple(items[:8]), tuple(items[8:]), (), "template")


def fitting(model: LoadedModel, *, guard: Mapping[str, Any] | None = None) -> Fitting:
    parts = split()
    overrides = {
        "attribution": {"instances": 8, "biased_option": "ambiguous", "instance_weight": "uniform"},
        "selection": {"n": 2},
        "guard": {
            "proposals": "both",
            "candidates": 6,
            "screening_instances": 8,
            "instances": 16,
            **(guard or {}),
        },
    }
    task = tiny.task(parts.find + parts.tune)
    return Fitting(model, task, parts, resolve(overrides))


def accuracies(model: LoadedModel, fitted: Excision) -> tuple[float, float]:
    """Ambiguous and disambiguated accuracy over find and tune."""
    parts = split()
    items = parts.find + parts.tune
    said = fitted.answers(model, tiny.task(items), items, ScoringConfig())
    correct = said.choice == said.gold
    return float(correct[:, said.ambiguous].mean()), float(correct[:, said.disambiguated].mean())


def test_plain_takes_both_planted_neurons_and_guarded_the_harmless_one() -> None:
    model = planted()
    assert accuracies(model, METHODS["original"].fit(fitting(model)))[1] == 1.0  # type: ignore[arg-type]
    plain = Crispr().excise(fitting(model))
    assert set(plain.patch.neurons) == {HELPS, WRECKS}
    assert accuracies(model, plain)[1] < 0.5

    guarded = Guarded().excise(fitting(model))
    assert HELPS in guarded.patch.neurons
    assert WRECKS not in guarded.patch.neurons
    ambiguous, disambiguated = accuracies(model, guarded)
    assert ambiguous >= 0.5
    assert disambiguated == 1.0
    described = guarded.describe()
    assert described["guards"]["disambiguated"] == {"limit": 0.02, "loss": 0.0}
    assert all(guard["loss"] <= guard["limit"] for guard in described["guards"].values())
    assert described["neurons"] == len(guarded.patch) == len(described["path"][-1]["neurons"])
    assert described["cost"]["prompts_scored"] > 16
    assert weights_digest(model.model) == model.digest


def test_it_is_the_limit_that_keeps_the_other_one_out() -> None:
    model = planted()
    # Counting ambiguous contexts only, so that the gain is worth any loss.
    parts = split()
    only = Split(
        tuple(i for i in parts.find if i.condition == "ambiguous"),
        tuple(i for i in parts.tune if i.condition == "ambiguous"),
        (),
        "template",
    )
    fit = replace(fitting(model, guard={"instances": 8, "screening_instances": 4}), split=only)
    assert {HELPS, WRECKS} <= set(Guarded().excise(fit).patch.neurons)


def test_the_same_seed_gives_the_same_result() -> None:
    model = planted()
    one, two = (dict(Guarded().excise(fitting(model)).describe()) for _ in range(2))
    for described in (one, two):
        described.pop("seconds")
    assert one == two


def test_further_rounds_start_from_the_patched_model() -> None:
    model = planted()
    found = Guarded().excise(fitting(model, guard={"rounds": 2, "proposals": "effects"}))
    first = Guarded().excise(fitting(model, guard={"proposals": "effects"}))
    # Elimination comes at the end, so that only the beginnings of the paths are the same.
    assert found.facts["path"][0] == first.facts["path"][0]
    cost, before = found.facts["cost"], first.facts["cost"]
    assert cost["prompts_attributed"] == 2 * before["prompts_attributed"]
    assert weights_digest(model.model) == model.digest


def test_nothing_within_the_limits_is_an_empty_patch_with_a_reason() -> None:
    model = planted()
    found = Guarded().excise(fitting(model, guard={"min_gain": 9.0}))
    assert len(found.patch) == 0
    described = found.describe()
    assert not described["changes_weights"]
    assert described["reason"].startswith("no candidate helped within the limits: ")
    assert described["guards"]["disambiguated"]["loss"] == 0.0


def test_another_task_is_a_guard(tmp_path: Path) -> None:
    file = str(tmp_path / "workplace.jsonl")
    Path(file).write_text(WORKPLACE.read_text(encoding="utf-8"), encoding="utf-8")
    model = planted()
    found = Guarded().excise(fitting(model, guard={"max_loss": {file: 0.5}, "other_instances": 8}))
    guard = found.describe()["guards"][file]
    assert guard["limit"] == 0.5
    assert guard["loss"] <= 0.5


def perplexity_of(model: LoadedModel, texts: Sequence[str]) -> float:
    """By the model itself, one text after the other: its first token is not scored."""
    nats, tokens = 0.0, 0
    for text in texts:
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            loss = model.model(input_ids=ids, labels=ids).loss
        nats, tokens = nats + float(loss) * (ids.shape[1] - 1), tokens + ids.shape[1] - 1
    return float(np.exp(nats / tokens))


def test_plain_text_is_a_guard(tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n\n".join(f"Row {n} of the market keeps {n} keys." for n in range(8)))
    model = planted()

    def found(limit: float) -> Any:
        given = {"max_loss": {str(text): limit}, "other_instances": 3}
        return Guarded().excise(fitting(model, guard=given))

    free = found(1e9)
    task, pool = pool_of(str(text), RunConfig(), [])
    assert len({passage.text for passage in pool}) == len(pool) == 4
    # What `evaluate` asks first.
    reported = sample(task.instances, 4, seed=RunConfig().split_seed, unit="block")
    assert not set(pool) & set(reported)
    read = sample(pool, 3, seed=0, unit="block")
    before = perplexity_of(model, [passage.text for passage in read])
    with free.patch.applied(model):
        after = perplexity_of(model, [passage.text for passage in read])
    rise = free.describe()["guards"][str(text)]["loss"]
    assert rise == pytest.approx(after / before - 1.0, rel=1e-4)
    assert rise > 1e-3
    held = found(rise / 2)
    # Another patch, not none: what the text costs is what was refused.
    assert len(held.patch) > 0
    assert held.describe()["rejected"][f"lost more than allowed in {text}"] > 0
    assert held.describe()["guards"][str(text)]["loss"] <= rise / 2


def test_guards_ask_no_item_that_is_reported(tmp_path: Path) -> None:
    def written(name: str, numbers: range) -> str:
        rows = [
            {"question": f"What is {n} plus one?", "options": [str(n), str(n + 1)], "gold": 1}
            for n in numbers
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    whole, part, other = (
        written(name, numbers)
        for name, numbers in (("whole", range(40)), ("part", range(12)), ("other", range(40, 60)))
    )
    config = RunConfig()
    tasks = {path: load_task(path) for path in (whole, part, other)}
    reported = {item.content for item in load_task(part).instances}
    asked = {item.content for item in pool_of(whole, config, [tasks[part]])[1]}
    split = split_instances(load_task(whole).instances, by="template", seed=0)
    assert asked == {item.content for item in split.find + split.tune} - reported
    assert len(asked) < len(split.find + split.tune)
    # Ids are row-0, row-1, ... in every file.
    unrelated = split_instances(load_task(other).instances, by="template", seed=0)
    assert pool_of(other, config, [tasks[part]])[1] == unrelated.find + unrelated.tune
    with pytest.raises(ConfigError, match="nothing but items of the tasks of this run"):
        pool_of(part, config, [tasks[whole]])
    # Of the same split: as a guard of another task of the run.
    own = pool_of(part, config, [tasks[other], tasks[part]])[1]
    of_part = split_instances(load_task(part).instances, by="template", seed=0)
    assert own == of_part.find + of_part.tune


def test_a_guard_without_correct_options_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.task((replace(tiny.INSTANCES[0], gold=-1), *tiny.INSTANCES[1:]))
    monkeypatch.setattr("excise.methods.guarded.pools.load_task", lambda *_, **__: task)
    with pytest.raises(ConfigError, match="no correct option to choose"):
        pool_of("toy", RunConfig(), [])


def test_dropping_costs_no_more_than_the_tolerance_in_all() -> None:
    # Each is worth nearly as much as may be lost.
    moves = tuple(Move(Neuron("m", n)) for n in range(6))
    found = search(Scripted(dict.fromkeys(moves, 0.005), {}, {}))
    found.config = found.config.model_copy(
        update={"min_gain": 0.001, "tolerance": 0.004, "neurons": 6}
    )
    found.extend(moves)
    assert len(found.state) == 6
    best = found.path[-1].reading.objective
    found.finish()
    assert 1 < len(found.state) < 6
    assert best - found.path[-1].reading.objective <= 0.004


def test_unknown_guards_and_generated_answers_are_refused(tmp_path: Path) -> None:
    model = planted()
    text = tmp_path / "plain.txt"
    text.write_text("The market.\n", encoding="utf-8")
    letters = tmp_path / "letters.txt"
    letters.write_text("a\n\nb\n", encoding="utf-8")
    with pytest.raises(UnknownNameError, match=r"unknown guard 'disambiguatd'.*'disambiguated'"):
        Guarded().fit(fitting(model, guard={"max_loss": {"disambiguatd": 0.1}}))
    with pytest.raises(ConfigError, match="is the task that the patch is for"):
        Guarded().fit(fitting(model, guard={"max_loss": {"toy": 0.1}}))
    with pytest.raises(ConfigError, match="holds one passage"):
        Guarded().fit(fitting(model, guard={"max_loss": {str(text): 0.1}}))
    with pytest.raises(ConfigError, match="holds no token to score"):
        # An encoder reads the first half of a passage, which is all of a single token.
        Guarded().fit(fitting(tiny.loaded("t5"), guard={"max_loss": {str(letters): 0.1}}))
    fit = fitting(model)
    scoring = fit.config.scoring.model_copy(update={"mode": "generation"})
    fit = replace(fit, config=fit.config.model_copy(update={"scoring": scoring}))
    with pytest.raises(ConfigError, match="compares shares of options"):
        Guarded().fit(fit)


# --- options --------------------------------------------------------------------------------------


def limits_of(*values: str) -> Mapping[str, float]:
    given = SimpleNamespace(params={"max_loss": values or None})
    return resolving.resolve(given).guard.max_loss  # type: ignore[arg-type]


def test_limits_on_the_command_line_add_to_the_defaults() -> None:
    default = RunConfig().guard.max_loss
    assert limits_of() == default
    assert limits_of("disambiguated=0,mrpc=0.01", "a=b.csv=1") == {
        **default,
        "disambiguated": 0.0,
        "mrpc": 0.01,
        "a=b.csv": 1.0,
    }
    for wrong in ("mrpc", "=1", "mrpc=", "mrpc=x"):
        with pytest.raises(ConfigError, match="--max-loss needs NAME=LIMIT"):
            limits_of(wrong)
    with pytest.raises(ConfigError, match="limits of at least 0"):
        limits_of("mrpc=-1")


def test_limits_survive_the_configuration_file(tmp_path: Path) -> None:
    config = resolve({"guard": {"max_loss": {"bbq-age": 0.03}}})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert resolve({}, file=file).guard == config.guard
    with pytest.raises(ConfigError, match="screening_instances must not be more"):
        resolve({"guard": {"instances": 4}})
