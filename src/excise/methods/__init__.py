"""Mitigation methods: fitted on the find split, tuned on the tune split, applied as a context."""

from excise.methods.crispr import ATTRIBUTION_WORK, Choice, choose_patch, excision, locate
from excise.methods.method import Excision, Fitted, Fitting, Method, Shared
from excise.methods.random_neurons import random_patch
from excise.methods.table import METHODS, method_named

__all__ = [
    "ATTRIBUTION_WORK",
    "METHODS",
    "Choice",
    "Excision",
    "Fitted",
    "Fitting",
    "Method",
    "Shared",
    "choose_patch",
    "excision",
    "locate",
    "method_named",
    "random_patch",
]
