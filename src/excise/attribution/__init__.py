"""Attribution: a bias score for every neuron."""

from excise.attribution.scores import NeuronScores, attribute, average, competing_sites

__all__ = ["NeuronScores", "attribute", "average", "competing_sites"]
