"""Learnable factors of chosen neurons: while they are applied, gradients reach them alone.

Multiplying an output feature by a learned factor is what (IA)3 does for whole modules (Liu et al.,
NeurIPS 2022, section 3.3); here only a few neurons have a factor, and the result is a patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from excise.errors import ConfigError
from excise.models import LoadedModel
from excise.types import Neuron


@dataclass(frozen=True)
class Gates:
    """One factor for each of a set of neurons, 1 in the beginning."""

    neurons: tuple[Neuron, ...]
    """Module by module."""
    values: dict[str, torch.Tensor]
    """Module -> [its chosen neurons] factors, leaves of the graph."""
    indices: dict[str, torch.Tensor]
    """Module -> [its chosen neurons] output features."""
    sizes: dict[str, int]
    """Module -> number of its output features."""

    @classmethod
    def of(cls, loaded: LoadedModel, neurons: Sequence[Neuron]) -> Gates:
        """Gates of these neurons, all 1.

        Raises:
            ConfigError: weights in half precision, whose gradients underflow.
        """
        if loaded.model.dtype == torch.float16:
            raise ConfigError("float16 gradients underflow; learn factors with --dtype float32.")
        by_module: dict[str, list[int]] = {}
        for neuron in sorted(set(neurons)):
            by_module.setdefault(neuron.module, []).append(neuron.index)
        sizes = {site.module: site.size for site in loaded.sites}
        return cls(
            neurons=tuple(Neuron(m, i) for m, indices in by_module.items() for i in indices),
            values={
                m: torch.ones(len(i), device=loaded.device, requires_grad=True)
                for m, i in by_module.items()
            },
            indices={m: torch.tensor(i, device=loaded.device) for m, i in by_module.items()},
            sizes={module: sizes[module] for module in by_module},
        )

    def factors(self, strength: float = 1.0) -> tuple[float, ...]:
        """[neurons] factors, `strength` of the way from 1 to what was learned."""
        learned = [v for values in self.values.values() for v in values.detach().tolist()]
        # Four digits: what is written is what was decided about.
        return tuple(round(1.0 + strength * (value - 1.0), 4) for value in learned)

    def partly(self, strength: float) -> Gates:
        """Others for the same neurons, `strength` of the way from 1 to these factors."""
        values = {
            module: (1.0 + strength * (learned.detach() - 1.0)).requires_grad_()
            for module, learned in self.values.items()
        }
        return replace(self, values=values)

    def only(self, costs: Mapping[str, torch.Tensor], count: int) -> Gates:
        """Gates of the `count` neurons whose reset to 1 costs most, with the factors they have.

        Args:
            costs: module -> [its chosen neurons], as `Lesson.costs` gives them; of equal ones
                those of earlier modules stay.
            count: at least 1; more than there are keeps all.
        """
        flat = torch.cat([costs[module] for module in self.values])
        chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
        chosen[flat.argsort(descending=True, stable=True)[:count]] = True
        parts = torch.split(chosen, [len(values) for values in self.values.values()])
        kept = {m: part for m, part in zip(self.values, parts, strict=True) if part.any()}
        neurons = zip(self.neurons, chosen.tolist(), strict=True)
        return Gates(
            neurons=tuple(neuron for neuron, stays in neurons if stays),
            values={m: self.values[m].detach()[part].requires_grad_() for m, part in kept.items()},
            indices={m: self.indices[m][part] for m, part in kept.items()},
            sizes={m: self.sizes[m] for m in kept},
        )

    @torch.no_grad()
    def shrink(self, by: float) -> None:
        """Move every factor towards 1, and no further: the proximal step of an L1 penalty."""
        for values in self.values.values():
            change = values - 1.0
            values.copy_(1.0 + change.sign() * (change.abs() - by).clamp(min=0.0))

    @torch.no_grad()
    def clamp(self, low: float, high: float) -> None:
        """Keep every factor in a range."""
        for values in self.values.values():
            values.clamp_(low, high)

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[None]:
        """The model with its outputs multiplied; no weight changes, and none gets a gradient."""
        wanted = [(p, p.requires_grad) for p in loaded.model.parameters()]
        handles = [
            loaded.model.get_submodule(module).register_forward_hook(self._hook(module))
            for module in self.values
        ]
        try:
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)

    def _hook(self, module: str) -> Any:
        def multiply(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            values = self.values[module]
            whole = values.new_ones(self.sizes[module])
            return output * whole.index_put((self.indices[module],), values).to(output)

        return multiply
