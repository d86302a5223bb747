"""Hidden states that are kept from one state of a model to the next.

Two patches compute the same up to the first layer in which they differ. Inside `reusing`, the
scoring engines keep hidden states where the expected patches part, and start there when the same
prompts are scored under the next patch. Values are the same bit for bit.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from excise.config import ScoringConfig
from excise.models import LoadedModel
from excise.patches import Changes, changes_in_force
from excise.scoring.branching import Labels, branch_points
from excise.scoring.layers import Passage, Stack, stack_of
from excise.scoring.memory import hidden_size, out_of_memory, unused

log = logging.getLogger(__name__)

_MOST = 256
"""States that are planned for, at most; of more, some are taken evenly."""


@dataclass
class _Text:
    """What is kept of one sequence of tokens."""

    tokens: int
    states: dict[Labels, torch.Tensor] = field(default_factory=dict)
    """Changes before a layer -> [tokens, hidden] that layer's input."""


class KeptStates:
    """Hidden states of prompts at the layers where expected states of the model part."""

    def __init__(self, loaded: LoadedModel, max_bytes: int) -> None:
        self._model = loaded.model
        self._stack = stack_of(loaded)
        self._token = hidden_size(loaded) * loaded.model.dtype.itemsize
        self._max_bytes = max_bytes if self._stack and self._token else 0
        self._plan: tuple[Labels, ...] = ()
        self._texts: dict[bytes, _Text] = {}

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        kept = (state for text in self._texts.values() for state in text.states.values())
        return sum(state.numel() * state.itemsize for state in kept)

    def expect(self, states: Sequence[Changes]) -> None:
        """Say which states are asked next, in which order; anything else kept is given up.

        Args:
            states: what is changed in each, besides what is in force now.
        """
        if self._stack is None or not self._max_bytes:
            return
        step = -(-len(states) // _MOST) or 1
        blocks = changes_in_force(self._model)
        self._plan = branch_points(
            [self._stack.labels((*blocks, state)) for state in states[::step]]
        )
        self._give_up(self._plan)
        self._texts = {key: text for key, text in self._texts.items() if text.states}

    def give_up(self) -> None:
        """Keep nothing any more: memory has run out."""
        if self._max_bytes:
            log.warning("hidden states are not kept any more")
        self._plan, self._texts, self._max_bytes = (), {}, 0

    def scoring(self, *tokens: np.ndarray[Any, Any]) -> Scoring:
        """Begin to score a sequence in the state that the model is in.

        Args:
            tokens: everything that decides its hidden states; the first one has an entry a token.
        """
        stack = self._stack
        if stack is None or not self._plan:
            return Scoring()
        digest = hashlib.sha256()
        for values in tokens:
            digest.update(str(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        text = self._texts.setdefault(digest.digest(), _Text(tokens[0].size))
        total = sum(each.tokens for each in self._texts.values())
        wanted = self._plan[: max(1, self._max_bytes // (total * self._token))]
        self._give_up(wanted)
        now = stack.labels(changes_in_force(self._model))
        usable = [
            beginning
            for beginning in wanted
            if now[: len(beginning)] == beginning and len(beginning) - 1 in stack.starts
        ]
        known = max((b for b in usable if b in text.states), key=len, default=())
        start = max(len(known) - 1, 0)
        free = self._max_bytes - self.size
        keep: list[Labels] = []
        for beginning in usable:
            if len(beginning) - 1 > start and (len(keep) + 1) * text.tokens * self._token <= free:
                keep.append(beginning)
        return Scoring(self, stack, text, known, tuple(keep))

    def _give_up(self, wanted: Sequence[Labels]) -> None:
        """Keep nothing but what is wanted."""
        for text in self._texts.values():
            text.states = {key: state for key, state in text.states.items() if key in wanted}


class Scoring:
    """One sequence on its way through the model: what is known of it, and what is to be kept."""

    def __init__(
        self,
        kept: KeptStates | None = None,
        stack: Stack | None = None,
        text: _Text | None = None,
        known: Labels = (),
        keep: tuple[Labels, ...] = (),
    ) -> None:
        self._kept, self._stack, self._text = kept, stack, text
        self._keep = {len(beginning) - 1: beginning for beginning in keep}
        self._found: dict[int, torch.Tensor] = {}
        self.start = max(len(known) - 1, 0)
        """The first layer that computes; the number of layers where the encoder need not."""
        self._given = text.states[known] if text and known else None

    @property
    def output(self) -> torch.Tensor | None:
        """[tokens, hidden] the encoder's output, where it is known."""
        behind = self._stack is not None and self.start == len(self._stack.layers)
        return self._given if behind else None

    @contextmanager
    def forward(self, start: int, stop: int) -> Iterator[None]:
        """The model's next forward pass in the `with` block is of tokens `start` to `stop`."""
        try:
            with self._passage(start, stop):
                yield
        except (RuntimeError, MemoryError) as error:
            if self._kept is not None and out_of_memory(error):
                self._kept.give_up()
                self._keep, self._found = {}, {}
            raise

    def _passage(self, start: int, stop: int) -> Any:
        if self._stack is None or self.output is not None:
            return nullcontext()
        seen = {
            layer: lambda hidden, layer=layer: self._put(layer, hidden, start)
            for layer in self._keep
            if layer < len(self._stack.layers)
        }
        given = None if self._given is None else self._given[start:stop]
        return Passage(self._stack, self.start, given, seen).through()

    def encoded(self, output: torch.Tensor) -> None:
        """Take the encoder's output, [rows, tokens, hidden], to keep it where that helps."""
        if self._stack is not None and len(self._stack.layers) in self._keep:
            self._put(len(self._stack.layers), output.reshape(-1, output.shape[-1]), 0)

    def finished(self) -> None:
        """All tokens have been through; what was to be kept is complete."""
        if self._stack is None or self._text is None:
            return
        for layer, state in self._found.items():
            if layer in self._stack.starts:
                self._text.states[self._keep[layer]] = state

    def _put(self, layer: int, hidden: torch.Tensor, start: int) -> None:
        assert self._text is not None
        if layer not in self._found:
            self._found[layer] = hidden.new_empty(self._text.tokens, hidden.shape[-1])
        self._found[layer][start : start + len(hidden)] = hidden


_active: WeakKeyDictionary[Any, KeptStates] = WeakKeyDictionary()


@contextmanager
def reusing(loaded: LoadedModel, config: ScoringConfig) -> Iterator[KeptStates]:
    """Let scoring keep hidden states of expected states, in memory that scoring leaves free.

    Inside the block weights may change by `scaled_outputs` only, as all patches do. Nothing is kept
    before `KeptStates.expect` is called, where `max_memory_mib` leaves no room, and of models whose
    layers are no plain list; then everything is computed as without this block.

    Args:
        loaded: the model.
        config: how options are scored; bounds the memory.
    """
    free = unused(loaded, max_tokens=config.max_tokens, max_memory_mib=config.max_memory_mib)
    before = _active.get(loaded.model)
    _active[loaded.model] = kept = KeptStates(loaded, free)
    try:
        yield kept
    finally:
        del _active[loaded.model]
        if before is not None:
            _active[loaded.model] = before


def scoring(loaded: LoadedModel, *tokens: np.ndarray[Any, Any]) -> Scoring:
    """Begin to score a sequence: see `KeptStates.scoring`; outside of `reusing`, plainly."""
    kept = _active.get(loaded.model)
    return Scoring() if kept is None else kept.scoring(*tokens)
