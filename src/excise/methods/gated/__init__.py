"""Gated excision: factors of a few neurons, learned by gradient, kept within limits on damage."""

from excise.methods.gated.method import Gated

__all__ = ["Gated"]
