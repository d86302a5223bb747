"""The control: as many random neurons in the same modules."""

from __future__ import annotations

from dataclasses import dataclass, replace

from excise.methods.crispr import Crispr
from excise.methods.method import Excision, Fitted, Fitting
from excise.models import LoadedModel
from excise.patches import Patch
from excise.selection import random_control


def random_patch(loaded: LoadedModel, patch: Patch, *, seed: int) -> Patch:
    """A patch of random neurons, the same number per module, none of them in `patch`.

    Where neurons have factors of their own, those of a module go to its random neurons.
    """
    sizes = {site.module: site.size for site in loaded.sites}
    neurons = random_control(sizes, patch.neurons, seed=seed)
    left = [(neuron.module, factor) for neuron, factor in patch.by_neuron.items()]
    left.sort(key=lambda entry: [site.module for site in loaded.sites].index(entry[0]))
    return replace(
        patch,
        neurons=neurons,
        scores=(0.0,) * len(neurons),
        factors=tuple(factor for _, factor in left) if patch.factors else (),
        provenance={"control_of": dict(patch.provenance), "seed": seed},
    )


@dataclass(frozen=True)
class RandomNeurons:
    """Random neurons, as many in each module as CRISPR excises."""

    name: str = "random"
    description: str = "as many random neurons in the same modules as CRISPR excises"

    def fit(self, fitting: Fitting) -> Fitted:
        """CRISPR's patch decides how many neurons of which modules are drawn."""
        found = Crispr().excise(fitting)
        patch = random_patch(fitting.loaded, found.patch, seed=1000 * fitting.seed)
        return Excision(self.name, patch)
