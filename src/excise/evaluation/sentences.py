"""Sentences without a prompt: which one does a model find more likely?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from excise.config import ScoringConfig
from excise.models import LoadedModel
from excise.types import Instance, Predictions, Task


def compare_sentences(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: ScoringConfig,
    *,
    advance: Callable[[int], None] | None = None,
) -> Predictions:
    """Placeholder signature."""
    raise NotImplementedError
