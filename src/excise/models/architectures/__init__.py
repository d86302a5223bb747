"""Which modules hold neurons: the table of architectures, and what a user describes.

A neuron is one output feature of one linear map in self-attention, cross-attention or feed-forward
(Yang et al. 2024, section 4.1). Embeddings, norms, position tables and the language-model head hold
none. A layout is never guessed: a linear map that nobody describes is an error.
"""

from excise.models.architectures.described import layout_of
from excise.models.architectures.row import DESCRIBED, Architecture, Kind, Site, Sublayer
from excise.models.architectures.sites import sites
from excise.models.architectures.table import ARCHITECTURES, architecture_of

__all__ = [
    "ARCHITECTURES",
    "DESCRIBED",
    "Architecture",
    "Kind",
    "Site",
    "Sublayer",
    "architecture_of",
    "layout_of",
    "sites",
]
