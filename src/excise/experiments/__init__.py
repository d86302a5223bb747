"""The experiments of the paper and of the study, as declarations that are carried out."""

from excise.experiments.catalogue import chosen, groups, listed, names
from excise.experiments.reproduce import Outcome, Reproduction, reproduce
from excise.experiments.settings import model_presets
from excise.experiments.writing import write

__all__ = [
    "Outcome",
    "Reproduction",
    "chosen",
    "groups",
    "listed",
    "model_presets",
    "names",
    "reproduce",
    "write",
]
