"""Which neurons: screened one by one, added greedily, dropped again where they are not needed.

The search knows nothing of models: it asks a judge, who answers for sets of neurons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from excise.config import GuardConfig
from excise.methods.guarded.guards import OWN
from excise.methods.guarded.panel import Reading, joined
from excise.types import Neuron

_EXCESS_WEIGHT = 5.0
"""Nats of the objective that a loss of 1 beyond its limit weighs in the screening."""


@dataclass(frozen=True, slots=True)
class Move:
    """One neuron and what its output is multiplied by."""

    neuron: Neuron
    factor: float = 0.0


State = tuple[Move, ...]
"""What is done together, in the order in which it was accepted."""


class Judge(Protocol):
    """Answers for the patched model."""

    def read(self, state: State, start: int, stop: int) -> Reading:
        """What the model answers to some of the panel's questions under these moves."""
        ...

    def expect(self, states: Sequence[State]) -> None:
        """Be told which states are asked about next, to prepare what they share."""
        ...

    def other_losses(self, state: State) -> Mapping[str, float]:
        """What these moves cost on other tasks and texts, by guard."""
        ...


@dataclass(frozen=True)
class Step:
    """A set of neurons that the search accepted."""

    state: State
    reading: Reading
    losses: Mapping[str, float]

    def described(self) -> dict[str, Any]:
        """Sizes, tune values and losses, as JSON values."""
        neurons = [f"{move.neuron.module}:{move.neuron.index}" for move in self.state]
        factors = [move.factor for move in self.state]
        return {
            "neurons": neurons,
            "factors": factors,
            **self.reading.summary(),
            "losses": dict(self.losses),
        }


@dataclass
class Search:
    """One search; rounds with new candidates go on from what was accepted before."""

    judge: Judge
    original: Reading
    """The unpatched model's answers to all questions of the panel."""
    limits: Mapping[str, float]
    """Limits of all guards, own and others'."""
    screening: int
    """Number of the panel's questions that candidates are screened with."""
    config: GuardConfig
    path: list[Step] = field(default_factory=list)
    """Every accepted set, growing, then shrinking; within the limits up to the slack."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Reason -> number of tries that were refused for it."""

    @property
    def state(self) -> State:
        """What is accepted so far."""
        return self.path[-1].state if self.path else ()

    def extend(self, candidates: Sequence[Move]) -> bool:
        """Add what helps among the candidates; whether anything was added."""
        before = self.state
        finalists = self._screened(self._free(candidates))
        grew = True
        while grew and finalists and len(self.state) < self.config.neurons:
            grew = False
            self._expect(finalists)
            for move in list(finalists):
                if len(self.state) >= self.config.neurons:
                    break
                if move in self._free(finalists) and self._accept((*self.state, move)):
                    finalists = self._free(finalists)
                    self._expect(finalists)
                    grew = True
        return self.state != before

    def finish(self) -> None:
        """Go back to the best set within the limits, and drop the neurons that it does not need."""
        steps = [step for step in self.path if self._exceeded(step.losses, slack=0.0) is None]
        best = max(steps, key=lambda step: step.reading.objective, default=None)
        for step in self.path[self.path.index(best) + 1 if best else 0 :]:
            why = self._exceeded(step.losses, slack=0.0)
            self._reject(f"lost more than allowed in {why}" if why else "was not the best")
        self.path = self.path[: self.path.index(best) + 1] if best else []
        self._shrink()

    def _shrink(self) -> None:
        # Below what the whole set reached, however many are dropped.
        least = self._now().objective - self.config.tolerance
        self._expect_smaller()
        for move in reversed(self.state[:-1]):
            rest = tuple(kept for kept in self.state if kept != move)
            reading = self.judge.read(rest, 0, len(self.original.correct))
            if reading.objective < least:
                continue
            losses = self._losses(rest, reading, slack=0.0)
            if losses is not None:
                self.path.append(Step(rest, reading, losses))
                self._expect_smaller()

    def reason(self) -> str:
        """Why nothing was accepted; empty where something was."""
        if self.state:
            return ""
        if not self.rejected:
            return "there was no candidate"
        tries = ", ".join(f"{count} {why}" for why, count in self.rejected.items())
        return f"no candidate helped within the limits: {tries}"

    def _free(self, moves: Sequence[Move]) -> list[Move]:
        """The moves of neurons that are left alone so far."""
        taken = {move.neuron for move in self.state}
        return [move for move in moves if move.neuron not in taken]

    def _expect(self, moves: Sequence[Move]) -> None:
        self.judge.expect([(*self.state, move) for move in moves])

    def _expect_smaller(self) -> None:
        state = self.state
        self.judge.expect([tuple(m for m in state if m != move) for move in reversed(state[:-1])])

    def _now(self) -> Reading:
        return self.path[-1].reading if self.path else self.original

    def _screened(self, candidates: Sequence[Move]) -> list[Move]:
        """Successive halving: all candidates on few questions, the best on all of them."""
        base = self._now()
        few = base.first(self.screening)
        self._expect(candidates)
        first = {c: self.judge.read((*self.state, c), 0, self.screening) for c in candidates}
        ranked = sorted(candidates, key=lambda c: -self._score(first[c], few))
        promising = [c for c in ranked if self._score(first[c], few) > 0]
        self._reject("did not help on the first questions", len(candidates) - len(promising))
        scores = {}
        for candidate in promising[: self.config.finalists]:
            rest = self.judge.read((*self.state, candidate), self.screening, len(base.correct))
            scores[candidate] = self._score(joined([first[candidate], rest]), base)
        helpful = [c for c in scores if scores[c] > 0]
        self._reject("gained less alone than it cost", len(scores) - len(helpful))
        return sorted(helpful, key=lambda c: -scores[c])

    def _score(self, reading: Reading, base: Reading) -> float:
        """Gain of the objective less what exceeds a limit and the slack."""
        original = self.original.first(len(reading.correct))
        excess = sum(
            max(0.0, OWN[name](original, reading) - limit - self.config.slack)
            for name, limit in self.limits.items()
            if name in OWN
        )
        return reading.objective - base.objective - _EXCESS_WEIGHT * excess

    def _accept(self, state: State) -> bool:
        """Take a set if it gains enough and every limit holds; cheap questions first."""
        now, wanted = self._now(), self.config.min_gain
        few = self.judge.read(state, 0, self.screening)
        if few.objective <= now.first(self.screening).objective:
            return self._reject("did not help on the first questions")
        rest = self.judge.read(state, self.screening, len(now.correct))
        reading = joined([few, rest])
        if reading.objective < now.objective + wanted:
            return self._reject("gained too little")
        losses = self._losses(state, reading, slack=self.config.slack)
        if losses is None:
            return False
        self.path.append(Step(state, reading, losses))
        return True

    def _losses(self, state: State, reading: Reading, *, slack: float) -> dict[str, float] | None:
        """What a set costs, or None where that is above a limit."""
        losses = {n: OWN[n](self.original, reading) for n in self.limits if n in OWN}
        why = self._exceeded(losses, slack=slack)
        if why is None:
            # Other tasks are asked last: most sets never come so far.
            losses |= self.judge.other_losses(state)
            why = self._exceeded(losses, slack=slack)
        if why is None:
            return losses
        self._reject(f"lost more than allowed in {why}")
        return None

    def _exceeded(self, losses: Mapping[str, float], *, slack: float) -> str | None:
        """The first guard whose limit does not hold."""
        for name, loss in losses.items():
            # Rounding: 1/2 - 0.48 is a hair above 0.02.
            if loss > self.limits[name] + slack + 1e-9:
                return name
        return None

    def _reject(self, why: str, count: int = 1) -> bool:
        if count:
            self.rejected[why] = self.rejected.get(why, 0) + count
        return False
