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

_AT_ONCE = 2**18
"""Products computed at once on a CPU: they are reduced while they are in its cache."""


@dataclass(frozen=True)
class Kept:
    """Which rows and tokens of a module's output count."""

    mask: torch.Tensor
    """Bool [rows that count, tokens]."""
    rows: torch.Tensor | None
    """Their numbers; None where all rows count."""
    dropped: torch.Tensor
    """Places of False in the flattened mask."""
    dropped_by_row: tuple[torch.Tensor, ...]
    """The same, of each row."""

    @classmethod
    def of(cls, positions: torch.Tensor) -> Kept | None:
        """From bool [rows, tokens]; None where nothing counts."""
        counting = positions.any(dim=1)
        if not bool(counting.any()):
            return None
        mask = positions[counting]
        return cls(
            mask=mask,
            rows=None if bool(counting.all()) else counting.nonzero()[:, 0],
            dropped=(~mask).flatten().nonzero()[:, 0],
            dropped_by_row=tuple((~row).nonzero()[:, 0] for row in mask),
        )


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
    _kept: dict[tuple[object, ...], Kept | None] = field(default_factory=dict)
    """By what positions depend on, so that each kind of module is looked at once a pass."""
    _product: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """Memory for products, used again and again."""

    def clear(self) -> None:
        """Forget the last backward pass."""
        self.reduced, self.per_token, self._kept = {}, {}, {}

    def record(self, site: Site, activation: torch.Tensor, gradient: torch.Tensor) -> None:
        """Reduce one module's activation x gradient (equation 1 and 4)."""
        kept = self._kept_of(site, activation.device)
        if kept is None:
            return
        if self.merged is not None:
            gradient = self.merged(site, gradient)
        if kept.rows is not None:
            activation, gradient = activation[kept.rows], gradient[kept.rows]
        if site.module in self.keep_tokens:
            product = activation * gradient  # [prompts, tokens, neurons]
            self.per_token[site.module] = product.masked_fill(~kept.mask[..., None], float("nan"))
            self.reduced[site.module] = reduce_tokens(product, kept.mask, self.config.tokens)
        else:
            self.reduced[site.module] = self._reduced(activation, gradient, kept)

    def _kept_of(self, site: Site, device: torch.device) -> Kept | None:
        assert self.positions is not None
        key = (site.over_input, site.sublayer == "cross-attention", device)
        if key not in self._kept:
            self._kept[key] = Kept.of(self.positions(site).to(device))
        return self._kept[key]

    def _reduced(
        self, activation: torch.Tensor, gradient: torch.Tensor, kept: Kept
    ) -> torch.Tensor:
        """As `reduce_tokens` of their product, which is never in memory as a whole."""
        rows, _, size = activation.shape
        if activation.device.type != "cpu" or activation.numel() <= _AT_ONCE:
            parts = [(slice(None), kept.dropped)]
        else:
            parts = [(slice(row, row + 1), kept.dropped_by_row[row]) for row in range(rows)]
        how = self.config.tokens
        result = activation.new_empty(rows, size)
        for part, dropped in parts:
            product = torch.mul(
                activation[part], gradient[part], out=self._scratch(activation[part])
            )
            product.view(-1, size).index_fill_(0, dropped, float("-inf") if how == "max" else 0.0)
            if how == "max":
                torch.amax(product, dim=1, out=result[part])
            else:
                torch.sum(product, dim=1, out=result[part])
        return result / kept.mask.sum(dim=1, keepdim=True) if how == "mean" else result

    def _scratch(self, like: torch.Tensor) -> torch.Tensor:
        fits = self._product.device == like.device and self._product.dtype == like.dtype
        if not fits or self._product.numel() < like.numel():
            self._product = like.new_empty(like.numel())
        return self._product[: like.numel()].view(like.shape)


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

    Parameters need no gradient: the graph starts at the sites that come first. Hooks and
    `requires_grad` flags are restored on leaving.

    Raises:
        ModelError: some weights are offloaded.
    """
    keep = (
        frozenset(site.module for site in sites if site.over_input)
        if config.order == "subtract_then_max"
        else frozenset()
    )
    loaded.refuse_offloaded("attribution")
    recorder = recorder or Recorder(config, keep_tokens=keep)
    wanted = {id(p): p.requires_grad for p in loaded.model.parameters()}
    handles = []
    try:
        for parameter in loaded.model.parameters():
            parameter.requires_grad_(False)
        rows: list[int] = [1]
        for embedding in _input_embeddings(loaded):
            handles.append(embedding.register_forward_hook(_count(rows)))
        for site in sites:
            hook = _hook(recorder, site, rows)
            handles.append(loaded.linear(site.module).register_forward_hook(hook))
        if loaded.architecture.overwrites:
            # Behind the hooks above: they keep what the map gave, the model goes on with a copy.
            for site in loaded.sites:
                handles.append(loaded.linear(site.module).register_forward_hook(_copy))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
        for parameter in loaded.model.parameters():
            parameter.requires_grad_(wanted[id(parameter)])


def _count(rows: list[int]) -> Callable[..., None]:
    """Where token vectors are looked up it is seen how many rows there are."""

    def forward(_module: object, _inputs: object, output: torch.Tensor) -> None:
        rows[0] = output.shape[0]

    return forward


def _hook(recorder: Recorder, site: Site, rows: list[int]) -> Callable[..., None]:
    def forward(_module: object, _inputs: object, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            # The graph begins at the first of them: nothing before it needs a gradient.
            output.requires_grad_(True)
            # Detached: a hook that held its own tensor would keep the whole graph alive.
            activation = output.detach()
            # OPT's feed-forward sees [rows x tokens, neurons].
            shape = (rows[0], -1, site.size) if output.dim() == 2 else output.shape

            def backward(gradient: torch.Tensor) -> None:
                recorder.record(site, activation.reshape(shape), gradient.reshape(shape))

            output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def _copy(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
    return output.clone()


def _input_embeddings(loaded: LoadedModel) -> list[torch.nn.Module]:
    """The token embeddings: of encoder and decoder where there are two."""
    model = loaded.model
    stacks = [model.get_encoder(), model.get_decoder()] if loaded.encoder_decoder else [model]
    found = {id(module): module for module in (stack.get_input_embeddings() for stack in stacks)}
    return list(found.values())
