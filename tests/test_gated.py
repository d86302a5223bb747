"""Gated excision: learned factors, held-out decisions, limits; a planted pair; the test bed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import test_guarded as planted_pair
import tiny
from excise.attribution.effects import Question, compared
from excise.attribution.layouts import layout_for
from excise.config import AttributionConfig, GateConfig, RunConfig, ScoringConfig, resolve
from excise.errors import ConfigError, NonFiniteError
from excise.evaluation import predict
from excise.methods import METHODS, Excision, Fitting
from excise.methods.gated import Gated, deciding
from excise.methods.gated.deciding import Judge, Tried, chosen_of, moved_by
from excise.methods.gated.gates import Gates
from excise.methods.gated.passes import batches, held_out, passes
from excise.methods.gated.training import Lesson, Steps, gold_of
from excise.methods.guarded.panel import Reading, joined, reading
from excise.models import LoadedModel, load, weights_digest
from excise.patches import scaled_outputs
from excise.scoring import encode
from excise.splits import sample, split_instances
from excise.tasks import load_task
from excise.types import Instance, Neuron, Task

# --- gates ----------------------------------------------------------------------------------------


def logits(model: LoadedModel) -> torch.Tensor:
    ids = model.tokenizer("An old man met her.", return_tensors="pt").input_ids
    return model.model(input_ids=ids).logits


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gates_do_what_the_patch_does(name: str) -> None:
    model = tiny.loaded(name)
    chosen = [Neuron(site.module, index) for site in model.sites[:3] for index in (0, 5)]
    gates = Gates.of(model, chosen)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in gates.values.values():
            values.copy_(2 * torch.rand(values.shape, generator=generator))
    with gates.applied(model), torch.no_grad():
        gated = logits(model)
    exact = [float(v) for values in gates.values.values() for v in values.detach()]
    with scaled_outputs(model.model, gates.neurons, exact), torch.no_grad():
        scaled = logits(model)
    assert not torch.allclose(gated, logits(model), atol=1e-3)
    torch.testing.assert_close(gated, scaled, atol=1e-5, rtol=1e-5)


def test_only_the_factors_get_a_gradient_and_the_model_comes_back() -> None:
    model = tiny.loaded("llama")
    flags = [p.requires_grad for p in model.model.parameters()]
    gates = Gates.of(model, [Neuron(model.sites[0].module, 3)])
    with gates.applied(model):
        torch.autograd.backward(logits(model).square().mean())
        assert not any(p.requires_grad for p in model.model.parameters())
    assert gates.values[model.sites[0].module].grad is not None
    assert all(p.grad is None for p in model.model.parameters())
    assert [p.requires_grad for p in model.model.parameters()] == flags
    assert weights_digest(model.model) == model.digest


def test_factors_go_part_of_the_way_and_stay_in_their_range() -> None:
    model = tiny.loaded("llama")
    gates = Gates.of(model, [Neuron(model.sites[0].module, i) for i in (7, 2, 4, 4)])
    assert [n.index for n in gates.neurons] == [2, 4, 7]
    with torch.no_grad():
        gates.values[model.sites[0].module].copy_(torch.tensor([-0.5, 1.4, 3.0]))
    gates.clamp(0.0, 2.0)
    assert gates.factors() == (0.0, 1.4, 2.0)
    gates.shrink(0.5)
    assert gates.factors() == (0.5, 1.0, 1.5)
    assert gates.factors(0.5) == gates.partly(0.5).factors() == (0.75, 1.0, 1.25)
    assert gates.partly(0.2).factors() == (0.9, 1.0, 1.1)
    assert gates.factors() == (0.5, 1.0, 1.5)


def test_those_that_cost_most_to_reset_stay_with_their_factors() -> None:
    model = tiny.loaded("llama")
    first, second, third = (site.module for site in model.sites[:3])
    gates = Gates.of(model, [Neuron(m, i) for m in (first, second, third) for i in (0, 3)])
    with torch.no_grad():
        for n, values in enumerate(gates.values.values()):
            values.copy_(torch.tensor([0.1, 0.2]) + n)
    names = list(gates.values)
    costs = {
        names[0]: torch.tensor([0.5, 3.0]),
        names[1]: torch.tensor([-9.0, 0.0]),
        names[2]: torch.tensor([2.0, 1.0]),
    }
    few = gates.only(costs, 3)
    assert few.neurons == (Neuron(names[0], 3), Neuron(names[2], 0), Neuron(names[2], 3))
    assert few.factors() == (0.2, 2.1, 2.2)
    assert list(few.values) == list(few.indices) == [names[0], names[2]]
    assert [indices.tolist() for indices in few.indices.values()] == [[3], [0, 3]]
    with few.applied(model):
        gated = logits(model)
        torch.autograd.backward(gated.square().mean())
    assert all(values.grad is not None for values in few.values.values())
    with scaled_outputs(model.model, few.neurons, few.factors()), torch.no_grad():
        torch.testing.assert_close(gated.detach(), logits(model), atol=1e-5, rtol=1e-5)
    assert gates.only(costs, 99).neurons == gates.neurons


# --- what is learned ------------------------------------------------------------------------------


def steps(rate: float) -> Steps:
    return Steps(rate, low=0.0, high=1.0, sparsity=0.0)


def lesson(model: LoadedModel, **options: Any) -> Lesson:
    told = tiny.task().instructions
    asked = tuple(Question(instance, told[0], 0) for instance in tiny.INSTANCES)
    scoring = ScoringConfig(normalisation="per_token")
    gate = GateConfig(**options)
    passes = (asked,) * gate.epochs
    original = gold_of(model, tiny.task(), passes, scoring, lambda n: None)
    return Lesson(model, tiny.task(), passes, original, scoring, gate, lambda n: None)


@pytest.mark.parametrize("name", ["llama", "bloom", "t5-gated"])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(name: str) -> None:
    model = tiny.loaded(name)
    model.model.double()
    teaching = lesson(model, decided_weight=3.0, gold_weight=2.0)
    # A text that lies below the original's: the second term of the loss is at work.
    teaching = replace(teaching, original={name: at + 1 for name, at in teaching.original.items()})
    told = tiny.task().instructions[0]
    items = encode(model, tiny.task(), told, tiny.INSTANCES, end_token=False)
    pairs = list(zip(teaching.passes[0], items, strict=True))
    config = AttributionConfig(tokens="sum", skip_first_token=False)

    def loss(gates: Gates) -> torch.Tensor:
        with gates.applied(model):
            likelihoods = layout_for(model, items, config).log_likelihoods()
            return teaching.loss(compared(likelihoods, pairs, "per_token"), teaching.passes[0])

    for site in (model.sites[0], model.sites[-1]):
        gates = Gates.of(model, [Neuron(site.module, 1)])
        gates.values[site.module] = torch.ones(1, dtype=torch.float64, requires_grad=True)
        value = loss(gates)
        torch.autograd.backward(value)
        sides = []
        for step in (1e-2, -1e-2):
            moved = replace(gates, values={site.module: torch.tensor([1.0 + step]).double()})
            with torch.no_grad():
                sides.append(float(loss(moved)))
        gradient = gates.values[site.module].grad
        assert gradient is not None
        measured = (sides[0] - sides[1]) / 2e-2
        assert float(gradient) == pytest.approx(
            measured, rel=1e-2, abs=1e-4
        )  # shares are in float32


def test_the_loss_by_hand() -> None:
    # One ambiguous question with a share of 1/2; one decided with a share of 1/4 whose gold text
    # lost 0.5 nats per token, 0.001 of them for rounding: (ln 2 + 3 ln 4 + 2 * 0.499) / 2.
    asked = [
        Question(replace(pool_of(1)[0], condition="ambiguous"), "told", 0),
        Question(replace(pool_of(1)[1], condition="disambiguated"), "told", 0),
    ]
    nothing: Any = None
    config = GateConfig(decided_weight=3.0, gold_weight=2.0)
    original = {("item-1", "told"): -1.0}
    teaching = Lesson(nothing, nothing, (tuple(asked),), original, nothing, config, nothing)
    half = torch.log(torch.tensor([0.5, 0.5]))
    quarter = torch.log(torch.tensor([0.75, 0.25]))
    answers = [(half, torch.tensor([-5.0, -5.0]), 0), (quarter, torch.tensor([-1.0, -1.5]), 1)]
    loss = teaching.loss(answers, asked)
    assert float(loss) == pytest.approx((math.log(2) + 3 * math.log(4) + 2 * 0.499) / 2)
    # A kept question with a share of 1/4 weighs as much; what its text lost does not count.
    with_kept = teaching.loss(answers, asked, answers[1:])
    assert float(with_kept) == pytest.approx((math.log(2) + 6 * math.log(4) + 2 * 0.499) / 3)
    # Without ambiguous questions there is nothing to weigh against.
    alone = replace(teaching, passes=((asked[1],),))
    assert float(alone.loss(answers[1:], asked[1:])) == pytest.approx(math.log(4) + 2 * 0.499)


def test_each_question_is_held_against_its_own_original() -> None:
    # Two instructions and prompts of several lengths: the batch is sorted, the readings are not.
    model = tiny.loaded("llama")
    task = tiny.task()
    asked = tuple(
        Question(instance, told, 0) for told in task.instructions for instance in tiny.INSTANCES
    )
    scoring = ScoringConfig(normalisation="per_token")
    readings = [
        reading(predict(model, task, tiny.INSTANCES, scoring, instructions=(told,)))
        for told in task.instructions
    ]
    original = joined(readings)
    config = GateConfig(gold_weight=10.0)
    teaching = Lesson(
        model,
        task,
        (asked,),
        {
            (question.instance.id, question.instruction): gold + 0.1 * n
            for n, (question, gold) in enumerate(zip(asked, original.gold.tolist(), strict=True))
        },
        scoring,
        config,
        lambda n: None,
    )
    assert gold_of(model, task, (asked,), scoring, lambda n: None) == pytest.approx(
        {
            (question.instance.id, question.instruction): gold
            for question, gold, kind in zip(
                asked, original.gold.tolist(), original.decided.tolist(), strict=True
            )
            if kind
        },
        abs=1e-5,
    )
    chosen = [8, 1, 6, 3]
    with torch.no_grad():
        got = float(teaching._loss_of([asked[n] for n in chosen]))
    by_hand = []
    for n in chosen:
        weight = 3.0 if original.decided[n] and not original.decided.all() else 1.0
        lost = max(0.0, 0.1 * n - 1e-3) if original.decided[n] else 0.0
        by_hand.append(-weight * original.share[n] + 10.0 * lost)
    assert got == pytest.approx(np.mean(by_hand), abs=1e-4)


def test_learning_raises_the_share_and_is_the_same_twice() -> None:
    model = tiny.loaded("llama")
    chosen = [Neuron(site.module, i) for site in model.sites for i in range(4)]
    losses = []
    for _ in range(2):
        teaching = lesson(model, epochs=3, gold_weight=0.0)
        gates = Gates.of(model, chosen)
        teaching.learn(gates, teaching.passes, steps(0.2))
        with gates.applied(model), torch.no_grad():
            said = predict(
                model,
                tiny.task(),
                tiny.INSTANCES,
                teaching.scoring,
                instructions=tiny.task().instructions[:1],
            )
        losses.append((gates.factors(), reading(said).objective))
    assert losses[0] == losses[1]
    said = predict(
        model,
        tiny.task(),
        tiny.INSTANCES,
        ScoringConfig(normalisation="per_token"),
        instructions=tiny.task().instructions[:1],
    )
    assert losses[0][1] > reading(said).objective + 0.05
    assert weights_digest(model.model) == model.digest


def test_steps_shrink_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two passes of two steps: 4/4, 3/4, 2/4 and 1/4 of the rate. A constant gradient moves Adam by
    # the whole rate every time.
    model = tiny.loaded("llama")
    teaching = lesson(model, epochs=2, batch_size=3)
    assert [len(batches(asked, 3)) for asked in teaching.passes] == [2, 2]
    gates = Gates.of(model, [Neuron(model.sites[0].module, 1)])
    (values,) = gates.values.values()
    monkeypatch.setattr(Lesson, "_loss_of", lambda *_: values.sum())
    teaching.learn(gates, teaching.passes, steps(0.1))
    (factor,) = gates.factors()
    assert factor == pytest.approx(1 - 0.1 * (1 + 0.75 + 0.5 + 0.25), abs=1e-4)
    # A pull of a tenth of each step; and a range that ends before the last one.
    for how, expected in ((Steps(0.1, 0.0, 1.0, 0.1), 0.775), (Steps(0.1, 0.8, 1.0, 0.0), 0.8)):
        gates = Gates.of(model, [Neuron(model.sites[0].module, 1)])
        (values,) = gates.values.values()
        teaching.learn(gates, teaching.passes, how)
        assert gates.factors()[0] == pytest.approx(expected, abs=1e-4)


def test_costs_add_up_to_the_rise_of_the_loss() -> None:
    model = tiny.loaded("llama")
    teaching = lesson(model, batch_size=100)  # one step
    chosen = [Neuron(site.module, 1) for site in model.sites]
    gates = Gates.of(model, chosen)
    with torch.no_grad():
        for n, values in enumerate(gates.values.values()):
            values.copy_(torch.tensor([(-2.0, 0.0, 3.0)[n % 3]]))

    def loss_with(factors: Gates) -> float:
        with factors.applied(model), torch.no_grad():
            return float(teaching._loss_of(teaching.passes[0]))

    rise = loss_with(Gates.of(model, chosen)) - loss_with(gates)
    costs = teaching.costs(gates, teaching.passes[0])
    assert abs(rise) > 0.01
    assert float(sum(c.sum() for c in costs.values())) == pytest.approx(rise, rel=0.05)
    # Each is (1 - factor) times the gradient, a mean over three points of the way, here by finite
    # differences.
    for site in (model.sites[2], model.sites[-1]):
        slopes = []
        for point in (1 / 6, 3 / 6, 5 / 6):
            sides = []
            for step in (1e-2, -1e-2):
                moved = gates.partly(point)
                with torch.no_grad():
                    moved.values[site.module] += step
                sides.append(loss_with(moved))
            slopes.append((sides[0] - sides[1]) / 2e-2)
        by_hand = np.mean(slopes) * (1 - gates.values[site.module].item())
        assert costs[site.module].item() == pytest.approx(by_hand, rel=0.02, abs=2e-4)
    assert gates.factors()[:3] == (-2.0, 0.0, 3.0)


def test_costs_ask_a_third_of_the_steps_at_each_point() -> None:
    # Four steps: each of three points asks the first two of them.
    counted: list[int] = []
    model = tiny.loaded("llama")
    teaching = replace(lesson(model, batch_size=1), advance=counted.append)
    asked = [
        Question(replace(each, block=each.id), tiny.task().instructions[0], 0)
        for each in tiny.INSTANCES[:4]
    ]
    assert len(batches(asked, 1)) == 4
    costs = teaching.costs(Gates.of(model, [Neuron(model.sites[0].module, 1)]), asked)
    assert counted == [1] * 6
    assert costs[model.sites[0].module].tolist() == [0.0]
    # The mean of what these two cost alone.
    away = Gates.of(model, [Neuron(model.sites[0].module, 1)])
    with torch.no_grad():
        away.values[model.sites[0].module].fill_(-2.0)
    both, one, other = (
        teaching.costs(away, some)[model.sites[0].module].item()
        for some in (asked, asked[:1], asked[1:2])
    )
    assert one != pytest.approx(other, rel=0.01)
    assert both == pytest.approx((one + other) / 2, rel=1e-3)


# --- what is asked when ---------------------------------------------------------------------------


def pool_of(n_blocks: int, size: int = 4) -> tuple[Instance, ...]:
    return tuple(
        tiny.instance(n, "Who?", ("a", "b"), 0, template=f"t{n % 3}", block=f"b{n // size}")
        for n in range(n_blocks * size)
    )


def test_passes_ask_new_blocks_first_and_then_other_instructions() -> None:
    task = tiny.task()
    told = task.instructions
    assert len(told) > 1
    gate = GateConfig(instances=8, epochs=3, neurons=None)
    wide = passes(task, pool_of(6), gate, seed=0)
    assert [len(each) for each in wide] == [8, 8, 8]
    assert len({q.instance.id for each in wide for q in each}) == 24
    narrow = passes(task, pool_of(3), gate, seed=0)
    asked = [(q.instance.block, q.instruction) for each in narrow for q in each]
    # Three blocks for six places: each comes twice, under two instructions.
    assert len(asked) == 24
    assert len(set(asked)) == 6
    assert all(len({q.instance.block for q in each}) == 2 for each in narrow)
    for each in narrow:
        for block in {q.instance.block for q in each}:
            assert len({q.instruction for q in each if q.instance.block == block}) == 1
    assert passes(task, pool_of(6), gate, seed=0) == wide
    assert passes(task, pool_of(6), gate, seed=1) != wide
    one = passes(
        task, pool_of(6), GateConfig(instances=8, epochs=3, neurons=None, instructions=1), seed=0
    )
    assert {q.instruction for each in one for q in each} == {told[0]}


def test_a_pass_over_a_small_pool_asks_each_block_once() -> None:
    gate = GateConfig(instances=100, epochs=1, few_passes=(1,))
    assert [len(each) for each in passes(tiny.task(), pool_of(3), gate, seed=0)] == [12, 12]


def test_blocks_are_not_divided_over_steps() -> None:
    asked = [Question(i, "", 0) for i in pool_of(3, size=4)]
    assert [len(b) for b in batches(asked, 4)] == [4, 4, 4]
    assert [len(b) for b in batches(asked, 7)] == [4, 4, 4]
    assert [len(b) for b in batches(asked, 8)] == [8, 4]
    assert [len(b) for b in batches(asked, 1)] == [4, 4, 4]
    singles = [Question(i, "", 0) for i in pool_of(5, size=1)]
    assert [len(b) for b in batches(singles, 2)] == [2, 2, 1]
    assert [q for b in batches(asked, 8) for q in b] == asked
    assert batches([], 4) == []


# --- which questions decide -----------------------------------------------------------------------


def test_other_templates_decide() -> None:
    pool = tuple(
        tiny.instance(n, "Who?", ("a", "b"), 0, template=f"t{n % 5}", block=f"b{n}")
        for n in range(20)
    )
    teach, decide = held_out(pool, 0.3, seed=0)
    assert sorted(i.id for i in teach + decide) == sorted(i.id for i in pool)
    assert len({i.template for i in decide}) == 2  # 0.3 of 5, rounded up
    assert not {i.template for i in teach} & {i.template for i in decide}
    assert held_out(pool, 0.3, seed=0) == (teach, decide)
    assert any(held_out(pool, 0.3, seed=s)[1] != decide for s in range(1, 5))


def test_a_single_template_is_divided_by_blocks() -> None:
    pool = tuple(
        tiny.instance(n, "Who?", ("a", "b"), 0, template="t", block=f"b{n // 2}") for n in range(8)
    )
    teach, decide = held_out(pool, 0.5, seed=1)
    assert len(decide) == len(teach) == 4
    assert not {i.block for i in teach} & {i.block for i in decide}
    with pytest.raises(ConfigError, match="two questions at least"):
        held_out(pool[:1], 0.5, seed=0)


# --- the method -----------------------------------------------------------------------------------


def fitting(model: LoadedModel, **overrides: Any) -> Fitting:
    base = planted_pair.fitting(model)
    gate = {
        "neurons": 6,
        "instances": 16,
        "deciding_instances": 16,
        "learning_rate": 0.1,
        "few_passes": (1, 1),
        "few_learning_rate": 0.3,
    }
    options = {**base.config.model_dump(exclude_unset=True), "gate": gate, **overrides}
    return replace(base, config=resolve(options))


def test_a_planted_pair_is_scaled_within_the_limits() -> None:
    model = planted_pair.planted()
    fitted = Gated().excise(fitting(model))
    ambiguous, disambiguated = planted_pair.accuracies(model, fitted)
    assert ambiguous >= 0.5
    assert disambiguated == 1.0
    described = fitted.describe()
    assert described["chosen"]["exceeded"] is None
    assert described["neurons"] == len(fitted.patch) == described["chosen"]["neurons"]
    # The strongest state holds the limits, so no weaker one is asked.
    assert [each["strength"] for each in described["tried"]] == [0.8]
    assert described["neurons_with_factors"] == 6
    assert all(-8.0 <= factor <= 10.0 for factor in fitted.patch.by_neuron.values())
    assert list(fitted.patch.scores) == sorted(fitted.patch.scores, reverse=True)
    assert weights_digest(model.model) == model.digest
    assert Gated().excise(fitting(model)).patch == fitted.patch


def test_nothing_learned_is_an_empty_patch() -> None:
    # Without a step no state changes anything, so none is better than the original.
    model = planted_pair.planted()
    fitted = Gated().excise(
        fitting(model, gate={"epochs": 1, "learning_rate": 1e-6, "few_learning_rate": 1e-6})
    )
    assert len(fitted.patch) == 0
    assert fitted.describe()["chosen"] is None


def test_a_gain_beyond_the_limits_is_an_empty_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = planted_pair.planted()
    monkeypatch.setattr(deciding, "OWN", {"disambiguated": lambda original, now: 0.5})
    for limit, strengths in ((0.5, [0.8]), (0.4, [0.8, 0.7, 0.6, 0.5, 0.4, 0.3])):
        guard = {"max_loss": {"disambiguated": limit, "gold_probability": 1.0}}
        described = Gated().excise(fitting(model, guard=guard)).describe()
        assert described["tried"][0]["accuracy"] > described["original"]["accuracy"]
        assert [each["strength"] for each in described["tried"]] == strengths
        assert (described["neurons"] == 0) == (limit == 0.4)


def test_a_limit_on_plain_text_asks_for_weaker_states(tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n\n".join(f"Row {n} of the market keeps {n} keys." for n in range(6)))

    def tried(limit: float) -> list[Any]:
        guard = {"max_loss": {"disambiguated": 1.0, str(text): limit}}
        described = Gated().excise(fitting(planted_pair.planted(), guard=guard)).describe()
        return list(described["tried"])

    (strongest,) = tried(1e9)
    rise = strongest["losses"][str(text)]
    assert rise > 1e-3
    first, *weaker = tried(0.9 * rise)
    assert (first["exceeded"], first["losses"]) == (str(text), strongest["losses"])
    assert weaker[-1]["exceeded"] is None
    assert weaker[-1]["losses"][str(text)] <= 0.9 * rise


def read(right_ambiguous: int, right_decided: int, objective: float = -1.0) -> Reading:
    """Ten questions of each kind."""
    right = [n < right_ambiguous for n in range(10)] + [n < right_decided for n in range(10)]
    return Reading(
        correct=np.array(right),
        share=np.full(20, objective),
        gold=np.zeros(20),
        decided=np.arange(20) >= 10,
    )


def state(n: int, reading: Reading, exceeded: str | None = None) -> Tried:
    factors = {Neuron("m", index): 0.5 for index in range(n)}
    return Tried(1.0, factors, reading, {}, exceeded)


def test_the_state_within_the_limits_is_chosen_if_it_gains_accuracy() -> None:
    original = read(2, 8)
    beyond, within = state(5, read(10, 4), "disambiguated"), state(5, read(8, 8))
    assert chosen_of([beyond, within], original) is within
    assert chosen_of([beyond], original) is None
    # Both kinds weigh the same, and the objective alone is no gain.
    assert chosen_of([state(5, read(4, 7))], original) is not None
    assert chosen_of([state(5, read(3, 7))], original) is None
    assert chosen_of([state(5, read(2, 8, -0.1))], original) is None
    # 0.7 + 0.1 and 0.6 + 0.2 differ in the last digit.
    assert chosen_of([state(5, read(2, 6))], read(1, 7)) is None


def test_strengths_scale_what_moved_at_full_strength() -> None:
    model = tiny.loaded("llama")
    module = model.sites[0].module
    gates = Gates.of(model, [Neuron(module, n) for n in range(3)])
    with torch.no_grad():
        gates.values[module].copy_(torch.tensor([0.97, 0.99, 0.5]))
    assert moved_by(gates) == {Neuron(module, 0): 0.97, Neuron(module, 2): 0.5}
    assert moved_by(gates, 0.5) == {Neuron(module, 0): 0.985, Neuron(module, 2): 0.75}


def test_states_are_asked_from_the_strongest_down_until_one_holds() -> None:
    losses = {1.0: 0.3, 0.8: 0.1, 0.6: 0.02, 0.4: 0.0}
    asked = []

    class Counting(Judge):
        def tried(self, strength: float, factors: Any) -> Tried:
            asked.append(strength)
            lost = losses[strength]
            return state(1, read(5, 5), "disambiguated" if lost > 0.02 else None)

    model = tiny.loaded("llama")
    gates = Gates.of(model, [Neuron(model.sites[0].module, 0)])
    nothing: Any = None
    judge = Counting(model, nothing, read(5, 5), {"disambiguated": 0.02}, ())
    states = judge.down(gates, (0.4, 0.6, 0.8, 1.0))
    assert asked == [1.0, 0.8, 0.6]
    assert [each.exceeded for each in states] == ["disambiguated", "disambiguated", None]


def test_another_task_is_asked_where_the_own_limits_hold() -> None:
    model = tiny.loaded("llama")
    asked: list[str] = []

    def loss() -> float:
        asked.append("other")
        return 0.02

    other: Any = SimpleNamespace(name="other", limit=0.01, loss=loss)
    panel: Any = SimpleNamespace(read=lambda: read(5, 5))
    limits = {"disambiguated": 0.02, "other": 0.01}
    tried = Judge(model, panel, read(2, 5), limits, (other,)).tried(1.0, {})
    assert (tried.exceeded, asked) == ("other", ["other"])
    tried = Judge(model, panel, read(2, 9), limits, (other,)).tried(1.0, {})
    assert (tried.exceeded, asked) == ("disambiguated", ["other"])


def test_states_beyond_the_limits_are_refused() -> None:
    # Taught by ambiguous questions alone, the model says "unknown" in the other contexts, too.
    model = planted_pair.planted()
    gate = {
        "neurons": "all",
        "instances": 16,
        "deciding_instances": 16,
        "decided_weight": 1e-6,
        "gold_weight": 0.0,
        "learning_rate": 0.3,
        "strengths": (1.0,),
    }
    for limit, exceeded in ((0.0, "disambiguated"), (1.0, None)):
        guard = {"max_loss": {"disambiguated": limit, "gold_probability": 1.0}}
        fitted = Gated().excise(fitting(model, gate=gate, guard=guard))
        (tried,) = fitted.describe()["tried"]
        assert tried["losses"]["disambiguated"] > 0.0
        assert tried["exceeded"] == exceeded
        # What is won in one kind is lost in the other: no gain, limits or not.
        assert fitted.describe()["chosen"] is None
        assert len(fitted.patch) == 0


@pytest.mark.parametrize(("neurons", "sizes"), [(6, [448, 54, 18, 6]), ("all", [448])])
def test_stages_have_fewer_neurons_more_passes_and_larger_steps(
    neurons: Any, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[tuple[int, int, Steps]] = []
    asked_in_all: list[Any] = []
    every: list[Any] = []
    asked_for_costs: list[Any] = []
    dearest: list[Neuron] = []
    learn, costs_of = Lesson.learn, Lesson.costs

    def watched(teaching: Lesson, gates: Gates, asked: Any, how: Steps, kept: Any) -> None:
        assert not dearest or dearest[-1] in gates.neurons
        assert kept is None if neurons != "all" and not learned else list(kept) == []
        learned.append((len(gates.neurons), len(asked), how))
        asked_in_all.extend(asked)
        every[:] = teaching.passes
        learn(teaching, gates, asked, how, kept)

    def costs(teaching: Lesson, gates: Gates, asked: Any) -> Any:
        # Of the neurons of the stage before, by the questions that come next.
        assert len(gates.neurons) == learned[-1][0]
        asked_for_costs.append((asked, len(asked_in_all)))
        found = costs_of(teaching, gates, asked)
        flat = torch.cat([found[module] for module in gates.values])
        dearest.append(gates.neurons[int(flat.argmax())])
        return found

    monkeypatch.setattr(Lesson, "learn", watched)
    monkeypatch.setattr(Lesson, "costs", costs)
    gate = {
        "neurons": neurons,
        "instances": 16,
        "deciding_instances": 16,
        "epochs": 1,
        "few_passes": (1, 1, 2),
        "few_learning_rate": 0.4,
    }
    fitted = Gated().excise(fitting(planted_pair.planted(), gate=gate))
    assert [size for size, _, _ in learned] == sizes
    assert fitted.describe()["neurons_with_factors"] == sizes[-1]
    stages = [(1, 0.4 / 2.3**2), (1, 0.4 / 2.3), (2, 0.4)][: len(sizes) - 1]
    assert [(n, how) for _, n, how in learned] == [
        (1, Steps(0.03, -1.0, 3.0, 0.4)),
        *((n, Steps(rate, -8.0, 10.0, 0.0)) for n, rate in stages),
    ]
    # Every pass is asked once.
    assert asked_in_all == every
    assert [asked for asked, _ in asked_for_costs] == [every[n] for _, n in asked_for_costs]
    assert len(asked_for_costs) == len(stages)


def test_a_loss_that_is_not_finite_names_the_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.loaded("llama")
    teaching = lesson(model, epochs=1)
    gates = Gates.of(model, [Neuron(model.sites[0].module, 1)])
    monkeypatch.setattr(Lesson, "loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(NonFiniteError, match="item-0"):
        teaching.learn(gates, teaching.passes, steps(0.1))


def test_damage_that_no_deciding_question_shows_is_refused() -> None:
    base = fitting(planted_pair.planted())
    teach, decide = held_out(
        base.split.find + base.split.tune, base.config.gate.deciding_share, base.seed
    )
    ambiguous = tuple(replace(each, condition="ambiguous") for each in decide)
    split = replace(base.split, find=teach + ambiguous, tune=())
    with pytest.raises(ConfigError, match="damage there could not be limited"):
        Gated().excise(replace(base, split=split))
    # Limits of 1 are none.
    guard = {"max_loss": {"disambiguated": 1.0, "gold_probability": 1.0}}
    unlimited = fitting(planted_pair.planted(), guard=guard)
    assert Gated().excise(replace(unlimited, split=split)).describe()["limits"] == {}
    # Where nothing is disambiguated, there is nothing to lose.
    nobody = tuple(replace(each, condition="ambiguous") for each in teach + ambiguous)
    fitted = Gated().excise(replace(base, split=replace(split, find=nobody)))
    assert fitted.describe()["limits"] == {}


def test_generated_answers_are_refused() -> None:
    model = planted_pair.planted()
    with pytest.raises(ConfigError, match="'gated' learns from shares"):
        Gated().fit(fitting(model, scoring={"mode": "generation"}))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"low": 1.5}, "low must not be above 1"),
        ({"few_low": 1.5}, "low and few_low must not be above 1"),
        ({"strengths": ()}, "strengths must hold at least one number"),
        ({"few_passes": ()}, "few_passes must hold at least one number"),
    ],
)
def test_options_out_of_range_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"gate": section})


@pytest.mark.parametrize("kind", ["t5", "causal"])
def test_it_closes_the_gap_to_the_twin_on_the_test_bed(kind: str) -> None:
    model, task = load(f"testbed-{kind}", device="cpu"), load_task("testbed")
    assert isinstance(task, Task)
    parts = split_instances(task.instances, by="template", seed=0)
    config: RunConfig = resolve(
        {
            "guard": {"max_loss": {"disambiguated": 0.01, "gold_probability": 0.1}},
            "gate": {
                "deciding_instances": 64,
            },
        }
    )
    fitted = METHODS["gated"].fit(Fitting(model, task, parts, config))
    assert isinstance(fitted, Excision)
    asked = sample(parts.test, 80, seed=0, unit="block")
    told = task.instructions[:2]
    shares = []
    for answers in (
        predict(model, task, asked, config.scoring, instructions=told),
        fitted.answers(model, task, asked, config.scoring, instructions=told),
    ):
        right = answers.choice == answers.gold
        shares.append((right[:, answers.ambiguous].mean(), right[:, answers.disambiguated].mean()))
    (before, kept), (after, still) = shares
    # The twin answers all of them.
    assert after - before >= 0.9 * (1.0 - before)
    assert still >= kept - 0.01
    assert 0 < len(fitted.patch) <= 40
