"""CRISPR with one decision changed, each as a method of its own; all else is the run's.

A method takes over what its row below lists and nothing more. So all of them see the same splits,
are tuned on the same sample, and are asked the same questions; sizes of samples, the neurons that
compete and the way options are compared stay those of the run, except for the ten instances that
belong to version 1 of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from excise.config import RunConfig
from excise.methods.crispr import Crispr, choose_patch
from excise.methods.method import Excision, Fitted, Fitting


@dataclass(frozen=True)
class Variant:
    """CRISPR with other options of attribution and selection."""

    name: str
    description: str
    attribution: Mapping[str, Any] = field(default_factory=dict)
    """Options of this section that it decides; the others are the run's."""
    selection: Mapping[str, Any] = field(default_factory=dict)
    """The same for the choice of n."""

    def fit(self, fitting: Fitting) -> Fitted:
        """As CRISPR, with the changed options."""
        changed = replace(
            fitting,
            config=self.configured(fitting.config),
            provenance={**fitting.provenance, "method": self.name},
        )
        found = Crispr().excise(changed)
        options = {"attribution": dict(self.attribution), "selection": dict(self.selection)}
        return replace(found, name=self.name, facts={**found.facts, "options": options})

    def configured(self, config: RunConfig) -> RunConfig:
        """The run's options with those of this method."""
        return config.model_copy(
            update={
                "attribution": config.attribution.model_copy(update=dict(self.attribution)),
                "selection": config.selection.model_copy(update=dict(self.selection)),
            }
        )


@dataclass(frozen=True)
class Lowest:
    """The other end of the ranking, as a control."""

    name: str = "lowest"
    description: str = "as many neurons as CRISPR excises, those with the lowest scores"

    def fit(self, fitting: Fitting) -> Fitted:
        """CRISPR's scores and n; then the neurons that speak most against the biased option.

        The curve is CRISPR's: it says how n came about.
        """
        found = Crispr().excise(fitting)
        assert found.scores is not None
        ascending = Variant(
            self.name,
            self.description,
            attribution={"sign": "ascending"},
            selection={"n": len(found.patch)},
        )
        lowest = choose_patch(
            fitting.loaded,
            fitting.task,
            fitting.split.tune,
            found.scores,
            ascending.configured(fitting.config),
            seed=fitting.seed,
            provenance={**fitting.provenance, "method": self.name},
        )
        return Excision(self.name, lowest.patch, curve=found.curve, scores=found.scores)


VARIANTS = (
    Variant(
        "crispr-mean",
        "CRISPR with the mean over tokens instead of the maximum",
        attribution={"tokens": "mean"},
    ),
    Variant(
        "crispr-unweighted",
        "CRISPR with all instances weighted the same",
        attribution={"instance_weight": "uniform"},
    ),
    Variant(
        "crispr-no-skill",
        "CRISPR without the skill term",
        attribution={"skill_weight": 0.0},
    ),
    Variant(
        "crispr-v1",
        "version 1 of the paper: 10 instances, all weighted the same, n = 50",
        attribution={"instance_weight": "uniform", "instances": 10},
        selection={"n": 50},
    ),
    Variant(
        "crispr-official",
        "the authors' code: log P, clamp after each batch of 4, golden-section search",
        attribution={"differentiate": "log P", "order": "batch", "batch_size": 4},
        selection={"n": "auto", "search": "golden_section"},
    ),
)
"""The paper's ablations (Yang et al. 2024, table 5), its first version, and the authors' code.

Not taken over from the presets: the number of trials, averaging over them, the split by example,
the seed, generated answers, and tuning on all items under all instructions. These are decisions of
a whole run, which a comparison makes once for all methods.
"""
