"""Attention that keeps its probabilities gives what PyTorch's kernel gives."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface

import tiny
from excise.attribution import attention, attribute
from excise.attribution.attention import kept_probabilities
from excise.config import AttributionConfig


class _Module:
    """What transformers' own kernel asks of a layer."""

    is_causal = True

    def __init__(self, groups: int) -> None:
        self.num_key_value_groups = groups


def _inputs(rows: int, heads: int, shared: int, n: int, size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def drawn(several: int) -> torch.Tensor:
        return torch.randn(
            rows, n, several, size, generator=generator, dtype=torch.float64
        ).transpose(1, 2)

    return [drawn(heads), drawn(shared), drawn(shared)]


def _mask(rows: int, n: int) -> torch.Tensor:
    """Different rows, a branch that does not see the one before, padding that sees itself."""
    mask = torch.ones(n, n, dtype=torch.bool).tril().repeat(rows, 1, 1)
    mask[0, n - 1, n - 3 : n - 1] = False
    mask[-1, :, 0] = False
    mask[-1, 0, 0] = True
    return mask[:, None]


def _attended(
    name: str, inputs: list[torch.Tensor], mask: torch.Tensor, **options: Any
) -> list[torch.Tensor]:
    leaves = [part.detach().clone().requires_grad_(True) for part in inputs]
    groups = inputs[0].shape[1] // inputs[1].shape[1]
    kernel = {"own": attention._attend, "sdpa": AttentionInterface()["sdpa"]}[name]
    output, _ = kernel(_Module(groups), *leaves, mask, dropout=0.0, **options)
    towards = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    first = torch.autograd.grad(output, leaves, towards, retain_graph=True)
    again = torch.autograd.grad(output, leaves, towards * 2)
    return [output, *first, *again]


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("options", [{}, {"scaling": 0.3}])
def test_values_and_both_gradients_are_those_of_the_kernel(heads, shared, options):
    inputs, mask = _inputs(2, heads, shared, 9, 8), _mask(2, 9)
    assert attention._worth(*inputs, mask)
    expected = _attended("sdpa", inputs, mask, **options)
    found = _attended("own", inputs, mask, **options)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-12)


def test_gradients_are_finite_differences():
    inputs, mask = _inputs(2, 4, 2, 5, 4), _mask(2, 5)

    def attend(*leaves: torch.Tensor) -> torch.Tensor:
        return attention._Attention.apply(*leaves, mask, 0.5)

    assert torch.autograd.gradcheck(attend, [part.requires_grad_(True) for part in inputs])


@pytest.mark.parametrize(
    ("tokens", "kind", "masked"),
    [(17, torch.float64, True), (9, torch.bfloat16, True), (9, torch.float64, False)],
)
def test_long_texts_other_types_and_no_mask_take_the_models_own_kernel(
    tokens, kind, masked, monkeypatch
):
    inputs = [part.to(kind) for part in _inputs(2, 4, 2, tokens, 8)]
    mask = _mask(2, tokens) if masked else None
    monkeypatch.setattr(attention, "_Attention", None)  # not touched
    for value, wanted in zip(
        _attended("own", inputs, mask), _attended("sdpa", inputs, mask), strict=True
    ):
        assert torch.equal(value, wanted)


def test_the_models_kernel_comes_back_and_is_never_left_without_gradients():
    model = tiny.model("llama")
    with kept_probabilities(model):
        assert model.config._attn_implementation == "excise_kept_probabilities"
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError), kept_probabilities(model):
        raise RuntimeError
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad(), kept_probabilities(model):
        assert model.config._attn_implementation == "sdpa"
    model.config._attn_implementation = "eager"
    with kept_probabilities(model):
        assert model.config._attn_implementation == "eager"


def test_scores_are_those_with_the_models_own_kernel(monkeypatch):
    loaded = tiny.loaded("llama")
    loaded.model.double()
    instances, task = tiny.INSTANCES, tiny.task()
    calls = []
    monkeypatch.setattr(attention, "_worth", lambda *_: bool(calls.append(1)))
    expected = attribute(loaded, task, instances, AttributionConfig())
    assert calls, "the kernel of ours is asked"
    monkeypatch.setattr(attention, "_worth", lambda *_: True)
    found = attribute(loaded, task, instances, AttributionConfig())
    for module, values in expected.by_module.items():
        np.testing.assert_allclose(
            found.by_module[module], values, rtol=1e-9, atol=1e-14 * np.abs(values).max()
        )
