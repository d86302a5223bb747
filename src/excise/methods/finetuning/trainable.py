"""Which weights are trained: all, some, or adapters; the model comes back as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from excise.config import FinetuningConfig
from excise.errors import ConfigError
from excise.methods.finetuning.change import LowRank, WeightChange, kept
from excise.methods.finetuning.recipes import Recipe
from excise.models import LoadedModel, packed_linears


@dataclass(frozen=True)
class Trainable:
    """A model that is open for training."""

    parameters: tuple[nn.Parameter, ...]
    snapshot: Callable[[], WeightChange]
    """What has been learnt so far, as a copy."""

    @property
    def size(self) -> int:
        """Number of weights that are trained."""
        return sum(parameter.numel() for parameter in self.parameters)


@contextmanager
def opened(loaded: LoadedModel, recipe: Recipe, options: FinetuningConfig) -> Iterator[Trainable]:
    """Open a model for training; its weights, modules and flags come back as they were.

    Raises:
        ConfigError: weights that are not float32, nothing to train, or peft is not installed.
    """
    model = loaded.model
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ConfigError("fine-tuning needs float32 weights; load the model with --dtype float32.")
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    mode = model.training
    way = (
        _adapters(loaded, options)
        if recipe.weights == "adapters"
        else _weights(loaded, _names(loaded, recipe, options))
    )
    try:
        with way as trainable:
            yield trainable
    finally:
        model.train(mode)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None


@contextmanager
def _weights(loaded: LoadedModel, names: Sequence[str]) -> Iterator[Trainable]:
    model = loaded.model
    model.requires_grad_(False)
    chosen = {name: model.get_parameter(name) for name in names}
    for parameter in chosen.values():
        parameter.requires_grad_(True)

    def snapshot() -> WeightChange:
        values = {name: p.detach().to("cpu", copy=True) for name, p in chosen.items()}
        return WeightChange(loaded.name, loaded.digest, values=values)

    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    linear |= {id(m.bias) for m in model.modules() if isinstance(m, nn.Linear)}
    frozen = not linear & {id(parameter) for parameter in chosen.values()}
    with kept(chosen), packed_linears(model, gradients=True) if frozen else nullcontext():
        yield Trainable(tuple(chosen.values()), snapshot)


@contextmanager
def _adapters(loaded: LoadedModel, options: FinetuningConfig) -> Iterator[Trainable]:
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ConfigError(
            "LoRA adapters need the package peft; pip install 'excise[train]'."
        ) from error
    targets = [
        site.module
        for site in loaded.sites
        if options.modules == "all"
        or (options.modules == "feed-forward") == (site.sublayer == "feed-forward")
    ]
    settings = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=targets,
        # GPT-2's Conv1D, which stores its weights the other way round.
        fan_in_fan_out=any(not isinstance(loaded.linear(name), nn.Linear) for name in targets),
    )
    # Frozen maps may run packed; adapters, which change, are added after that and are not.
    with packed_linears(loaded.model, gradients=True):
        wrapped: Any = LoraModel(loaded.model, settings, "default")
        try:
            layers = {name: loaded.model.get_submodule(name) for name in targets}

            def snapshot() -> WeightChange:
                factors = {
                    name: LowRank(
                        layer.lora_A["default"].weight.detach().to("cpu", copy=True),
                        layer.lora_B["default"].weight.detach().to("cpu", copy=True),
                        float(layer.scaling["default"]),
                    )
                    for name, layer in layers.items()
                }
                return WeightChange(loaded.name, loaded.digest, factors=factors)

            yield Trainable(
                tuple(p for p in loaded.model.parameters() if p.requires_grad), snapshot
            )
        finally:
            wrapped.unload()


def _names(loaded: LoadedModel, recipe: Recipe, options: FinetuningConfig) -> list[str]:
    """Names of the parameters that are trained directly."""
    names = [name for name, _ in loaded.model.named_parameters()]
    if recipe.weights == "all":
        return names
    if options.trainable == "last_layers":
        return _in_last_layers(loaded, names, options.last_layers)
    norms = {
        f"{module}.{name}"
        for module, layer in loaded.model.named_modules()
        if "norm" in type(layer).__name__.lower()
        for name, _ in layer.named_parameters(recurse=False)
    }
    biases = {name for name in names if name.endswith(".bias")}
    wanted = {
        "norms": norms,
        "biases": biases,
        "norms_and_biases": norms | biases,
    }[options.trainable]
    chosen = [name for name in names if name in wanted]
    if not chosen:
        raise ConfigError(
            f"option finetuning.trainable: {loaded.name!r} has no {options.trainable}; take norms "
            "or last_layers."
        )
    return chosen


def _in_last_layers(loaded: LoadedModel, names: Sequence[str], count: int) -> list[str]:
    """Parameters of the last layers of each stack, encoder and decoder alike."""
    layers: dict[str, int] = {}
    for site in loaded.sites:
        stack = site.module.split(f".{site.layer}.")[0]
        layers[stack] = max(layers.get(stack, 0), site.layer + 1)
    chosen = []
    for name in names:
        for stack, size in layers.items():
            match = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
            if match and int(match[1]) >= size - count:
                chosen.append(name)
    return chosen
