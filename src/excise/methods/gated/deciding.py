"""How far to go: states on questions that taught nothing, the limits on damage, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from excise.methods.gated.gates import Gates
from excise.methods.guarded.guards import OWN
from excise.methods.guarded.others import Other
from excise.methods.guarded.panel import Panel, Reading
from excise.models import LoadedModel, packed_linears
from excise.patches import scaled_outputs
from excise.types import Neuron

_UNCHANGED = 0.02
"""Factors that differ from 1 by less are left at 1."""

State = dict[Neuron, float]


@dataclass(frozen=True)
class Tried:
    """One state that was measured on the deciding questions."""

    strength: float
    factors: State
    reading: Reading
    losses: Mapping[str, float]
    exceeded: str | None
    """The first guard whose limit does not hold."""

    def described(self) -> dict[str, Any]:
        """Values as JSON."""
        return {
            "strength": self.strength,
            "neurons": len(self.factors),
            **self.reading.summary(),
            "losses": dict(self.losses),
            "exceeded": self.exceeded,
        }


@dataclass(frozen=True)
class Judge:
    """Measures states on the deciding questions."""

    loaded: LoadedModel
    panel: Panel
    original: Reading
    limits: Mapping[str, float]
    others: tuple[Other, ...]

    def tried(self, strength: float, factors: State) -> Tried:
        """One state, other tasks and texts asked only where the own limits hold."""
        neurons = tuple(factors)
        with (
            scaled_outputs(self.loaded.model, neurons, [factors[n] for n in neurons]),
            packed_linears(self.loaded.model),
        ):
            reading = self.panel.read()
            losses = {n: OWN[n](self.original, reading) for n in self.limits if n in OWN}
            if self._exceeded(losses) is None:
                losses |= {other.name: other.loss() for other in self.others}
        return Tried(strength, factors, reading, losses, self._exceeded(losses))

    def down(self, gates: Gates, strengths: Sequence[float]) -> list[Tried]:
        """States from the strongest down, until one holds the limits.

        The best of many would hold them by luck.
        """
        states: list[Tried] = []
        for strength in sorted(strengths, reverse=True):
            states.append(self.tried(strength, moved_by(gates, strength)))
            if states[-1].exceeded is None:
                break
        return states

    def _exceeded(self, losses: Mapping[str, float]) -> str | None:
        # Rounding: 1/2 - 0.48 is a hair above 0.02. A NaN is above every limit.
        held = {name: loss <= self.limits[name] + 1e-9 for name, loss in losses.items()}
        return next((name for name, holds in held.items() if not holds), None)


def _worth(reading: Reading) -> float:
    parts = [reading.accuracy(among) for among in (reading.decided, ~reading.decided)]
    return float(np.mean([part for part in parts if part is not None]))


def moved_by(gates: Gates, strength: float = 1.0) -> State:
    """Neurons whose learned factors differ from 1, with factors part of the way."""
    learned = zip(gates.neurons, gates.factors(), gates.factors(strength), strict=True)
    return {n: part for n, whole, part in learned if abs(whole - 1.0) >= _UNCHANGED}


def chosen_of(tried: Sequence[Tried], original: Reading) -> Tried | None:
    """The last state, if it holds the limits and is more accurate than the original.

    Contexts of both kinds have equal weight, as in what is reported.

    Args:
        tried: as `Judge.down` gives them; only the last can hold the limits.
        original: what the unpatched model answered.
    """
    last = tried[-1]
    # As many won in one kind as lost in the other are no gain, whatever their sum rounds to.
    gains = _worth(last.reading) > _worth(original) + 1e-9
    return last if last.exceeded is None and gains else None
