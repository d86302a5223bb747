"""Hooks that turn each module's output and its gradient into one number per neuron at once.

Nothing per token is kept: when a gradient arrives, activation times gradient is reduced over the
positions that count, so memory does not grow with the number of instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from excise.config import AttributionConfig
from excise.models import LoadedModel, Site


@dataclass
class Recorder:
    """Activation x gradient of every neuron for the option that is being differentiated."""

    config: AttributionConfig
    reduced: dict[str, torch.Tensor] = field(default_factory=dict)
    """Module -> [prompts, neurons], reduced over tokens."""
    per_token: dict[str, torch.Tensor] = field(default_factory=dict)
    """Module -> [prompts, tokens, neurons], filled only for modules in `keep_tokens`."""
    keep_tokens: frozenset[str] = frozenset()
    positions: Callable[[Site], torch.Tensor] | None = None
    """Which rows and tokens count; set before each backward pass."""
    merged: Callable[[Site, torch.Tensor], torch.Tensor] | None = None
    """Sums the gradient over copies of one input token; set where there are any."""

    def clear(self) -> None:
        """Forget the last backward pass."""
        self.reduced, self.per_token = {}, {}

    def record(self, site: Site, activation: torch.Tensor, gradient: torch.Tensor) -> None:
        """Reduce one module's activation x gradient (equation 1 and 4)."""
        assert self.positions is not None
        keep = self.positions(site)  # [rows, tokens]
        rows = keep.any(dim=1)
        if not bool(rows.any()):
            return
        keep = keep[rows]
        if self.merged is not None:
            gradient = self.merged(site, gradient)
        product = activation[rows] * gradient[rows]  # [prompts, tokens, neurons]
        if site.module in self.keep_tokens:
            self.per_token[site.module] = product.masked_fill(~keep[..., None], float("nan"))
        self.reduced[site.module] = reduce_tokens(product, keep, self.config.tokens)


def reduce_tokens(product: torch.Tensor, keep: torch.Tensor, how: str) -> torch.Tensor:
    """Reduce [prompts, tokens, neurons] over the kept tokens to [prompts, neurons]."""
    if how == "max":
        return product.masked_fill(~keep[..., None], float("-inf")).amax(dim=1)
    total = product.masked_fill(~keep[..., None], 0.0).sum(dim=1)
    return total / keep.sum(dim=1, keepdim=True) if how == "mean" else total


@contextmanager
def recording(
    loaded: LoadedModel,
    sites: Sequence[Site],
    config: AttributionConfig,
    recorder: Recorder | None = None,
) -> Iterator[Recorder]:
    """Hook the sites; inside, forward with gradients and call backward.

    `recorder` reduces in its own way what arrives; by default as `config` says.

    Parameters need no gradient: the graph starts at the input embeddings. Hooks and
    `requires_grad` flags are restored on leaving.
    """
    keep = (
        frozenset(site.module for site in sites if site.over_input)
        if config.order == "subtract_then_max"
        else frozenset()
    )
    recorder = recorder or Recorder(config, keep_tokens=keep)
    wanted = {id(p): p.requires_grad for p in loaded.model.parameters()}
    handles = []
    try:
        for parameter in loaded.model.parameters():
            parameter.requires_grad_(False)
        for embedding in _input_embeddings(loaded):
            handles.append(
                embedding.register_forward_hook(
                    lambda _module, _inputs, output: output.requires_grad_(True)
                )
            )
        for site in sites:
            handles.append(loaded.linear(site.module).register_forward_hook(_hook(recorder, site)))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
        for parameter in loaded.model.parameters():
            parameter.requires_grad_(wanted[id(parameter)])


def _hook(recorder: Recorder, site: Site) -> Callable[..., None]:
    def forward(_module: object, _inputs: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            # Detached: a hook that held its own tensor would keep the whole graph alive.
            activation = output.detach()
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: recorder.record(site, activation, gradient)
            )

    return forward


def _input_embeddings(loaded: LoadedModel) -> list[torch.nn.Module]:
    """The token embeddings: of encoder and decoder where there are two."""
    model = loaded.model
    stacks = [model.get_encoder(), model.get_decoder()] if loaded.encoder_decoder else [model]
    found = {id(module): module for module in (stack.get_input_embeddings() for stack in stacks)}
    return list(found.values())
