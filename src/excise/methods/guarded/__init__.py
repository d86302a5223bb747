"""Guarded CRISPR: the objective improves subject to declared limits on damage."""

from excise.methods.guarded.method import Guarded
from excise.methods.guarded.others import guarding_items

__all__ = ["Guarded", "guarding_items"]
