"""The table: every layout that is known, looked up by `config.model_type`."""

from __future__ import annotations

from collections.abc import Mapping

from excise.errors import UnsupportedArchitectureError
from excise.models.architectures import decoders, encoder_decoders, masked
from excise.models.architectures.row import Architecture

ARCHITECTURES: tuple[Architecture, ...] = (
    *encoder_decoders.ROWS,
    *decoders.ROWS,
    *masked.ROWS,
)

_BY_MODEL_TYPE: Mapping[str, Architecture] = {
    model_type: row for row in ARCHITECTURES for model_type in row.model_types
}


def architecture_of(model_type: str) -> Architecture:
    """The table's row for a `config.model_type`.

    Raises:
        UnsupportedArchitectureError: the table has no such row; the message names the known ones.
    """
    if model_type not in _BY_MODEL_TYPE:
        raise UnsupportedArchitectureError(
            f"models of type {model_type!r} are not described in the table of architectures. "
            f"Known: {', '.join(sorted(_BY_MODEL_TYPE))}. "
            "Describe its linear maps with --neurons; see docs/add-an-architecture.md."
        )
    return _BY_MODEL_TYPE[model_type]
