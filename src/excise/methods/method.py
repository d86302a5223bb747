"""What every mitigation method is: fitted on find, tuned on tune, applied as a context."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from excise.attribution import NeuronScores
from excise.config import RunConfig, ScoringConfig
from excise.evaluation import ArrayJournal, predict
from excise.models import LoadedModel
from excise.patches import Patch
from excise.progress import Progress, Silent
from excise.selection import CurvePoint
from excise.types import Instance, Predictions, Split, Task

Result = TypeVar("Result")


@dataclass
class Shared:
    """Results that several methods need for one split, computed once.

    Their cost counts for every method that needs them: what was taken over is summed up here, to be
    added to what the method took itself.
    """

    seconds: float = 0.0
    work: int = 0
    """In units of one scored prompt."""
    _found: dict[str, tuple[Any, float, int]] = field(default_factory=dict)

    def once(self, key: str, compute: Callable[[], Result], progress: Progress) -> Result:
        """The result under a key, computed if it is not there yet.

        Args:
            key: everything that decides the result.
            compute: computes it.
            progress: what the computation is told to; a `work` that it counts is kept.
        """
        if key in self._found:
            result, seconds, work = self._found[key]
            self.seconds += seconds
            self.work += work
            return result  # type: ignore[no-any-return]
        start, before = time.perf_counter(), getattr(progress, "work", 0)
        result = compute()
        seconds = time.perf_counter() - start
        self._found[key] = (result, seconds, getattr(progress, "work", 0) - before)
        return result


@dataclass(frozen=True)
class Fitting:
    """All that a method may look at: never the test split's answers."""

    loaded: LoadedModel
    """The unpatched model; comes back as it was."""
    task: Task
    split: Split
    config: RunConfig
    seed: int = 0
    """Decides every draw; trials differ in it."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How the result came about, as JSON values, to be kept with it."""
    progress: Progress = field(default_factory=Silent)
    """Told of the work in units of one scored prompt."""
    shared: Shared = field(default_factory=Shared, compare=False)
    """What other methods of the same task, split, options and seed found before."""
    journal: ArrayJournal | None = field(default=None, compare=False)
    """Keeps what is finished, so that an interrupted fit goes on where it stopped."""


class Fitted(Protocol):
    """A method after fitting: asked as one more state of the model."""

    @property
    def name(self) -> str:
        """The method's name in the table of methods."""
        ...

    def applied(self, loaded: LoadedModel) -> AbstractContextManager[None]:
        """The model with the method's change to its weights, for any task; undone afterwards."""
        ...

    def answers(
        self,
        loaded: LoadedModel,
        task: Task,
        instances: Sequence[Instance],
        config: ScoringConfig,
        *,
        instructions: Sequence[str] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Predictions:
        """What the model answers under the method."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What was fitted: sizes, choices, curves, as JSON values.

        `changes_weights` says whether the weights differ from the original's.
        """
        ...


class Method(Protocol):
    """A way to change how a model answers."""

    @property
    def name(self) -> str:
        """Key in the table of methods."""
        ...

    @property
    def description(self) -> str:
        """One line for tables."""
        ...

    def fit(self, fitting: Fitting) -> Fitted:
        """Fit on the find split and tune on the tune split.

        Raises:
            ExciseError: see `excise.errors`; the model is as before.
        """
        ...


@dataclass(frozen=True)
class Excision:
    """A fitted method that is a patch."""

    name: str
    patch: Patch
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was found on the way, as JSON values."""
    curve: tuple[CurvePoint, ...] = ()
    """What was tried on the tune split, in the order of evaluation."""
    scores: NeuronScores | None = None
    """Scores of all neurons, where the method ranks them."""

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[None]:
        """The patched model."""
        with self.patch.applied(loaded):
            yield

    def answers(
        self,
        loaded: LoadedModel,
        task: Task,
        instances: Sequence[Instance],
        config: ScoringConfig,
        *,
        instructions: Sequence[str] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Predictions:
        """What the patched model answers."""
        with self.applied(loaded):
            return predict(
                loaded, task, instances, config, instructions=instructions, advance=advance
            )

    def describe(self) -> Mapping[str, Any]:
        """Number of neurons, and what was found on the way."""
        changes = any(factor != 1.0 for factor in self.patch.by_neuron.values())
        curve = [asdict(point) for point in self.curve]
        return {
            "neurons": len(self.patch),
            "changes_weights": changes,
            "curve": curve,
            **self.facts,
        }
