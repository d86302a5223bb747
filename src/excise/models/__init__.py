"""Models: loading, the table of architectures, the digest of weights."""

from excise.models.architectures import (
    ARCHITECTURES,
    DESCRIBED,
    Architecture,
    Site,
    architecture_of,
    sites,
)
from excise.models.digest import weights_digest
from excise.models.linear import LinearMap, is_linear, output_rows
from excise.models.loaded import LoadedModel, wrap
from excise.models.loading import DEFAULT_MODEL, load
from excise.models.packed import packed_linears, unpacked

__all__ = [
    "ARCHITECTURES",
    "DEFAULT_MODEL",
    "DESCRIBED",
    "Architecture",
    "LinearMap",
    "LoadedModel",
    "Site",
    "architecture_of",
    "is_linear",
    "load",
    "output_rows",
    "packed_linears",
    "sites",
    "unpacked",
    "weights_digest",
    "wrap",
]
