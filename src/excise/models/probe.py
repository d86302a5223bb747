"""A layout that a user described, checked on the model itself: every map must do what hooks need.

A row of the table is checked by tests. A description is not, so one short forward pass looks at
what each map gives: once, one feature vector for each token, over the input or over the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from excise.errors import UnsupportedArchitectureError
from excise.models.architectures import Site
from excise.models.linear import output_rows
from excise.models.placement import input_device

_ROWS, _INPUT, _ANSWER = 2, 5, 3
"""Of the probe; all differ, so that no axis is taken for another."""


@torch.no_grad()
def probe(model: Any, sites: Sequence[Site], *, encoder_decoder: bool) -> None:
    """Refuse a description that the model does not follow.

    Args:
        model: a transformers model in eval mode; its weights are not changed.
        sites: the linear maps that are described.
        encoder_decoder: whether there are two stacks.

    Raises:
        UnsupportedArchitectureError: a map that shares its weights, is not called once in a pass,
            sees some tokens only, or runs over other tokens than is said.
    """
    _refuse_shared(model, sites)
    shapes: dict[str, list[tuple[int, ...]]] = {site.module: [] for site in sites}
    handles = [
        model.get_submodule(site.module).register_forward_hook(_keep(shapes[site.module]))
        for site in sites
    ]
    device = input_device(model)
    inputs = {"input_ids": _tokens(_INPUT, device)}
    if encoder_decoder:
        inputs["decoder_input_ids"] = _tokens(_ANSWER, device)
    try:
        model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for site in sites:
        found = shapes[site.module]
        over_input = site.over_input or not encoder_decoder
        if len(found) != 1:
            raise UnsupportedArchitectureError(
                f"linear map {site.module!r} is called {len(found)} times in a forward pass, so a "
                "hook does not see its neurons once a token; name it in --no-neurons."
            )
        if found[0] == (_ROWS, _ANSWER if over_input else _INPUT, site.size) and encoder_decoder:
            other = "the input" if not over_input else "the answer"
            raise UnsupportedArchitectureError(
                f"linear map {site.module!r} runs over tokens of {other}; --neurons says so with "
                "the group `stack` (encoder or decoder), and with the group `over_input` around "
                "the name of keys and values that a decoder takes from the encoder."
            )
        if found[0] != (_ROWS, _INPUT if over_input else _ANSWER, site.size):
            raise UnsupportedArchitectureError(
                f"linear map {site.module!r} gives {list(found[0])} and not one vector of "
                f"{site.size} features a token, as experts do; name it in --no-neurons."
            )


def _tokens(length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(3, 3 + _ROWS * length, device=device).view(_ROWS, length)


def _keep(shapes: list[tuple[int, ...]]) -> Callable[..., None]:
    def forward(_module: object, _inputs: object, output: torch.Tensor) -> None:
        shape = tuple(output.shape)
        if len(shape) == 2 and shape[0] % _ROWS == 0:
            shape = (_ROWS, shape[0] // _ROWS, shape[1])  # all rows as one, as in OPT
        shapes.append(shape)

    return forward


def _refuse_shared(model: Any, sites: Sequence[Site]) -> None:
    """Weights that stand in several places: excising a neuron of one would change the others."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    seen: dict[int, str] = {}
    for site in sites:
        linear = model.get_submodule(site.module)
        key = id(linear.weight)
        if key in embeddings or key in seen:
            raise UnsupportedArchitectureError(
                f"linear map {site.module!r} shares its weights with "
                f"{seen.get(key, 'the embeddings')!r}; name it in --no-neurons."
            )
        seen[key] = site.module
        assert output_rows(linear).shape[0] == site.size
