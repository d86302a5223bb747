"""Layouts that a user describes: regular expressions in the place of a row of the table."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from excise.errors import ConfigError, UnsupportedArchitectureError
from excise.models.architectures.row import DESCRIBED, HEADS, Architecture
from excise.models.architectures.table import architecture_of

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def layout_of(
    config: Any, neurons: str | None = None, no_neurons: str | None = None
) -> Architecture:
    """The row that a model's configuration has in the table, or the one that a user describes.

    Args:
        config: of a transformers model.
        neurons: regular expression over names of linear maps, with a group `layer` and, where they
            apply, the groups of `Architecture.pattern`; None takes the table's row.
        no_neurons: regular expression over names of linear maps (and of other matrices) that hold
            none, besides the language-model head.

    Raises:
        UnsupportedArchitectureError: no row, or a mixture of experts that nobody described.
        ConfigError: an expression that is none, or lacks the group `layer`.
    """
    if neurons is None:
        if no_neurons is not None:
            raise ConfigError("--no-neurons goes with --neurons: what holds none, and what does.")
        _refuse_experts(config)
        row = architecture_of(config.model_type)
        # Falcon has it in some checkpoints only.
        return replace(row, explicit_positions=False) if getattr(config, "alibi", False) else row
    classes = getattr(config, "architectures", None) or ()
    if any(str(name).endswith("ForMaskedLM") for name in classes):
        raise UnsupportedArchitectureError(
            f"models of type {config.model_type!r} fill gaps; --neurons describes models that "
            "continue a text."
        )
    heads = HEADS if no_neurons is None else f"{HEADS}|(?:{_checked(no_neurons, '--no-neurons')})"
    return Architecture(
        name=DESCRIBED,
        model_types=(config.model_type,),
        kind="encoder-decoder" if config.is_encoder_decoder else "decoder-only",
        pattern=_checked(neurons, "--neurons", "layer"),
        # Nobody has checked that masks and positions may be free.
        explicit_positions=False,
        note="Described with --neurons.",
        heads=heads,
        overwrites=True,  # nobody has looked
    )


def _checked(expression: str, option: str, *groups: str) -> str:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"{option} is no regular expression: {error}.") from error
    for group in groups:
        if group not in compiled.groupindex:
            raise ConfigError(
                rf"{option} needs a named group {group!r}, for example (?P<{group}>\d+)."
            )
    return expression


def _refuse_experts(config: Any) -> None:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    experts = max((getattr(text, name, None) or 0 for name in _EXPERTS), default=0)
    if experts > 1:
        raise UnsupportedArchitectureError(
            f"models of type {config.model_type!r} are mixtures of {experts} experts, whose maps "
            "are fused into one tensor and see only the tokens that are sent to them: their output "
            "features are no neurons here. The other maps can be described with --neurons; see "
            "docs/add-an-architecture.md."
        )
