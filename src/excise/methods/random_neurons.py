"""The control: as many random neurons in the same modules."""

from __future__ import annotations

from dataclasses import replace

from excise.models import LoadedModel
from excise.patches import Patch
from excise.selection import random_control


def random_patch(loaded: LoadedModel, patch: Patch, *, seed: int) -> Patch:
    """A patch of random neurons, the same number per module, none of them in `patch`."""
    sizes = {site.module: site.size for site in loaded.sites}
    neurons = random_control(sizes, patch.neurons, seed=seed)
    return replace(
        patch,
        neurons=neurons,
        scores=(0.0,) * len(neurons),
        provenance={"control_of": dict(patch.provenance), "seed": seed},
    )
