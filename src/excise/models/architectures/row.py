"""What a row of the table says, and what it finds in a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["encoder-decoder", "decoder-only", "masked"]
Sublayer = Literal["self-attention", "cross-attention", "feed-forward", "unnamed"]

DESCRIBED = "described by the user"
"""The name of an architecture that is in no row."""
HEADS = r"(?:.*\.)?(?:lm_head|shared)"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table."""

    name: str
    model_types: tuple[str, ...]
    """Values of `config.model_type` that share this layout."""
    kind: Kind
    pattern: str
    """Regular expression over module names. Its groups name the `layer` and the sublayer
    (`self_attention`, `cross_attention`, `feed_forward`), with two stacks the `stack`, and maps of
    a decoder that read the encoder's output (`over_input`: keys and values)."""
    explicit_positions: bool
    """Whether position ids and a free attention mask may be passed, so that options can branch off
    one shared prompt. False for ALiBi models, whose positions follow the order in the sequence."""
    note: str
    """Its peculiarities in a sentence."""
    heads: str = HEADS
    """Regular expression over the names of linear maps that hold no neurons: those that turn hidden
    states into tokens, and parts of the model that read no text."""
    overwrites: bool = False
    """Whether the model changes what a linear map gave in place, so that whoever keeps it needs the
    model to go on with a copy."""


@dataclass(frozen=True, slots=True)
class Site:
    """One linear map whose output features are neurons."""

    module: str
    size: int
    """Number of output features."""
    layer: int
    sublayer: Sublayer
    """`unnamed` where a user's description does not say."""
    over_input: bool
    """Whether its positions are those of an encoder's input (encoder modules, and keys and values
    of cross-attention); always False without a separate encoder."""
