"""Mitigation methods: locate on the find split, choose on the tune split, give a patch."""

from excise.methods.crispr import Choice, choose_patch, locate
from excise.methods.random_neurons import random_patch

__all__ = ["Choice", "choose_patch", "locate", "random_patch"]
