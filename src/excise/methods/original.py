"""No change: what every method is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from excise.methods.method import Excision, Fitted, Fitting
from excise.patches import Patch


@dataclass(frozen=True)
class Original:
    """The model as it is."""

    name: str = "original"
    description: str = "the model as it is"

    def fit(self, fitting: Fitting) -> Fitted:
        """An empty patch."""
        return Excision(self.name, Patch((), (), fitting.loaded.name, fitting.loaded.digest))
