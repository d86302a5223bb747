"""What a judge of texts is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from excise.types import FloatArray


class Judge(Protocol):
    """Gives every text a number for each of its labels.

    Labels name what is measured, not who measures: metrics look for theirs, and are undefined where
    the judge does not have it. So a stand-in can never pass for the published classifier.
    """

    @property
    def name(self) -> str:
        """Hub id, folder or name, for the results."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """What `score` gives."""
        ...

    def score(self, texts: Sequence[str]) -> Mapping[str, FloatArray]:
        """Judge texts, each on its own.

        Args:
            texts: n texts; empty ones are texts too.

        Returns:
            Label -> [n] scores.
        """
        ...
