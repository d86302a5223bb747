"""A model's own forward pass, begun in the middle: layers that are known already only pass on.

Nothing of a model is written anew. The layers before the one to start at hand on what they are
given, the last of them hands on the hidden states that were kept; masks, positions and everything
else that the model computes beside its layers are computed as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from excise.models import LoadedModel
from excise.patches import Changes
from excise.scoring.branching import Labels


@dataclass
class Stack:
    """The layers that read a prompt: of a decoder, or of the encoder where there are two stacks."""

    layers: Sequence[nn.Module]
    prefix: str
    """What stands before a layer's number in the names of its modules."""
    behind: str | None
    """What the names of the modules behind the layers begin with: the decoder's, where there are
    two stacks."""
    passes: bool = True
    """Whether layers can be left out: they give each other hidden states, and nothing else that
    differs from layer to layer."""
    length: int | None = None
    """Values that a layer returns as a tuple; None for the hidden states as they are."""
    shares: bool = False
    """Whether layers hand on something more, which the first one computes (the position bias of
    T5), so that the first is never left out."""

    @property
    def starts(self) -> range:
        """Layers that a pass may start at; the number of layers stands for what is behind them."""
        first = (2 if self.shares else 1) if self.passes else len(self.layers)
        return range(first, len(self.layers) + (self.behind is not None))

    def labels(self, blocks: Sequence[Changes]) -> Labels:
        """What is changed outside of the layers, in each layer, and behind them."""
        found: list[list[tuple[tuple[str, int, float], ...]]]
        found = [[] for _ in range(len(self.layers) + 2)]
        for block in blocks:
            places: dict[int, list[tuple[str, int, float]]] = {}
            for neuron, factor in block:
                change = (neuron.module, neuron.index, factor)
                places.setdefault(self._place(neuron.module), []).append(change)
            for place, changes in places.items():
                found[place].append(tuple(sorted(changes)))
        return tuple(tuple(label) for label in found)

    def _place(self, module: str) -> int:
        if module.startswith(self.prefix):
            number = module[len(self.prefix) :].partition(".")[0]
            return int(number) + 1 if number.isdecimal() else 0
        behind = self.behind is not None and module.startswith(self.behind)
        return len(self.layers) + 1 if behind else 0


def stack_of(loaded: LoadedModel) -> Stack | None:
    """The layers that read a prompt; None where they are no plain list of separate modules."""
    pattern = re.compile(loaded.architecture.pattern)
    matches = [pattern.fullmatch(site.module) for site in loaded.sites]
    prefixes = {m.string[: m.start("layer")] for m in matches if m is not None}
    behind = None
    if loaded.encoder_decoder:
        names = {id(module): name for name, module in loaded.model.named_modules()}
        encoder = f"{names.get(id(loaded.model.get_encoder()))}."
        behind = f"{names.get(id(loaded.model.get_decoder()))}."
        prefixes = {prefix for prefix in prefixes if prefix.startswith(encoder)}
    if len(prefixes) != 1:
        return None
    prefix = prefixes.pop()
    try:
        layers = loaded.model.get_submodule(prefix.rstrip("."))
    except AttributeError:
        return None
    if not isinstance(layers, nn.ModuleList) or not prefix.endswith("."):
        return None
    weights = [id(p) for p in chain.from_iterable(layer.parameters() for layer in layers)]
    # Layers that share weights would change together; a layer whose forward pass is another
    # tool's is left to it.
    if len(set(weights)) < len(weights) or any("forward" in vars(layer) for layer in layers):
        return None
    return Stack(tuple(layers), prefix, behind)


@dataclass
class Passage:
    """One forward pass through the layers: where it starts, and what is looked at on the way."""

    stack: Stack
    start: int = 0
    """The first layer that computes; those before it pass on."""
    given: torch.Tensor | None = None
    """[tokens, hidden] input of that layer."""
    seen: Mapping[int, Callable[[torch.Tensor], None]] = field(default_factory=dict)
    """Layer, after `start` -> what is told its input, [tokens, hidden]."""

    @contextmanager
    def through(self) -> Iterator[None]:
        """The model's next forward pass inside the `with` block is this one; undone afterwards."""
        layers = self.stack.layers
        # What the first layer returns beside hidden states, if it computes, and what another does.
        shared: list[tuple[Any, ...]] = [()]
        with ExitStack() as undo:
            if self.start:
                first = 1 if self.stack.shares else 0
                if first:
                    undo.callback(layers[0].register_forward_hook(_keeping_rest(shared)).remove)
                for number in range(first, self.start):
                    last = number == self.start - 1
                    undo.callback(vars(layers[number]).pop, "forward", None)
                    layers[number].forward = self._passing(shared, self.given if last else None)
            # What layers hand on up to the last kept one decides whether they can be left out.
            for number in range(self.start, max(self.seen, default=-1) + 1):
                hook = self._looking(number, shared)
                handle = layers[number].register_forward_hook(hook, with_kwargs=True)
                undo.callback(handle.remove)
            yield

    def _passing(
        self, shared: list[tuple[Any, ...]], given: torch.Tensor | None
    ) -> Callable[..., Any]:
        length = self.stack.length

        def forward(*inputs: Any, **named: Any) -> Any:
            hidden = inputs[0] if inputs else named["hidden_states"]
            if given is not None:
                # A copy: some models add to it in place.
                hidden = given.view(hidden.shape).clone()
            if length is None:
                return hidden
            return (hidden, *(shared[0] or (None,) * (length - 1)))

        return forward

    def _looking(self, number: int, shared: list[tuple[Any, ...]]) -> Callable[..., None]:
        stack = self.stack

        def hook(_layer: Any, inputs: Any, named: Any, output: Any) -> None:
            hidden, length, rest = _parts(output)
            if number == 0:
                stack.length = length
                shared[0] = rest
            elif self._handed_on((*inputs, *named.values()), shared):
                stack.shares = True
                # Whoever gets it from the first layer must get the same from any other.
                if list(map(id, rest)) != list(map(id, shared[0])):
                    stack.passes = False
            if length != stack.length:
                stack.passes = False
            shared[1:] = [rest]
            if number + 1 in self.seen:
                self.seen[number + 1](hidden.reshape(-1, hidden.shape[-1]))

        return hook

    @staticmethod
    def _handed_on(inputs: Sequence[Any], shared: Sequence[tuple[Any, ...]]) -> bool:
        """Whether a layer is given what the first layer, or the one before it, returned."""
        given = {id(value) for value in inputs if value is not None}
        return any(id(value) in given for rest in shared for value in rest if value is not None)


def _parts(output: Any) -> tuple[torch.Tensor, int | None, tuple[Any, ...]]:
    """Hidden states, the length of the tuple that they are in, and what else is in it."""
    if isinstance(output, tuple):
        return output[0], len(output), tuple(output[1:])
    return output, None, ()


def _keeping_rest(shared: list[tuple[Any, ...]]) -> Callable[..., None]:
    def hook(_layer: Any, _inputs: Any, output: Any) -> None:
        shared[0] = _parts(output)[2]

    return hook
