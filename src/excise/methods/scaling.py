"""CRISPR that may also damp, invert or amplify: number of neurons and factor chosen together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from excise.config import RunConfig
from excise.methods.crispr import Choice, choose_patch, excision, located
from excise.methods.method import Fitted, Fitting


@dataclass(frozen=True)
class Scaled:
    """Multiply the bias neurons by the factor that the tune split likes best."""

    name: str = "crispr-scaled"
    description: str = "CRISPR's neurons scaled; n and the factor chosen on the tune split"

    def fit(self, fitting: Fitting) -> Fitted:
        """Locate once, then choose n for each factor of `selection.factors`.

        The best objective wins; of equals the smaller n, then the factor that stands first. The
        curve is that of the best factor.
        """
        scores = located(fitting)
        choices = [
            choose_patch(
                fitting.loaded,
                fitting.task,
                fitting.split.tune,
                scores,
                _with_factor(fitting.config, factor),
                seed=fitting.seed,
                provenance={**fitting.provenance, "method": self.name},
                advance=fitting.progress.advance,
                journal=fitting.journal,
            )
            for factor in fitting.config.selection.factors
        ]
        best = max(choices, key=lambda choice: (_objective(choice), -len(choice.patch)))
        tried = [
            {"factor": choice.patch.factor, "n": point.n, "objective": point.objective}
            for choice in choices
            for point in choice.curve
        ]
        facts = {"factor": best.patch.factor, "tried": tried}
        return replace(excision(self.name, best, scores), facts=facts)


def _with_factor(config: RunConfig, factor: float) -> RunConfig:
    """The run's options with a factor; a fixed n becomes a grid of one, so that it is measured."""
    patch = config.patch.model_copy(update={"removal": "scale", "scale": factor})
    selection = config.selection
    if isinstance(selection.n, int):
        selection = selection.model_copy(
            update={"n": "auto", "search": "grid", "grid": (selection.n,)}
        )
    return config.model_copy(update={"patch": patch, "selection": selection})


def _objective(choice: Choice) -> float:
    (chosen,) = (point for point in choice.curve if point.n == len(choice.patch))
    return chosen.objective
