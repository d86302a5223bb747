"""Guarded CRISPR: the objective improves subject to declared limits on damage."""

from excise.methods.guarded.guards import guarding_items
from excise.methods.guarded.method import Guarded

__all__ = ["Guarded", "guarding_items"]
