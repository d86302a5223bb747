"""Fine-tuning on pairs of sentences: all weights, some, or low-rank adapters."""

from excise.methods.finetuning.change import LowRank, WeightChange
from excise.methods.finetuning.fitted import FineTuned
from excise.methods.finetuning.method import METHODS, FineTuning
from excise.methods.finetuning.pairs import Pair, Pairs, load_pairs
from excise.methods.finetuning.recipes import RECIPES, Recipe

__all__ = [
    "METHODS",
    "RECIPES",
    "FineTuned",
    "FineTuning",
    "LowRank",
    "Pair",
    "Pairs",
    "Recipe",
    "WeightChange",
    "load_pairs",
]
