"""Patches: the excised neurons as a value, applied reversibly or for good, saved and loaded."""

from excise.patches.checkpoint import save_checkpoint
from excise.patches.edit import scale_outputs, scaled_outputs
from excise.patches.patch import NEURONS_FILE, Patch, factor_of

__all__ = [
    "NEURONS_FILE",
    "Patch",
    "factor_of",
    "save_checkpoint",
    "scale_outputs",
    "scaled_outputs",
]
