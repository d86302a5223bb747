"""Attribution against finite differences and against loops written straight from the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from excise.attribution import NeuronScores, attribute, average, competing_sites
from excise.attribution.layouts import layout_for
from excise.attribution.objective import log_probability, objectives
from excise.attribution.recorder import recording, reduce_tokens
from excise.attribution.scores import _subtracted
from excise.config import PRESETS, AttributionConfig
from excise.errors import ConfigError, NonFiniteError
from excise.models import LoadedModel, Site
from excise.scoring import EncodedPrompt, encode
from excise.types import FloatArray, Instance

loaded = cache(tiny.loaded)
TASK = tiny.task()
V1, V2, OFFICIAL = (PRESETS[name].attribution for name in ("v1", "v2", "official"))


# The reference: each option in its own forward pass, loops over tokens.


class Reference:
    """h and d log P / dh of every module for every option of one prompt."""

    def __init__(self, model: LoadedModel, item: EncodedPrompt, probability: str) -> None:
        self.model, self.item = model, item
        self.outputs: list[dict[str, torch.Tensor]] = []
        self._products: dict[int, dict[str, list[FloatArray]]] = {}
        totals = []
        for option in item.options:
            outputs: dict[str, torch.Tensor] = {}
            handles = [
                model.linear(site.module).register_forward_hook(
                    lambda _m, _i, output, into=outputs, name=site.module: into.update(
                        {name: output}
                    )
                )
                for site in model.sites
            ]
            tokens = _token_log_likelihoods(model, item.prompt, option)
            for handle in handles:
                handle.remove()
            self.outputs.append(outputs)
            if probability == "first_token":
                totals.append(tokens[0])
            elif probability == "geometric_mean":
                totals.append(sum(tokens) / len(tokens))  # type: ignore[arg-type]
            else:
                totals.append(sum(tokens))  # type: ignore[arg-type]
        if probability == "option_softmax":
            totals = [*torch.stack(totals).double().log_softmax(0)]
        self.log_p = totals
        self.values = [float(total.detach()) for total in totals]

    def p(self, option: int) -> float:
        return math.exp(self.values[option])

    def products(self, site: Site, option: int) -> list[FloatArray]:
        """h * d log P / dh at every position of the option's own forward pass."""
        if option not in self._products:
            self._products[option] = self._differentiate(option)
        return self._products[option][site.module]

    def _differentiate(self, option: int) -> dict[str, list[FloatArray]]:
        sites = self.model.sites
        every = [outputs[site.module] for outputs in self.outputs for site in sites]
        found = torch.autograd.grad(self.log_p[option], every, retain_graph=True, allow_unused=True)
        result = {}
        for number, site in enumerate(sites):
            gradients = found[number :: len(sites)]  # one of each option's forward pass
            gradient = gradients[option]
            assert gradient is not None
            gradient = gradient.clone()
            # A token of the input is one token, however many options follow it.
            n = len(self.item.prompt) if site.over_input or not self.model.encoder_decoder else 0
            for other, values in enumerate(gradients):
                if other != option and values is not None:
                    gradient[0, :n] += values[0, :n]
            product = self.outputs[option][site.module] * gradient
            result[site.module] = list(product[0].detach().double().numpy())
        return result


def _token_log_likelihoods(
    model: LoadedModel, prompt: tuple[int, ...], option: tuple[int, ...]
) -> list[torch.Tensor]:
    if model.encoder_decoder:
        start = model.model.config.decoder_start_token_id
        logits = model.model(
            input_ids=torch.tensor([prompt]),
            decoder_input_ids=torch.tensor([(start, *option[:-1])]),
        ).logits[0]
        first = 0
    else:
        logits = model.model(torch.tensor([prompt + option[:-1]])).logits[0]
        first = len(prompt) - 1
    return [logits[first + k].log_softmax(-1)[token] for k, token in enumerate(option)]


def kept_positions(
    model: LoadedModel, site: Site, item: EncodedPrompt, option: int, config: AttributionConfig
) -> list[int]:
    prompt, answer = len(item.prompt), len(item.options[option])
    if model.encoder_decoder:
        return list(range(prompt if site.over_input else answer))
    kept = []
    if config.positions in ("prompt", "both"):
        kept += range(1 if config.skip_first_token else 0, prompt)
    if config.positions == "last":
        kept += [prompt - 1]
    if config.positions in ("answer", "both", "last"):
        kept += range(prompt, prompt + answer - 1)
    return kept or [prompt - 1]


def reduced(values: list[FloatArray], how: str) -> FloatArray:
    total = values[0]
    for value in values[1:]:
        total = np.maximum(total, value) if how == "max" else total + value
    return total / len(values) if how == "mean" else total


def brute_force(
    model: LoadedModel,
    instances: Sequence[Instance],
    config: AttributionConfig,
    *,
    instructions: Sequence[str] = TASK.instructions,
    end_token: bool = False,
) -> dict[str, FloatArray]:
    sites = competing_sites(model, config)
    result = {site.module: np.zeros(site.size) for site in sites}
    for instruction in instructions:
        items = encode(model, TASK, instruction, instances, end_token=end_token)
        size = config.batch_size if config.order == "batch" else 1
        for start in range(0, len(items), size):
            batch = [*zip(instances, items, strict=True)][start : start + size]
            references = [Reference(model, item, config.probability) for _, item in batch]
            for site in sites:
                biased, skill = [], []
                for (instance, item), reference in zip(batch, references, strict=True):
                    wrong = [o for o in range(len(item.options)) if o != instance.gold]
                    rival = max(wrong, key=lambda o: reference.values[o])
                    alpha = reference.p(rival) if config.instance_weight == "confusion" else 1.0
                    terms = []
                    for option in (rival, instance.gold):
                        p = reference.p(option) if config.differentiate == "P" else 1.0
                        products = reference.products(site, option)
                        kept = kept_positions(model, site, item, option, config)
                        terms.append([alpha * p * products[k] for k in kept])
                    if config.order == "subtract_then_max":
                        biased.append(
                            reduced(
                                [
                                    b - config.skill_weight * np.maximum(0, g)
                                    for b, g in zip(*terms, strict=True)
                                ],
                                config.tokens,
                            )
                        )
                        skill.append(np.zeros(site.size))
                    else:
                        biased.append(reduced(terms[0], config.tokens))
                        skill.append(reduced(terms[1], config.tokens))
                score = sum(biased) - config.skill_weight * np.maximum(0, sum(skill))
                result[site.module] += score / (len(instances) * len(instructions))
    return result


def assert_equal(got: NeuronScores, expected: dict[str, FloatArray], tolerance: float) -> None:
    assert list(got.by_module) == list(expected)
    # With one decoder position, for example, queries and keys of self-attention have no effect.
    assert np.mean([values.any() for values in expected.values()]) > 0.5
    largest = max(np.abs(values).max() for values in expected.values())
    for module, values in expected.items():
        np.testing.assert_allclose(
            got.by_module[module],
            values,
            rtol=tolerance,
            atol=tolerance * np.abs(values).max() + 1e-6 * largest,
            err_msg=module,
        )


# Finite differences.


def exactly(model: LoadedModel) -> LoadedModel:
    """The model in float64, its norms too, which transformers computes in float32."""

    def forward(norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: (
            norm.weight * x * (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        )

    model.model.double()
    for module in model.model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = forward(module)
    return model


def site_named(model: LoadedModel, ending: str) -> Site:
    return next(site for site in model.sites if site.module.endswith(ending))


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("llama", f"layers.{layer}.{module}")
        for layer, module in [
            (0, "self_attn.q_proj"),
            (0, "self_attn.k_proj"),
            (1, "self_attn.v_proj"),
            (1, "self_attn.o_proj"),
            (0, "mlp.gate_proj"),
            (0, "mlp.up_proj"),
            (1, "mlp.down_proj"),
        ]
    ]
    + [
        ("bloom", "h.0.self_attention.query_key_value"),
        ("bloom", "h.1.mlp.dense_h_to_4h"),
        ("t5-gated", "encoder.block.0.layer.0.SelfAttention.k"),
        ("t5-gated", "encoder.block.1.layer.0.SelfAttention.o"),
        ("t5-gated", "encoder.block.0.layer.1.DenseReluDense.wi_1"),
        ("t5", "encoder.block.1.layer.1.DenseReluDense.wo"),
        ("t5", "decoder.block.0.layer.0.SelfAttention.v"),
        ("t5", "decoder.block.1.layer.1.EncDecAttention.k"),
        ("t5", "decoder.block.0.layer.1.EncDecAttention.v"),
        ("t5", "decoder.block.1.layer.1.EncDecAttention.q"),
        ("t5-gated", "decoder.block.1.layer.2.DenseReluDense.wi_0"),
    ],
)
def test_recorded_products_are_finite_differences(name: str, ending: str) -> None:
    model = exactly(tiny.loaded(name))
    site = site_named(model, ending)
    instance = tiny.INSTANCES[2]
    (item,) = encode(model, TASK, "Pick.", [instance], end_token=True)
    option = 2
    config = AttributionConfig(tokens="sum", positions="both", skip_first_token=False)
    n_prompt, n_option = len(item.prompt), len(item.options[option])
    length = n_prompt if site.over_input else n_option
    length = length if model.encoder_decoder else n_prompt + n_option - 1
    # BLOOM's softmax stays in float32, whose rounding a small step would enlarge.
    epsilon = 3e-2 if name == "bloom" else 1e-3
    places = sorted({0, 1, length // 2, length - 2, length - 1})
    neurons = [0, site.size // 2, site.size - 1]

    recorded = []
    with recording(model, [site], config) as recorder, torch.enable_grad():
        layout = layout_for(model, [item], config)
        lengths = [[len(o) for o in item.options]]
        goal = objectives(layout.log_likelihoods(), lengths, [instance], config)
        everything = layout.positions(site, [option])
        columns = everything.any(dim=0).nonzero()[:, 0].tolist()
        assert len(columns) == length
        for place in places:
            only = torch.zeros_like(everything)
            only[:, columns[place]] = everything[:, columns[place]]
            recorder.clear()
            recorder.positions = lambda _site, only=only: only
            goal.chosen([option]).sum().backward(retain_graph=True)
            recorded.append(recorder.reduced[site.module][0, neurons].tolist())

    @torch.no_grad()
    def probability(place: int, neuron: int, added: float) -> tuple[float, float]:
        seen = []

        def shift(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            seen.append(float(output[0, place, neuron]))
            output = output.clone()
            output[0, place, neuron] += added
            return output

        handle = model.linear(site.module).register_forward_hook(shift)
        total = sum(_token_log_likelihoods(model, item.prompt, item.options[option]))
        handle.remove()
        return math.exp(float(total)), seen[0]

    products = []
    for place in places:
        row = []
        for neuron in neurons:
            middle, h = probability(place, neuron, 0.0)
            high, low = (probability(place, neuron, e)[0] for e in (epsilon, -epsilon))
            # A = h * dP/dh; what is recorded is h * d log P / dh = A / P.
            row.append(h * (high - low) / (2 * epsilon) / middle)
        products.append(row)
    np.testing.assert_allclose(recorded, products, rtol=2e-3, atol=1e-3 * np.abs(products).max())
    assert np.abs(products).max() > 1e-3


# The whole line against the reference.


@pytest.mark.parametrize("name", tiny.ALL)
@pytest.mark.parametrize("preset", [V1, V2, OFFICIAL], ids=["v1", "v2", "official"])
def test_presets_equal_loops_over_tokens(name: str, preset: AttributionConfig) -> None:
    model = loaded(name)
    got = attribute(model, TASK, tiny.INSTANCES, preset)
    assert got.n_prompts == 10
    assert_equal(got, brute_force(model, tiny.INSTANCES, preset), 2e-3)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"probability": "geometric_mean"},
    {"probability": "first_token"},
    {"probability": "option_softmax"},
    {"probability": "option_softmax", "differentiate": "log P"},
    {"differentiate": "log P", "instance_weight": "uniform"},
    {"tokens": "mean"},
    {"tokens": "sum", "skill_weight": 0.5},
    {"skill_weight": 0.0},
    {"modules": "attention", "layers": (1, 1)},
    {"modules": "feed-forward", "layers": (0, 0)},
]
CAUSAL_OPTIONS = [
    {"positions": "prompt"},
    {"positions": "answer"},
    {"positions": "last"},
    {"positions": "last", "tokens": "mean", "probability": "option_softmax"},
    {"skip_first_token": False},
    {"skip_first_token": False, "positions": "prompt", "tokens": "mean"},
]
SEQ2SEQ_OPTIONS = [
    {"order": "subtract_then_max"},
    {"order": "subtract_then_max", "tokens": "mean", "skill_weight": 2.0},
    {"input_positions": "encoder_only"},
]
CASES = [
    (name, options)
    for name in ("llama", "bloom", "t5")
    for options in OPTIONS + (SEQ2SEQ_OPTIONS if name == "t5" else CAUSAL_OPTIONS)
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_options_equal_loops_over_tokens(name: str, options: dict[str, Any]) -> None:
    model, config = loaded(name), AttributionConfig(**options)
    # One instance at a time: weights differ so much that one would hide the others.
    instances = [tiny.INSTANCES[0], tiny.INSTANCES[2], tiny.INSTANCES[4]]
    if config.probability == "first_token":
        del instances[2]  # two options begin alike there, and every score is 0
    if config.probability == "option_softmax":
        # Options of one length: a softmax of exactly 1 has no gradient but rounding.
        alike = ("The old man", "The young man", "The early man")
        instances = [
            replace(tiny.INSTANCES[0], options=alike),
            replace(tiny.INSTANCES[2], options=("A", "B", "C"), gold=0),
        ]
    for instance in instances:
        got = attribute(model, TASK, [instance], config, instructions=["Pick."])
        expected = brute_force(model, [instance], config, instructions=["Pick."])
        assert_equal(got, expected, 1e-3)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_a_scored_end_token_counts(name: str) -> None:
    model = loaded(name)
    got = attribute(model, TASK, tiny.INSTANCES[:2], V2, end_token=True)
    assert_equal(got, brute_force(model, tiny.INSTANCES[:2], V2, end_token=True), 1e-3)
    without = attribute(model, TASK, tiny.INSTANCES[:2], V2)
    assert not any(
        np.allclose(without.by_module[module], values, atol=0)
        for module, values in got.by_module.items()
    )


def test_an_answer_of_one_token_is_represented_by_what_predicts_it() -> None:
    model = tiny.loaded("llama", kind="bare")
    task = tiny.task(prompt_format="{instruction} {context}")
    config = AttributionConfig(positions="answer")
    instance = tiny.instance(0, "Late.", (".", ","), 0)
    (item,) = encode(model, task, "P.", [instance], end_token=False)
    one = EncodedPrompt(item.prompt, ((7,), (8,)))
    layout = layout_for(model, [one], config)
    keep = layout.positions(model.sites[0], [0])
    assert keep.nonzero().tolist() == [[0, len(item.prompt) - 1]]


# Invariances.


@pytest.mark.parametrize("name", ["llama", "bloom", "t5", "mt5"])
@pytest.mark.parametrize("preset", [V1, V2], ids=["v1", "v2"])
def test_the_batch_size_changes_nothing(name: str, preset: AttributionConfig) -> None:
    model = loaded(name)
    alone = attribute(model, TASK, tiny.INSTANCES, preset.model_copy(update={"batch_size": 1}))
    for size in (2, 5):
        other = attribute(
            model, TASK, tiny.INSTANCES, preset.model_copy(update={"batch_size": size})
        )
        for module, values in alone.by_module.items():
            np.testing.assert_allclose(
                other.by_module[module], values, rtol=1e-4, atol=1e-4 * np.abs(values).max()
            )


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_batch_size_changes_the_official_scores(name: str) -> None:
    # Equal weights, so that the instances are of one size; few positions, as the maximum over a
    # whole prompt is hardly ever negative, so that the clamp would leave it alone.
    config = OFFICIAL.model_copy(update={"instance_weight": "uniform", "positions": "last"})
    one, four = (
        attribute(
            loaded(name), TASK, tiny.INSTANCES, config.model_copy(update={"batch_size": size})
        )
        for size in (1, 4)
    )
    largest = max(np.abs(values).max() for values in one.by_module.values())
    gap = max(np.abs(four.by_module[m] - v).max() for m, v in one.by_module.items())
    assert gap > 0.01 * largest


def test_instances_and_instructions_add_up() -> None:
    model = loaded("t5")
    together = attribute(model, TASK, tiny.INSTANCES, V2)
    single = [
        attribute(model, TASK, [instance], V2, instructions=[instruction])
        for instance in tiny.INSTANCES
        for instruction in TASK.instructions
    ]
    for module, values in together.by_module.items():
        mean = np.mean([scores.by_module[module] for scores in single], axis=0)
        np.testing.assert_allclose(values, mean, rtol=1e-4, atol=1e-4 * np.abs(values).max())


def test_config_instructions_takes_the_first() -> None:
    model, config = loaded("llama"), AttributionConfig(instructions=1)
    told: list[int] = []
    first = attribute(model, TASK, tiny.INSTANCES, config, advance=told.append)
    named = attribute(model, TASK, tiny.INSTANCES, V2, instructions=TASK.instructions[:1])
    assert sum(told) == first.n_prompts == 5
    for module, values in first.by_module.items():
        np.testing.assert_array_equal(values, named.by_module[module])


def state(model: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def hooks(model: LoadedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.model.modules())


@pytest.mark.parametrize("name", ["llama", "bloom", "t5"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(name: str, fails: bool) -> None:
    model = tiny.loaded(name)
    parameters = [*model.model.parameters()]
    for number, parameter in enumerate(parameters):
        parameter.requires_grad_(number % 2 == 0)
    before = state(model)

    def interrupt(_: int) -> None:
        if fails:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            attribute(model, TASK, tiny.INSTANCES, V2, advance=interrupt)
    else:
        attribute(model, TASK, tiny.INSTANCES, V2, advance=interrupt)
    assert [p.requires_grad for p in parameters] == [n % 2 == 0 for n in range(len(parameters))]
    assert all(p.grad is None for p in parameters)
    assert hooks(model) == 0
    assert not model.model.training
    assert not any("forward" in vars(module) for module in model.model.modules())
    for key, value in model.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_it_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        got = attribute(loaded("llama"), TASK, tiny.INSTANCES[:1], V2)
    assert any(values.any() for values in got.by_module.values())


def test_eager_attention_attributes_the_same() -> None:
    model = tiny.loaded("llama")
    expected = attribute(model, TASK, tiny.INSTANCES, V2)
    model.model.set_attn_implementation("eager")
    assert_equal(attribute(model, TASK, tiny.INSTANCES, V2), dict(expected.by_module), 1e-3)


def test_bfloat16_is_near_float32() -> None:
    model = tiny.loaded("llama")
    exact = attribute(model, TASK, tiny.INSTANCES[:1], V1)
    model.model.to(torch.bfloat16)
    rough = attribute(model, TASK, tiny.INSTANCES[:1], V1)
    a, b = (np.concatenate([*s.by_module.values()]) for s in (exact, rough))
    assert np.corrcoef(a, b)[0, 1] > 0.9


# What is refused.


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("llama", "model.layers.1.self_attn.o_proj"),
        ("t5", "decoder.block.1.layer.1.EncDecAttention.k"),
    ],
)
def test_nan_weights_are_named(name: str, module: str) -> None:
    model = tiny.loaded(name)
    with torch.no_grad():
        model.linear(module).weight[3] = float("nan")
    with pytest.raises(NonFiniteError, match=f"weights of module '{module}' are not all finite"):
        attribute(model, TASK, tiny.INSTANCES[2:], V2)
    assert hooks(model) == 0


def test_float16_is_refused() -> None:
    model = tiny.loaded("llama")
    model.model.half()
    with pytest.raises(ConfigError, match="float16"):
        attribute(model, TASK, tiny.INSTANCES, V2)


def test_options_that_leave_nothing_are_refused() -> None:
    for options in ({"order": "subtract_then_max"}, {"layers": (7, 9)}):
        with pytest.raises(ConfigError, match="no neuron competes"):
            attribute(loaded("llama"), TASK, tiny.INSTANCES, AttributionConfig(**options))  # type: ignore[arg-type]
    disambiguated = [i for i in tiny.INSTANCES if i.condition == "disambiguated"]
    with pytest.raises(ConfigError, match="no find instance counts"):
        attribute(
            loaded("llama"), TASK, disambiguated, AttributionConfig(biased_option="ambiguous")
        )


# Which instances count, which option is the biased one.


def log_p(model: LoadedModel, instance: Instance) -> list[float]:
    (item,) = encode(model, TASK, "Pick.", [instance], end_token=False)
    return Reference(model, item, "product").values


def mean_over(
    model: LoadedModel, wanted: Callable[[Instance], bool], config: AttributionConfig = V1
) -> dict[str, FloatArray]:
    """Scores of the instances that count, over the number of all."""
    total: dict[str, FloatArray] = {}
    for instance in filter(wanted, tiny.INSTANCES):
        got = attribute(model, TASK, [instance], config, instructions=["Pick."])
        for module, values in got.by_module.items():
            total[module] = total.get(module, 0.0) + values / len(tiny.INSTANCES)
    return total


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_only_ambiguous_instances(name: str) -> None:
    model = loaded(name)
    config = V1.model_copy(update={"biased_option": "ambiguous"})
    got = attribute(model, TASK, tiny.INSTANCES, config, instructions=["Pick."])
    assert got.n_prompts == 3
    assert_equal(got, mean_over(model, lambda i: i.condition == "ambiguous"), 1e-3)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_only_wrongly_answered_instances(name: str) -> None:
    model = loaded(name)
    likeliest = {i.id: int(np.argmax(log_p(model, i))) for i in tiny.INSTANCES}
    # Both kinds must be there.
    right = tiny.INSTANCES[1]
    instances = tuple(replace(i, gold=likeliest[i.id]) if i is right else i for i in tiny.INSTANCES)
    wrong = [i for i in instances if likeliest[i.id] != i.gold]
    assert 0 < len(wrong) < len(instances)
    config = V1.model_copy(update={"biased_option": "wrong"})
    got = attribute(model, TASK, instances, config, instructions=["Pick."])
    assert got.n_prompts == len(wrong)
    all_wrong = attribute(model, TASK, wrong, V1, instructions=["Pick."])
    share = len(wrong) / len(instances)
    assert_equal(got, {m: v * share for m, v in all_wrong.by_module.items()}, 1e-3)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_annotated_option_can_be_the_biased_one(name: str) -> None:
    model = loaded(name)
    config = V1.model_copy(update={"biased_option": "stereotyped"})
    # Of three options, make the less likely wrong one the annotated one.
    instance = tiny.INSTANCES[0]
    values = log_p(model, instance)
    worst = min((o for o in range(3) if o != instance.gold), key=lambda o: values[o])
    annotated = replace(instance, stereotyped=worst)
    got = attribute(model, TASK, [annotated], config, instructions=["Pick."])
    # The same as if the other wrong option were not among the candidates.
    (item,) = encode(model, TASK, "Pick.", [annotated], end_token=False)
    reference = Reference(model, item, "product")
    for site in model.sites:
        terms = [
            reference.p(option)
            * reduced(
                [
                    reference.products(site, option)[k]
                    for k in kept_positions(model, site, item, option, config)
                ],
                "max",
            )
            for option in (worst, instance.gold)
        ]
        expected = terms[0] - np.maximum(0, terms[1])
        np.testing.assert_allclose(
            got.by_module[site.module], expected, atol=1e-3 * np.abs(expected).max()
        )
    # No annotation, or the correct option annotated: the instance does not count.
    for other in (None, instance.gold):
        uncounted = replace(instance, stereotyped=other)
        both = attribute(model, TASK, [annotated, uncounted], config, instructions=["Pick."])
        assert both.n_prompts == 1
        assert_equal(both, {m: v / 2 for m, v in got.by_module.items()}, 1e-3)


# Which modules compete.


def test_filters_of_layers_and_modules() -> None:
    llama, t5 = loaded("llama"), loaded("t5")

    def modules(model: LoadedModel, **options: Any) -> list[str]:
        return [s.module for s in competing_sites(model, AttributionConfig(**options))]

    assert modules(llama) == [s.module for s in llama.sites]
    assert modules(llama, layers=(1, 1), modules="feed-forward") == [
        f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")
    ]
    assert modules(llama, layers=(0, 0), modules="attention") == [
        f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"
    ]
    cross = [m for m in modules(t5, modules="attention") if "EncDec" in m]
    assert len(cross) == 4 * (tiny.LAYERS + 1)
    input_side = modules(t5, input_positions="encoder_only")
    assert input_side == modules(t5, order="subtract_then_max")
    assert [m for m in input_side if m.startswith("decoder")] == [
        f"decoder.block.{layer}.layer.1.EncDecAttention.{part}"
        for layer in range(tiny.LAYERS + 1)
        for part in "kv"
    ]
    assert sum(m.startswith("encoder") for m in input_side) == 6 * tiny.LAYERS


def test_nothing_before_the_first_competing_module_is_differentiated() -> None:
    model, config = loaded("llama"), AttributionConfig(layers=(1, 1))
    every = attribute(model, TASK, tiny.INSTANCES, AttributionConfig()).by_module
    seen: list[bool] = []
    layers = [model.linear(f"model.layers.{n}.mlp.gate_proj") for n in (0, 1)]
    handles = [
        layer.register_forward_hook(lambda _m, _i, output: seen.append(output.requires_grad))
        for layer in layers
    ]
    upper = attribute(model, TASK, tiny.INSTANCES, config).by_module
    for handle in handles:
        handle.remove()
    assert seen == [False, True] * (len(seen) // 2)
    assert seen
    for module, values in upper.items():
        np.testing.assert_array_equal(values, every[module])


# Aggregation by hand.


def test_reduce_tokens_by_hand() -> None:
    # One prompt, three tokens, two neurons; the last token is padding.
    product = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [9.0, 9.0]]])
    keep = torch.tensor([[True, True, False]])
    assert reduce_tokens(product, keep, "max").tolist() == [[3.0, -2.0]]
    assert reduce_tokens(product, keep, "mean").tolist() == [[2.0, -3.0]]
    assert reduce_tokens(product, keep, "sum").tolist() == [[4.0, -6.0]]


def test_subtraction_per_token_by_hand() -> None:
    nan = float("nan")
    # One prompt, three tokens, two neurons; the last token is padding.
    biased = torch.tensor([[[1.0, 4.0], [3.0, -2.0], [nan, nan]]])
    gold = torch.tensor([[[-5.0, 2.0], [4.0, -1.0], [nan, nan]]])
    config = AttributionConfig(order="subtract_then_max", skill_weight=0.5)
    half, two = torch.tensor([0.5]).double(), torch.tensor([2.0]).double()
    # biased * 2: 2 8 | 6 -4; gold * 0.5 clamped, halved: 0 0.5 | 1 0; difference: 2 7.5 | 5 -4
    got = _subtracted(biased, gold, two, half, config)
    assert got.tolist() == [[5.0, 7.5]]


def test_log_probability_by_hand() -> None:
    tokens = torch.tensor([[-1.0, -3.0], [-2.0, 0.0]])
    lengths = torch.tensor([2, 1])

    def values(kind: str) -> list[float]:
        return log_probability(tokens, lengths, kind).tolist()

    assert values("product") == [-4.0, -2.0]
    assert values("geometric_mean") == [-2.0, -2.0]
    assert values("first_token") == [-1.0, -2.0]
    total = math.log(math.exp(-4) + math.exp(-2))
    assert values("option_softmax") == pytest.approx([-4 - total, -2 - total])


def test_the_weights_by_hand() -> None:
    rows = [torch.tensor([[math.log(0.5)], [math.log(0.3)], [math.log(0.2)]])]
    instance = tiny.instance(0, "", gold=0)
    plain = AttributionConfig()
    goal = objectives(rows, [[1, 1, 1]], [instance], plain)
    assert goal.biased == [1]
    assert goal.weight(plain).tolist() == pytest.approx([0.3])
    assert goal.factor(goal.gold, plain).tolist() == pytest.approx([0.5])
    other = AttributionConfig(instance_weight="uniform", differentiate="log P")
    assert goal.weight(other).tolist() == goal.factor(goal.gold, other).tolist() == [1.0]


def test_average_of_trials() -> None:
    trials = [
        NeuronScores({"a": np.array([1.0, 4.0]), "b": np.array([0.0])}, 3),
        NeuronScores({"a": np.array([3.0, -4.0]), "b": np.array([5.0])}, 4),
    ]
    got = average(trials)
    assert got.by_module["a"].tolist() == [2.0, 0.0]
    assert got.by_module["b"].tolist() == [2.5]
    assert got.n_prompts == 7
