"""Contrastive activations against loops over tokens, and on planted neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from excise.config import AttributionConfig, resolve
from excise.errors import ConfigError, NonFiniteError
from excise.methods import Fitting
from excise.methods.contrastive import Contrastive, contrast
from excise.models import LoadedModel, weights_digest
from excise.scoring import encode
from excise.selection import rank
from excise.types import FloatArray, Instance, Neuron, Split

loaded = cache(tiny.loaded)
TASK = tiny.task()
CONFIG = AttributionConfig()


def brute_force(
    model: LoadedModel,
    instances: Sequence[Instance],
    *,
    instructions: Sequence[str] = TASK.instructions,
    end_token: bool = False,
    keep: Any = lambda instance, totals: True,
    relative: bool = False,
) -> dict[str, FloatArray]:
    """Each answer read in a forward pass of its own, loops over tokens."""
    sites = [s for s in model.sites if not (model.encoder_decoder and s.over_input)]
    total: dict[str, Any] = {site.module: np.zeros(site.size) for site in sites}
    squares: dict[str, Any] = {site.module: np.zeros(site.size) for site in sites}
    count = 0
    for instruction in instructions:
        encoded = encode(model, TASK, instruction, instances, end_token=end_token)
        for instance, item in zip(instances, encoded, strict=True):
            means, totals = [], []
            for option in item.options:
                read, likelihood = _read(model, item.prompt, option)
                words = len(option) - (model.encoder_decoder or end_token)
                first = 1 if model.encoder_decoder else len(item.prompt)
                means.append(
                    {
                        site.module: sum(
                            read[site.module][first + k].double().numpy() for k in range(words)
                        )
                        / words
                        for site in sites
                    }
                )
                totals.append(likelihood)
            if not keep(instance, totals):
                continue
            wrong = [o for o in range(len(totals)) if o != instance.gold]
            biased = max(wrong, key=lambda o: totals[o])
            count += 1
            for site in sites:
                for option in (biased, instance.gold):
                    squares[site.module] += means[option][site.module] ** 2
                total[site.module] += means[biased][site.module] - means[instance.gold][site.module]
    if relative:
        return {
            name: values / count / np.sqrt(squares[name] / (2 * count))
            for name, values in total.items()
        }
    return {name: values / count for name, values in total.items()}


@torch.no_grad()
def _read(
    model: LoadedModel, prompt: tuple[int, ...], option: tuple[int, ...]
) -> tuple[dict[str, torch.Tensor], float]:
    """Every module's output while the whole option is read, and the option's log-likelihood."""
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        model.linear(site.module).register_forward_hook(
            lambda _m, _i, output, name=site.module: outputs.update({name: output[0]})
        )
        for site in model.sites
    ]
    if model.encoder_decoder:
        start = model.model.config.decoder_start_token_id
        logits = model.model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([(start, *option)])
        ).logits[0]
        first = 0
    else:
        logits = model.model(torch.tensor([prompt + option])).logits[0]
        first = len(prompt) - 1
    for handle in handles:
        handle.remove()
    steps = [logits[first + k].log_softmax(-1)[token] for k, token in enumerate(option)]
    return outputs, float(sum(steps))


def assert_equal(got: Any, expected: dict[str, FloatArray]) -> None:
    assert list(got.by_module) == list(expected)
    assert all(values.any() for values in expected.values())
    for module, values in expected.items():
        np.testing.assert_allclose(
            got.by_module[module],
            values,
            atol=2e-5 * np.abs(values).max(),
            rtol=1e-4,
            err_msg=module,
        )


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("llama", 0),
        # Here the biased option would be another one if likelihoods were not those of scoring.
        ("llama", 11),
        ("bloom", 0),
        ("mistral-window", 0),
        ("t5", 0),
        ("mt5", 0),
    ],
)
def test_scores_equal_loops_over_tokens(name: str, seed: int) -> None:
    model = loaded(name, seed=seed)
    got = contrast(model, TASK, tiny.INSTANCES, CONFIG)
    assert_equal(got, brute_force(model, tiny.INSTANCES))
    assert got.n_prompts == len(tiny.INSTANCES) * len(TASK.instructions)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_relative_scores_equal_loops_over_tokens(name: str) -> None:
    model = loaded(name)
    got = contrast(model, TASK, tiny.INSTANCES, CONFIG, relative=True)
    expected = brute_force(model, tiny.INSTANCES, relative=True)
    assert_equal(got, expected)
    assert max(np.abs(values).max() for values in got.by_module.values()) <= 2
    # In the place of the neurons of the largest maps.
    assert {e.neuron for e in rank(got.by_module, sign="absolute", limit=20)} != {
        e.neuron
        for e in rank(
            contrast(model, TASK, tiny.INSTANCES, CONFIG).by_module, sign="absolute", limit=20
        )
    }


def test_a_neuron_that_is_never_active_has_score_0() -> None:
    model = tiny.loaded("llama")
    dead = "model.layers.0.mlp.up_proj"
    with torch.no_grad():
        model.linear(dead).weight[5] = 0.0
    got = contrast(model, TASK, tiny.INSTANCES[:2], CONFIG, relative=True)
    assert got.by_module[dead][5] == 0
    assert (got.by_module[dead] != 0).sum() == tiny.FEED_FORWARD - 1


def test_the_end_token_decides_no_mean() -> None:
    model = loaded("llama")
    got = contrast(model, TASK, tiny.INSTANCES, CONFIG, end_token=True)
    assert_equal(got, brute_force(model, tiny.INSTANCES, end_token=True))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_batch_size_and_options_of_gradients_change_nothing(name: str) -> None:
    model = loaded(name)
    expected = contrast(model, TASK, tiny.INSTANCES, CONFIG)
    for other in (
        {"batch_size": 1},
        {"batch_size": 3},
        {"positions": "prompt", "tokens": "max", "order": "subtract_then_max"},
        {"input_positions": "encoder_only", "instance_weight": "uniform", "skill_weight": 0.0},
    ):
        got = contrast(model, TASK, tiny.INSTANCES, CONFIG.model_copy(update=other))
        assert_equal(got, dict(expected.by_module))


def test_instructions_instances_and_neurons_can_be_fewer() -> None:
    model = loaded("llama")
    config = AttributionConfig(
        instructions=1, biased_option="ambiguous", modules="feed-forward", layers=(1, 1)
    )
    got = contrast(model, TASK, tiny.INSTANCES, config)
    some = [i for i in tiny.INSTANCES if i.condition == "ambiguous"]
    expected = brute_force(model, some, instructions=TASK.instructions[:1])
    assert list(got.by_module) == [f"model.layers.1.mlp.{m}_proj" for m in ("gate", "up", "down")]
    assert_equal(got, {name: expected[name] for name in got.by_module})
    assert got.n_prompts == len(some)
    wrong = contrast(model, TASK, tiny.INSTANCES, AttributionConfig(biased_option="wrong"))
    assert 0 < wrong.n_prompts < 10
    assert_equal(
        wrong,
        brute_force(model, tiny.INSTANCES, keep=lambda i, totals: int(np.argmax(totals)) != i.gold),
    )


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = tiny.loaded(name)
    contrast(model, TASK, tiny.INSTANCES[:1], CONFIG)
    assert weights_digest(model.model) == model.digest
    assert not any(m._forward_hooks for m in model.model.modules())
    assert all(p.requires_grad for p in model.model.parameters())


def test_options_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="no find instance counts"):
        contrast(
            loaded("llama"), TASK, tiny.INSTANCES[1:2], AttributionConfig(biased_option="ambiguous")
        )
    broken = tiny.loaded("llama")
    with torch.no_grad():
        broken.linear("model.layers.0.mlp.up_proj").weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="module"):
        rank(contrast(broken, TASK, tiny.INSTANCES[:1], CONFIG).by_module)


# --- planted --------------------------------------------------------------------------------------

BIASED, GOLD = "The", "An"
"""Words of one token each."""


def planted(kind: str, seed: int) -> tuple[LoadedModel, Neuron]:
    """A model with a feed-forward unit that fires on the biased word only.

    Coordinate 0 of the embeddings is 0 for all words, and 8 for the biased one; the planted feature
    of the first layer reads nothing else.
    """
    model = tiny.loaded(kind, seed=seed, tie_word_embeddings=False)
    with torch.no_grad():
        text = BIASED if model.encoder_decoder else f" {BIASED}"
        (token,) = model.tokenizer(text, add_special_tokens=False).input_ids
        if model.encoder_decoder:
            layer = model.model.decoder.block[0].layer[2]
            name, norm = "decoder.block.0.layer.2.DenseReluDense.wi", layer.layer_norm
            embeddings = model.model.shared.weight
        else:
            block = model.model.model.layers[0]
            name, norm = "model.layers.0.mlp.up_proj", block.post_attention_layernorm
            embeddings = model.model.model.embed_tokens.weight
        embeddings[:, 0] = 0.0
        embeddings[token, 0] = 8.0
        norm.weight.fill_(1.0)
        model.linear(name).weight[11] = 0.0
        model.linear(name).weight[11, 0] = 6.0
    return replace(model, digest=weights_digest(model.model)), Neuron(name, 11)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_planted_neuron_is_found(kind: str, seed: int) -> None:
    model, neuron = planted(kind, seed)
    instances = tuple(
        tiny.instance(n, context, options, options.index(GOLD))
        for n, (context, options) in enumerate(
            [("An old man met her.", (BIASED, GOLD)), ("Who was late?", (GOLD, BIASED))]
        )
    )
    scores = contrast(model, tiny.task(instances), instances, CONFIG)
    first, second, *_ = rank(scores.by_module, sign="absolute")
    assert first.neuron == neuron
    assert first.score > 2 * abs(second.score)  # positive: it fires on the biased answer
    # The size counts, not the sign: with the two words in each other's place it is found as well.
    swapped = tuple(replace(i, gold=1 - i.gold) for i in instances)
    opposite = contrast(model, tiny.task(swapped), swapped, CONFIG)
    first, *_ = rank(opposite.by_module, sign="absolute")
    assert (first.neuron, first.score < 0) == (neuron, True)


def test_the_method_excises_by_size_what_tune_likes() -> None:
    model, neuron = planted("llama", 0)
    instances = tuple(tiny.instance(n, f"Context {n}", (BIASED, GOLD), 1) for n in range(4))
    config = resolve({"attribution": {"instances": 2}, "selection": {"n": 3}})
    split = Split(instances[:2], instances[2:3], instances[3:], "template")
    done: list[int] = []

    class Watcher:
        def advance(self, amount: int) -> None:
            done.append(amount)

    made = Fitting(
        model,
        tiny.task(instances),
        split,
        config,
        provenance={"a": 1},
        progress=Watcher(),  # type: ignore[arg-type]
    )
    fitted = Contrastive().fit(made)
    assert fitted.describe() == {"neurons": 3, "changes_weights": True, "curve": []}
    assert fitted.patch.neurons[0] == neuron  # type: ignore[attr-defined]
    scores = contrast(model, made.task, split.find, config.attribution)
    expected = rank(scores.by_module, sign="absolute", limit=3)
    assert fitted.patch.neurons == tuple(e.neuron for e in expected)  # type: ignore[attr-defined]
    assert fitted.patch.provenance == {"a": 1, "method": "contrastive"}  # type: ignore[attr-defined]
    assert sum(done) == 2 * len(made.task.instructions)
