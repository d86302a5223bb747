"""The smallest set of neurons that still does what all of them do.

Knows no model: it asks whether a set holds. Large parts are dropped first and smaller ones later,
as in delta debugging (Zeller and Hildebrandt, IEEE Transactions on Software Engineering 28, 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Element = TypeVar("Element")


@dataclass(frozen=True)
class Smallest(Generic[Element]):
    """What elimination left."""

    kept: tuple[Element, ...]
    """In the order in which they were given."""
    asked: int
    """Sets that were asked about, each once."""
    complete: bool
    """Whether every single further drop was tried and refused; False where the limit came first."""


def eliminate(
    elements: Sequence[Element],
    holds: Callable[[tuple[Element, ...]], bool],
    *,
    order: Sequence[Element] | None = None,
    limit: int = 10**9,
) -> Smallest[Element]:
    """Drop elements as long as the rest holds.

    First all, then halves of what is left, quarters and so on, at last single ones until none of
    them can be dropped any more. Other sets may be smaller still: only removals are tried.

    Args:
        elements: the set; it is taken to hold.
        holds: whether a part of it, in the order of `elements`, does; called once for each part.
        order: in which elements are tried; the first ones are dropped first.
        limit: calls, at most.
    """
    known: dict[frozenset[Element], bool] = {}
    remaining = list(order if order is not None else elements)

    def tried(rest: Sequence[Element]) -> bool:
        key = frozenset(rest)
        if key not in known:
            if len(known) >= limit:
                raise _LimitError
            known[key] = holds(tuple(e for e in elements if e in key))
        return known[key]

    size = len(remaining)
    complete = True
    try:
        while remaining:
            start, dropped = 0, False
            while start < len(remaining):
                rest = remaining[:start] + remaining[start + size :]
                if tried(rest):
                    remaining, dropped = rest, True
                else:
                    start += size
            if size == 1 and not dropped:
                break
            size = max(min(size, len(remaining)) // 2, 1)
    except _LimitError:
        complete = False
    left = set(remaining)
    return Smallest(tuple(e for e in elements if e in left), len(known), complete)


class _LimitError(Exception):
    """No call is left."""
