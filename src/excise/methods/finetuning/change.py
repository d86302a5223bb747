"""What training did to the weights, kept apart from the model and put in for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from excise.errors import PatchError, PatchMismatchError
from excise.models import LoadedModel, output_rows


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change of one linear map's weight: scale * up @ down."""

    down: torch.Tensor
    """[rank, inputs]"""
    up: torch.Tensor
    """[outputs, rank]"""
    scale: float

    def matrix(self) -> torch.Tensor:
        """[outputs, inputs] what is added to the weight."""
        return (self.up @ self.down) * self.scale


@dataclass(frozen=True)
class WeightChange:
    """New values of some parameters, and low-rank terms that are added to others; on the CPU.

    Values are kept rather than differences, since adding a difference would round.
    """

    base_model: str
    base_digest: str
    values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Parameter -> its value after training."""
    factors: Mapping[str, LowRank] = field(default_factory=dict)
    """Linear map -> what is added to its weight."""

    def __len__(self) -> int:
        return len(self.values) + len(self.factors)

    def check(self, loaded: LoadedModel) -> None:
        """Refuse a model that was not the one trained on; nothing is changed.

        Raises:
            PatchMismatchError: other weights.
            PatchError: no such parameter, or one of another shape.
        """
        if loaded.digest != self.base_digest:
            raise PatchMismatchError(
                f"the fine-tuning was done on {self.base_model} (weights {self.base_digest[:12]}), "
                f"not on {loaded.name} (weights {loaded.digest[:12]}); use that model."
            )
        shapes = {name: tuple(value.shape) for name, value in self.values.items()} | {
            f"{module}.weight": (term.up.shape[0], term.down.shape[1])
            for module, term in self.factors.items()
        }
        found = {name: p.shape for name, p in self._parameters(loaded).items()} | {
            f"{module}.weight": output_rows(loaded.linear(module)).shape for module in self.factors
        }
        for name, shape in found.items():
            if tuple(shape) != shapes[name]:
                raise PatchError(
                    f"parameter {name!r} has shape {tuple(shape)}, but {shapes[name]} was trained."
                )

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[None]:
        """The trained weights for the length of a `with` block.

        **The model is changed in place meanwhile**; its weights come back bit for bit, also after
        an error inside. Adapters are merged, so linear maps stay plain.
        """
        self.check(loaded)
        parameters = self._parameters(loaded)
        with kept(parameters):
            self.apply(loaded)
            yield

    @torch.no_grad()
    def apply(self, loaded: LoadedModel) -> None:
        """The trained weights for good: **the model is changed in place**."""
        self.check(loaded)
        parameters = self._parameters(loaded)
        for name, value in self.values.items():
            parameters[name].copy_(value)
        for module, term in self.factors.items():
            weight = output_rows(loaded.linear(module))
            weight.add_(term.matrix().to(weight.device, weight.dtype))

    def _parameters(self, loaded: LoadedModel) -> dict[str, nn.Parameter]:
        names = [*self.values, *(f"{module}.weight" for module in self.factors)]
        try:
            return {name: loaded.model.get_parameter(name) for name in names}
        except AttributeError as error:
            raise PatchError(f"the model lacks a weight that was trained: {error}.") from None


@contextmanager
def kept(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Whatever happens to them inside, the parameters' values come back bit for bit."""
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
