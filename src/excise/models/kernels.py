"""Another attention kernel in a model, for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface


@contextmanager
def attending(model: Any, name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Let a model attend by a function of ours; its own kernel comes back, also after an error.

    Args:
        model: a transformers model that asks `AttentionInterface` for its kernel.
        name: under which the function is registered.
        attend: takes what transformers hands to kernels, returns output and weights.
    """
    AttentionInterface.register(name, attend)
    config = model.config
    own = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = own
