"""Recorded numbers against recomputed ones: every place where they differ, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

RELATIVE, ABSOLUTE = 1e-9, 1e-12
"""Recomputed metrics rest on the same stored answers and the same draws, so only the order of
additions may differ."""


def differences(recorded: Any, recomputed: Any, place: str = "") -> Iterator[str]:
    """Places where what was recorded is not what comes out; what is new is no difference.

    Args:
        recorded: JSON values.
        recomputed: JSON values.
        place: where they stand, for the messages.
    """
    if isinstance(recorded, Mapping) and isinstance(recomputed, Mapping):
        for key, value in recorded.items():
            inner = f"{place}[{key!r}]" if place else str(key)
            if key in recomputed:
                yield from differences(value, recomputed[key], inner)
            else:
                yield f"{inner}: recorded {_short(value)}, recomputed nothing"
    elif _listed(recorded) and _listed(recomputed) and len(recorded) == len(recomputed):
        for number, (one, other) in enumerate(zip(recorded, recomputed, strict=True)):
            name = one.get("metric", number) if isinstance(one, Mapping) else number
            yield from differences(one, other, f"{place}[{name!r}]")
    elif not same(recorded, recomputed):
        yield f"{place}: recorded {_short(recorded)}, recomputed {_short(recomputed)}"


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values without parts are equal, numbers up to rounding."""
    if _number(one) and _number(other):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(one == other)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
