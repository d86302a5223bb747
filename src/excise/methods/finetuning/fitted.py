"""A fine-tuned model as one more state of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from excise.config import ScoringConfig
from excise.errors import ConfigError
from excise.evaluation import predict
from excise.methods.finetuning.change import WeightChange
from excise.methods.finetuning.pairs import Pairs
from excise.models import LoadedModel
from excise.types import AnyTask, Instance, Predictions, Task


@dataclass(frozen=True)
class FineTuned:
    """What fine-tuning left; nothing is changed until it is applied."""

    name: str
    change: WeightChange
    pairs: Pairs
    facts: Mapping[str, Any]
    """How training went, as JSON values."""

    @property
    def trained_on(self) -> frozenset[str]:
        """Names and digests of the data that must not be reported."""
        return self.pairs.trained_on

    def refuses(self, task: AnyTask) -> str | None:
        """Why a task must not be reported of this model, in one line; None where it may."""
        reason = self.pairs.refuses(task)
        return None if reason is None else f"{self.name}: {reason}"

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[None]:
        """The fine-tuned weights for the length of a `with` block, undone bit for bit."""
        with self.change.applied(loaded):
            yield

    def apply(self, loaded: LoadedModel) -> None:
        """The fine-tuned weights for good, for example to save a checkpoint."""
        self.change.apply(loaded)

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
        """What the fine-tuned model answers.

        Raises:
            ConfigError: the task is what was trained on.
        """
        reason = self.refuses(task)
        if reason is not None:
            raise ConfigError(reason)
        with self.applied(loaded):
            return predict(
                loaded, task, instances, config, instructions=instructions, advance=advance
            )

    def describe(self) -> Mapping[str, Any]:
        """Data, recipe, losses, retention curve, best step, time."""
        return {"changes_weights": len(self.change) > 0, **self.facts}
