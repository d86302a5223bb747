"""Patches: the excised neurons as a value, applied reversibly or for good, saved and loaded."""

from excise.patches.adapter import ADAPTER_CONFIG_FILE, ADAPTER_FILE, Adapter
from excise.patches.checkpoint import save_checkpoint
from excise.patches.edit import (
    Changes,
    changes_in_force,
    changes_of,
    scale_outputs,
    scaled_outputs,
)
from excise.patches.lora import lora_if_possible, lora_of
from excise.patches.patch import NEURONS_FILE, Patch, factor_of

__all__ = [
    "ADAPTER_CONFIG_FILE",
    "ADAPTER_FILE",
    "NEURONS_FILE",
    "Adapter",
    "Changes",
    "Patch",
    "changes_in_force",
    "changes_of",
    "factor_of",
    "lora_if_possible",
    "lora_of",
    "save_checkpoint",
    "scale_outputs",
    "scaled_outputs",
]
