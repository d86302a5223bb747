"""Several devices where there is one: tensors of the CPU that say, and check, where they would be.

Inside `devices()` a tensor made on or moved to `cuda:0` lies in the CPU's memory and carries the
name of its device. An operation between tensors of different devices is refused as CUDA does it
(numbers without dimensions, and indices from the CPU, are welcome everywhere). `spread` puts the
parts of a model on such devices, with accelerate's own hooks moving what passes between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

CPU = torch.device("cpu")
_ANYWHERE = {torch.Tensor.copy_, torch.Tensor.set_, torch.Tensor.requires_grad_}
_INDEXING = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
_DEVICE = torch.Tensor.device.__get__  # type: ignore[attr-defined]
_TO_NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)


def device_of(tensor: torch.Tensor) -> torch.device | None:
    """Where a tensor says it is; None of a gradient, which nothing has named yet."""
    found: torch.device | None = getattr(tensor, "_fake_device", None)
    return found


class _Devices(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function == _DEVICE:
            return device_of(args[0]) or CPU
        name = getattr(function, "__name__", "")
        target = self._target(name, args, kwargs)
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        places = {
            place
            for number, tensor in enumerate(tensors)
            if (place := device_of(tensor)) is not None
            and not (tensor.dim() == 0 and place == CPU)
            and not (function in _INDEXING and number and place == CPU)
        }
        if name in ("to", "cuda", "cpu", "copy_", "type_as", "__get__", "__set__", "register_hook"):
            places = {place for place in (device_of(args[0]),) if place is not None}
        if len(places) > 1:
            raise RuntimeError(f"{name}: tensors on {sorted(map(str, places))}")
        if function in _TO_NUMPY and places - {CPU}:
            raise TypeError(f"{name}: a tensor on {places} is not in the CPU's memory")
        args, kwargs = self._on_cpu(name, args, kwargs)
        result = function(*args, **kwargs)
        where = target or next(iter(places), None) or (None if tensors else CPU)
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor) and where is not None:
                if target is not None and any(tensor is given for given in tensors):
                    if device_of(tensor) in (None, target):
                        tensor._fake_device = target  # type: ignore[attr-defined]
                        continue
                    result = tensor = tensor.clone()
                tensor._fake_device = where  # type: ignore[attr-defined]
        return result

    @staticmethod
    def _target(name: str, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
        """The device that an operation puts its result on."""
        if name == "cpu":
            return CPU
        if kwargs.get("device") is not None:
            return torch.device(kwargs["device"])
        if name == "to":
            for given in args[1:]:
                if isinstance(given, torch.device | str):
                    return torch.device(given)
                if isinstance(given, torch.Tensor):
                    return device_of(given)
        return None

    @staticmethod
    def _on_cpu(name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        if name == "to":
            args = tuple(CPU if isinstance(a, torch.device | str) else a for a in args)
        return args, kwargs


@contextmanager
def devices() -> Iterator[None]:
    """Inside, there are as many devices as are named."""
    with _Devices():
        yield


def spread(model: Any, places: Mapping[str, str]) -> None:
    """Put modules, by the beginning of their names, on fake devices, the longest match counting.

    Args:
        model: a transformers model on the CPU.
        places: beginning of a module's name -> device; `""` for all others and for what comes in.
    """

    def place(name: str) -> torch.device:
        fitting = [p for p in places if not p or name == p or name.startswith(f"{p}.")]
        return torch.device(places[max(fitting, key=len)])

    for name, module in model.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor._fake_device = place(name)
        if name == "":
            continue
        if module.state_dict():
            _move_inputs(module, place(name), model)
    # The outermost hook brings what comes out back to where what came in was.
    _move_inputs(model, place(""), model, io_same_device=True)


def _move_inputs(module: nn.Module, device: torch.device, model: Any, **options: Any) -> None:
    hook = AlignDevicesHook(skip_keys=model._skip_keys_device_placement, **options)
    add_hook_to_module(module, hook)
    hook.execution_device = device  # after its `init_hook`, which would move weights
