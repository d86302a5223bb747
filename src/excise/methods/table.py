"""The table of methods: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from excise.errors import UnknownNameError
from excise.methods.ablations import VARIANTS, Lowest
from excise.methods.calibration import ContextualCalibration, DomainCalibration
from excise.methods.contrastive import RELATIVE, Contrastive
from excise.methods.crispr import Crispr
from excise.methods.finetuning import METHODS as FINE_TUNING
from excise.methods.gated import Gated
from excise.methods.guarded import Guarded
from excise.methods.method import Method
from excise.methods.original import Original
from excise.methods.random_neurons import RandomNeurons
from excise.methods.scaling import Scaled

_ALL: tuple[Method, ...] = (
    Original(),
    Crispr(),
    RandomNeurons(),
    Lowest(),
    *VARIANTS,
    Scaled(),
    Guarded(),
    Gated(),
    Contrastive(),
    RELATIVE,
    ContextualCalibration(),
    DomainCalibration(),
    *FINE_TUNING,
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""Every method by name, in the order of tables."""


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        UnknownNameError: there is none.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise UnknownNameError("method", name, METHODS) from None
