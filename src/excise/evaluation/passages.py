"""Plain text: how likely does a model find it, and how far is it from the original?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from excise.config import TextConfig
from excise.models import LoadedModel
from excise.patches import Patch
from excise.types import Passage, Readings, TextTask


def read_passages(
    loaded: LoadedModel,
    task: TextTask,
    passages: Sequence[Passage],
    config: TextConfig,
    *,
    patch: Patch | None = None,
    force: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Readings:
    """Placeholder signature."""
    raise NotImplementedError
