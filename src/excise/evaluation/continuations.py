"""Prompts that a model continues, and what judges the continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from excise.config import ContinuationConfig
from excise.models import LoadedModel
from excise.types import Continuations, Prompt, PromptTask


def continue_prompts(
    loaded: LoadedModel,
    task: PromptTask,
    prompts: Sequence[Prompt],
    config: ContinuationConfig,
    *,
    advance: Callable[[int], None] | None = None,
) -> Continuations:
    """Placeholder signature."""
    raise NotImplementedError
