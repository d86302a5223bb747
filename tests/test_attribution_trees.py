"""Prompts that share a beginning in one row give what rows of their own give."""

import pytest
import torch

import tiny
from excise.attribution.layouts import layout_for
from excise.attribution.trees import shared_log_likelihoods
from excise.config import AttributionConfig
from excise.methods.gated.gates import Gates
from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt
from excise.types import Neuron

_EVERY_TOKEN = AttributionConfig(tokens="sum", skip_first_token=False)

BATCH = (
    # A short context, the same context and more of it; another question; the first one again.
    EncodedPrompt((5, 6, 7, 8), ((9,), (9, 10), (11, 12, 13))),
    EncodedPrompt((5, 6, 7, 8, 9, 10, 14), ((15,), (16, 17), (9, 10))),
    EncodedPrompt((5, 20), ((6,), (6, 7, 8), (21,))),
    EncodedPrompt((30, 31), ((9,), (32, 33))),
    EncodedPrompt((5, 6, 7, 8), ((9, 10), (9,))),
)
"""Among them an option that is a node inside another prompt."""


def _answers(model: LoadedModel, batch: tuple[EncodedPrompt, ...]) -> list[list[torch.Tensor]]:
    """Log-likelihoods and gradients of all factors, row by row and in the tree."""
    chosen = [Neuron(site.module, index) for site in model.sites for index in (0, 3)]
    found = []
    for rows in (True, False):
        gates = Gates.of(model, chosen)
        with gates.applied(model):
            values = (
                layout_for(model, batch, _EVERY_TOKEN).log_likelihoods()
                if rows
                else shared_log_likelihoods(model, batch)
            )
            # Weights that tell prompts, options and tokens apart.
            total = sum(
                (value * torch.linspace(0.5, 1.5, value.numel()).view_as(value)).sum()
                * (number + 1)
                for number, value in enumerate(values)
            )
            torch.autograd.backward(total)
        gradients = [
            torch.zeros_like(each) if each.grad is None else each.grad
            for each in gates.values.values()
        ]
        found.append([*(value.detach() for value in values), *gradients])
    return found


@pytest.mark.parametrize("name", [*tiny.ALL, *tiny.FAMILIES])
def test_values_and_gradients_are_those_of_rows(name: str) -> None:
    model = tiny.loaded(name)
    for batch in (BATCH, BATCH[1:2]):
        plain, tree = _answers(model, batch)
        assert any(bool(part.any()) for part in plain[len(batch) :])
        for left, right in zip(plain, tree, strict=True):
            torch.testing.assert_close(right, left, rtol=1e-4, atol=2e-5)


def test_each_distinct_prefix_is_forwarded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.loaded("llama")
    seen = []
    forward = model.model.forward
    monkeypatch.setattr(
        model.model,
        "forward",
        lambda **given: seen.append(tuple(given["input_ids"].shape)) or forward(**given),
    )
    shared_log_likelihoods(model, BATCH)
    prefixes = {
        (item.prompt + option[:-1])[:length]
        for item in BATCH
        for option in item.options
        for length in range(1, len(item.prompt + option))
    }
    assert seen == [(1, len(prefixes))]
