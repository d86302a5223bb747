"""Faster float32 linear maps on CPUs, for the length of a `with` block.

oneDNN multiplies with weights in its own blocked layout, which on many CPUs is twice as fast as the
default. The values are the same up to rounding; weights, hooks and gradients of activations work as
before. Weights must not change inside the block: what was packed would not know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
"""Weights above this are left alone: packing keeps a second copy, for gradients a third."""

_ROWS = 512
"""Typical number of tokens at once, a hint for the layout."""


@contextmanager
def packed_linears(model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Run the model's float32 linear maps on packed weights; elsewhere than on CPUs does nothing.

    Args:
        model: any module; only the `forward` of its linear maps is replaced meanwhile.
        gradients: also pack what backward passes to activations need. Gradients of weights are
            not computed.
    """
    linears = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in vars(module)  # another tool's, or an outer block's
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    ]
    size = sum(module.weight.numel() for module in linears) * 4
    if not _available() or size > MAX_BYTES:
        log.debug("linear maps are not packed: %d bytes of float32 weights on the CPU", size)
        yield
        return
    try:
        for module in linears:
            module.forward = _forward(module, gradients)  # type: ignore[method-assign, assignment]
        yield
    finally:
        for module in linears:
            module.__dict__.pop("forward", None)


@contextmanager
def unpacked(linears: Sequence[nn.Linear]) -> Iterator[None]:
    """Inside `packed_linears`, let the weights of some linear maps change for a `with` block.

    They run unpacked meanwhile; what changed must be undone before the block ends.
    """
    packed = {
        linear: vars(linear).pop("forward") for linear in linears if "forward" in vars(linear)
    }
    try:
        yield
    finally:
        for linear, forward in packed.items():
            linear.forward = forward  # type: ignore[method-assign]


def _available() -> bool:
    present: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return present and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _forward(module: nn.Linear, gradients: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    if not gradients:
        return lambda inputs: _multiply(inputs, packed, bias)
    transposed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), _ROWS)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _PackedLinear.apply(  # type: ignore[no-untyped-call]
            inputs, packed, transposed, bias
        )
        return result

    return forward


def _multiply(
    inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return result


class _PackedLinear(torch.autograd.Function):
    """y = x W' + b; its gradient with respect to x only."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        packed: torch.Tensor,
        transposed: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.transposed = transposed
        return _multiply(inputs, packed, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _multiply(gradient.contiguous(), ctx.transposed, None), None, None, None
