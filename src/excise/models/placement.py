"""Where a model's weights are: on one device, on several, or kept elsewhere until they are needed.

`accelerate` hangs hooks on the modules of a model that it spreads. A hook moves what a module
reads to the module's device. Where there is no room, it also keeps the module's weights in the
main memory or on disk, leaves empty ones in the model, and puts the values in for each forward
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from excise import parallel
from excise.errors import ConfigError

DEVICE_MAPS = ("auto", "balanced", "sequential")
"""Ways to spread a model over devices, as transformers calls them."""


def check_device_map(device_map: str | None, device: str) -> None:
    """Refuse a device map that is unknown, or that something else contradicts.

    Args:
        device_map: one of `DEVICE_MAPS`, or None for one device.
        device: `auto`, or the device that was asked for.

    Raises:
        ConfigError: also where several processes would each spread a model over the same devices.
    """
    if device_map is None:
        return
    if device_map not in DEVICE_MAPS:
        raise ConfigError(
            f"device map {device_map!r} is not known; use one of {', '.join(DEVICE_MAPS)}."
        )
    if device != "auto":
        raise ConfigError(
            f"device {device!r} and device map {device_map!r} exclude each other: the map chooses "
            "the devices. Leave one of them out."
        )
    if parallel.asked_for() > 1:
        raise ConfigError(
            f"device map {device_map!r} spreads one model over all devices, but "
            f"{parallel.asked_for()} processes were started, each with a model of its own. Leave "
            "out the map or the launcher."
        )


def input_device(model: Any) -> torch.device:
    """Where a model reads its token ids: the device on which the embeddings compute."""
    embeddings = model.get_input_embeddings()
    weight: torch.Tensor = embeddings.weight
    hook = _keeper(embeddings)
    return weight.device if hook is None else torch.device(hook.execution_device)


def offloaded(model: nn.Module) -> bool:
    """Whether some weights are in the model during their module's forward pass only."""
    return any(parameter.is_meta for parameter in model.parameters())


def nowhere(model: nn.Module) -> str | None:
    """The first weight that has no values anywhere, or None."""
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta and _keeper(module) is None:
                return f"{name}.{own}" if name else own
    return None


def weights(model: nn.Module) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> the values of every weight, tied ones once, also of those that are kept elsewhere.

    Values are read when they are asked for: those of a model on disk would not fit together.
    """
    if not offloaded(model):
        return {name: p.detach for name, p in model.named_parameters()}
    # Empty weights do not show that they are one: transformers knows.
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {
        name: partial(_values, module, own)
        for prefix, module in model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
        if (name := f"{prefix}.{own}" if prefix else own) not in tied
    }


def _values(module: nn.Module, name: str) -> torch.Tensor:
    parameter, keeper = module.get_parameter(name).detach(), _keeper(module)
    if not parameter.is_meta or keeper is None:
        return parameter
    kept: torch.Tensor = keeper.weights_map[name].detach()
    return kept


def _keeper(module: nn.Module) -> Any | None:
    """The hook that keeps a module's weights elsewhere."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):  # several stand in one of accelerate's sequences
        if getattr(one, "offload", False) and getattr(one, "weights_map", None) is not None:
            return one
    return None
