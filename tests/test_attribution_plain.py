"""Scores of neurons against the method done plainly: one option, one pass, one gradient at a time.

Nothing is packed, padded, shared or fused here. In float64 both sides are the same up to 1e-6 of
each score; in float32 they are as far from float64 as float32 is. What was measured stands among
the properties of a report (`pytest tests/test_attribution_plain.py --junitxml=FILE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.models.bloom import modeling_bloom

import tiny
from excise.attribution import attribute
from excise.config import PRESETS
from excise.models import LoadedModel, Site
from excise.scoring import EncodedPrompt, encode
from excise.types import FloatArray

TASK = tiny.task()
V2 = PRESETS["v2"].attribution
INSTANCES = tiny.INSTANCES[:3]
NAMES = ("llama", "t5", "gpt2", "bloom")

Products = Callable[[LoadedModel, EncodedPrompt, int], dict[str, FloatArray]]
"""Module -> [neurons] the largest h * d log P / dh over the tokens that count, of one option."""


def in_float64(model: LoadedModel) -> LoadedModel:
    """The model in float64, the norms that transformers computes in float32 too."""
    model.model.double()
    for norm in model.model.modules():
        if hasattr(norm, "variance_epsilon"):
            norm.forward = lambda x, norm=norm: (
                norm.weight * x * (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
            )
    return model


@pytest.fixture(autouse=True)
def softmax_of_bloom(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLOOM asks for float32 here, whatever its weights are in."""

    def softmax(values: torch.Tensor, dim: int, dtype: Any = None) -> torch.Tensor:
        return functional.softmax(values, dim=dim)

    names = SimpleNamespace(**vars(functional) | {"softmax": softmax})
    monkeypatch.setattr(modeling_bloom, "F", names)


def log_p(model: LoadedModel, item: EncodedPrompt, option: int) -> torch.Tensor:
    """log P of one option in a forward pass of its own."""
    tokens = item.options[option]
    if model.encoder_decoder:
        answer = torch.tensor([(model.model.config.decoder_start_token_id, *tokens[:-1])])
        logits = model.model(torch.tensor([item.prompt]), decoder_input_ids=answer).logits[0]
    else:
        logits = model.model(torch.tensor([item.prompt + tokens[:-1]])).logits[0]
        logits = logits[len(item.prompt) - 1 :]
    return torch.stack([logits[n].log_softmax(-1)[token] for n, token in enumerate(tokens)]).sum()


def counted(model: LoadedModel, values: torch.Tensor) -> torch.Tensor:
    """[tokens that count, neurons]: all but the first token of a decoder."""
    return values[0] if model.encoder_decoder else values[0, 1:]


def plain_products(model: LoadedModel, item: EncodedPrompt, option: int) -> dict[str, FloatArray]:
    with outputs_of(model, model.sites) as outputs:
        value = log_p(model, item, option)
    gradients = torch.autograd.grad(value, [*outputs.values()], materialize_grads=True)
    return {
        module: counted(model, (output * gradient).detach()).amax(dim=0).double().numpy()
        for (module, output), gradient in zip(outputs.items(), gradients, strict=True)
    }


@contextmanager
def outputs_of(model: LoadedModel, sites: tuple[Site, ...]) -> Iterator[dict[str, torch.Tensor]]:
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        model.linear(site.module).register_forward_hook(
            lambda _module, _inputs, output, name=site.module: outputs.update({name: output})
        )
        for site in sites
    ]
    yield outputs
    for handle in handles:
        handle.remove()


def captum_products(model: LoadedModel, item: EncodedPrompt, option: int) -> dict[str, FloatArray]:
    from captum.attr import LayerGradientXActivation

    def forward(prompt: torch.Tensor) -> torch.Tensor:
        ids = tuple(prompt[0, : len(item.prompt)].tolist())
        return log_p(model, EncodedPrompt(ids, item.options), option)[None]

    layers = [model.linear(site.module) for site in model.sites]
    values = LayerGradientXActivation(forward, layers).attribute(torch.tensor([item.prompt]))
    return {
        site.module: counted(model, value.detach()).amax(dim=0).double().numpy()
        for site, value in zip(model.sites, values, strict=True)
    }


def scored(model: LoadedModel, products: Products) -> dict[str, FloatArray]:
    """Equations 1 to 6 with the options of v2."""
    total = {site.module: np.zeros(site.size) for site in model.sites}
    for instruction in TASK.instructions:
        encoded = encode(model, TASK, instruction, INSTANCES, end_token=False)
        for item, instance in zip(encoded, INSTANCES, strict=True):
            with torch.no_grad():
                values = [float(log_p(model, item, o)) for o in range(len(item.options))]
            wrong = [o for o in range(len(values)) if o != instance.gold]
            biased = max(wrong, key=lambda o: values[o])
            p, p_gold = np.exp(values[biased]), np.exp(values[instance.gold])
            first, second = (products(model, item, o) for o in (biased, instance.gold))
            for module, into in total.items():
                score = p * first[module] - np.maximum(0.0, p_gold * second[module])
                into += p * score  # weighted by confusion
    count = len(INSTANCES) * len(TASK.instructions)
    return {module: values / count for module, values in total.items()}


def difference(got: dict[str, FloatArray], expected: dict[str, FloatArray]) -> float:
    """The largest one, as a share of the largest score of its module."""
    shares = []
    for module, values in expected.items():
        largest = np.abs(values).max()
        if largest > 0:
            shares.append(np.abs(got[module] - values).max() / largest)
        else:
            assert not got[module].any()
    assert len(shares) > len(expected) // 2
    return float(max(shares))


@pytest.mark.parametrize("products", [plain_products, captum_products])
@pytest.mark.parametrize("name", NAMES)
def test_scores_in_float64_are_those_of_the_plain_way_and_of_captum(
    name: str, products: Products, record_property: Callable[[str, float], None]
) -> None:
    model = in_float64(tiny.loaded(name))
    got = attribute(model, TASK, INSTANCES, V2).by_module
    expected = scored(model, products)
    found = difference(dict(got), expected)
    record_property("difference", found)
    assert found < 1e-12
    for module, values in expected.items():
        # Of each score itself: measured 5e-9, for one that two like terms nearly cancel to 0.
        np.testing.assert_allclose(
            got[module], values, rtol=1e-6, atol=1e-14 * np.abs(values).max(), err_msg=module
        )


@pytest.mark.parametrize("name", NAMES)
def test_scores_in_float32_are_as_exact_as_the_plain_way(
    name: str, record_property: Callable[[str, float], None]
) -> None:
    exact = scored(in_float64(tiny.loaded(name)), plain_products)
    model = tiny.loaded(name)
    got = dict(attribute(model, TASK, INSTANCES, V2).by_module)
    plain = scored(model, plain_products)
    for what, pair, bound in (
        ("plain and float64", (plain, exact), 3e-5),
        ("excise and float64", (got, exact), 3e-5),
        ("excise and plain", (got, plain), 2e-5),
    ):
        found = difference(*pair)
        record_property(what, found)
        assert found < bound, what


def test_a_wrong_score_would_be_seen() -> None:
    model = in_float64(tiny.loaded("llama"))
    expected = scored(model, plain_products)
    other = V2.model_copy(update={"skip_first_token": False})
    assert difference(dict(attribute(model, TASK, INSTANCES, other).by_module), expected) > 1e-3
