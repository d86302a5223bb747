"""Guarded CRISPR: the objective improves subject to declared limits on damage."""

from excise.methods.guarded.method import Guarded
from excise.methods.guarded.pools import guarding_items, kept_items

__all__ = ["Guarded", "guarding_items", "kept_items"]
