"""The work of a method that asks as it goes, counted and told to who watches."""

from __future__ import annotations

from dataclasses import dataclass, field

from excise.methods.crispr import ATTRIBUTION_WORK
from excise.progress import Progress


@dataclass
class Cost:
    """Prompts that were scored, and prompts that a gradient was taken of."""

    progress: Progress
    counts: dict[str, int] = field(default_factory=lambda: {"scored": 0, "attributed": 0})

    def scored(self, prompts: int) -> None:
        """Count scored prompts."""
        self.counts["scored"] += prompts
        self.progress.advance(prompts)

    def attributed(self, prompts: int) -> None:
        """Count prompts with a gradient."""
        self.counts["attributed"] += prompts
        self.progress.advance(prompts * ATTRIBUTION_WORK)

    def described(self) -> dict[str, int]:
        """The counts as JSON values."""
        return {f"prompts_{name}": count for name, count in self.counts.items()}
