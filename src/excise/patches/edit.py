"""Zero or scale output features of linear maps, reversibly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from excise.errors import PatchError
from excise.models import LinearMap, is_linear, output_rows
from excise.types import Neuron

Factor = float | Sequence[float]
"""One factor for all neurons, or one for each."""

Changes = tuple[tuple[Neuron, float], ...]
"""Neurons with the factors that their outputs are multiplied by."""

_in_force: WeakKeyDictionary[nn.Module, tuple[Changes, ...]] = WeakKeyDictionary()


def by_module(neurons: Sequence[Neuron]) -> dict[str, list[int]]:
    """Module -> indices of its neurons, in the given order."""
    grouped: dict[str, list[int]] = {}
    for neuron in neurons:
        grouped.setdefault(neuron.module, []).append(neuron.index)
    return grouped


def check(model: nn.Module, neurons: Sequence[Neuron]) -> None:
    """Refuse neurons that the model does not have; nothing is changed.

    Raises:
        PatchError: a missing module, a module that is no linear map, or an index out of range.
    """
    for module, indices in by_module(neurons).items():
        _linear(model, module, indices)


@torch.no_grad()
def scale_outputs(model: nn.Module, neurons: Sequence[Neuron], factor: Factor = 0.0) -> None:
    """Multiply weights and bias entries of the neurons by `factor`, in place, for good.

    A neuron's weights are a row; a column where a map is stored the other way round. The output
    feature is multiplied by the factor for every input (Yang et al. 2024, section 3.4, for
    factor 0); shapes stay as they are.
    """
    check(model, neurons)
    factors = [factor] * len(neurons) if isinstance(factor, int | float) else list(factor)
    wanted: dict[str, list[float]] = {}
    for neuron, own in zip(neurons, factors, strict=True):
        wanted.setdefault(neuron.module, []).append(own)
    for module, indices in by_module(neurons).items():
        _scale(_linear(model, module, indices), indices, wanted[module])


def _scale(linear: LinearMap, indices: Sequence[int], factors: Sequence[float]) -> None:
    weight = output_rows(linear)
    rows = torch.tensor(indices, device=weight.device)
    # As torch multiplies by a number: half precision is widened, and rounded once.
    wide = torch.promote_types(weight.dtype, torch.float32)
    by = torch.tensor(factors, device=weight.device, dtype=wide)
    weight[rows] = _product(weight[rows], by[:, None])
    if linear.bias is not None:
        linear.bias[rows] = _product(linear.bias[rows], by)


def _product(values: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    # Not a product where the factor is 0: 0 * inf would be NaN.
    return torch.where(by == 0.0, 0.0, values.to(by.dtype) * by).to(values.dtype)


def changes_in_force(model: nn.Module) -> tuple[Changes, ...]:
    """What the `scaled_outputs` blocks around this place do to a model, the outermost first."""
    return _in_force.get(model, ())


def changes_of(neurons: Sequence[Neuron], factor: Factor = 0.0) -> Changes:
    """Neurons with their factors, as `changes_in_force` tells them."""
    factors = [factor] * len(neurons) if isinstance(factor, int | float) else list(factor)
    return tuple((neuron, float(own)) for neuron, own in zip(neurons, factors, strict=True))


@contextmanager
def scaled_outputs(
    model: nn.Module, neurons: Sequence[Neuron], factor: Factor = 0.0
) -> Iterator[None]:
    """`scale_outputs` for the length of a `with` block; the weights come back bit for bit."""
    check(model, neurons)
    before = changes_in_force(model)
    saved: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]] = {
        module: _rows(_linear(model, module, indices), indices)
        for module, indices in by_module(neurons).items()
    }
    try:
        scale_outputs(model, neurons, factor)
        _in_force[model] = (*before, changes_of(neurons, factor))
        yield
    finally:
        _in_force[model] = before
        with torch.no_grad():
            for module, indices in by_module(neurons).items():
                linear = _linear(model, module, indices)
                weight, bias = saved[module]
                rows = torch.tensor(indices, device=linear.weight.device)
                output_rows(linear)[rows] = weight
                if bias is not None:
                    linear.bias[rows] = bias


def _rows(linear: LinearMap, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight = output_rows(linear).detach()[indices].clone()
    return weight, None if linear.bias is None else linear.bias.detach()[indices].clone()


def _linear(model: nn.Module, module: str, indices: Sequence[int]) -> LinearMap:
    try:
        linear: LinearMap = model.get_submodule(module)
    except AttributeError:
        raise PatchError(
            f"the model has no module {module!r}; the patch is for another one."
        ) from None
    if not is_linear(linear):
        raise PatchError(f"module {module!r} is a {type(linear).__name__}, not a linear map.")
    if linear.weight.is_meta:
        raise PatchError(
            f"the weights of module {module!r} are offloaded, so they cannot be changed; load the "
            "model onto devices that hold all of it."
        )
    size = output_rows(linear).shape[0]
    for index in indices:
        if not 0 <= index < size:
            raise PatchError(
                f"neuron {index} of module {module!r} is out of range: "
                f"it has {size} output features."
            )
    return linear
