"""What each of the fine-tuning methods does where the configuration leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from excise.config import FinetuningConfig
from excise.errors import ConfigError
from excise.methods.finetuning.examples import Form

Formulation = Literal["mixed", "rewrite", "gap_fill", "choice", "sentence"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to fine-tune; see `excise.config.FinetuningConfig` for the options."""

    weights: Literal["all", "adapters", "some"]
    formulation: Formulation
    learning_rate: float
    batch_size: int
    steps: int | None = None
    """Updates; None counts epochs."""
    epochs: int = 1
    kl_weight: float = 0.0
    tolerance: float | None = None
    """None: no step is refused, training goes to its end, and the original does not compete."""
    check_every: int | None = None
    """None: once an epoch."""
    keep: Literal["best", "last"] = "best"
    schedule: Literal["linear", "constant"] = "linear"
    warmup: float = 0.0
    """Share of the updates over which the learning rate rises."""
    clip: float | None = None
    """Largest norm of the gradient."""
    as_published: bool = False
    """Examples as the UQAC study made them, the swap of `antistereo` pairs included."""


_OURS = Recipe(
    weights="all",
    formulation="mixed",
    learning_rate=1e-5,
    batch_size=8,
    steps=48,
    kl_weight=1.0,
    tolerance=0.03,
    check_every=12,
    warmup=0.1,
    clip=1.0,
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "finetune-full": _OURS,
        "finetune-lora": replace(_OURS, weights="adapters", learning_rate=3e-4),
        "finetune-frozen": replace(_OURS, weights="some", learning_rate=1e-3),
        # Published: 50 epochs (notebook: 75), of which epoch 2 or 3 was kept; later ones never won.
        "finetune-uqac": Recipe(
            weights="all",
            formulation="rewrite",
            learning_rate=1e-2,
            batch_size=32,
            epochs=3,
            schedule="constant",
            as_published=True,
        ),
    }
)
"""The methods' own options, by name."""

UQAC_DECODER_ONLY = Recipe(
    weights="all",
    formulation="gap_fill",
    learning_rate=3e-5,
    batch_size=20,
    epochs=5,
    keep="last",
    as_published=True,
)
"""What `finetune-uqac` does with decoder-only models, as the study did with Bloomz."""


def recipe(name: str, options: FinetuningConfig, *, encoder_decoder: bool) -> Recipe:
    """The recipe of a method, with what the configuration says in its place.

    Raises:
        ConfigError: options that exclude each other.
    """
    own = RECIPES[name]
    if own.as_published and not encoder_decoder:
        own = UQAC_DECODER_ONLY
    given = {
        key: getattr(options, key)
        for key in (
            "formulation",
            "steps",
            "batch_size",
            "learning_rate",
            "kl_weight",
            "tolerance",
            "check_every",
        )
        if getattr(options, key) is not None
    }
    if own.as_published:
        if options.objective != "likelihood" or given.get("formulation", "rewrite") not in (
            "rewrite",
            "gap_fill",
        ):
            raise ConfigError(
                f"{name} repeats a published recipe: option finetuning.objective must be "
                "likelihood and finetuning.formulation rewrite or gap_fill; take another method."
            )
    elif options.objective == "equalised" and given.get("formulation") == "rewrite":
        raise ConfigError(
            "option finetuning.formulation: a rewritten sentence has no second answer to be as "
            "likely as the first; take gap_fill, choice, sentence or mixed with equalised."
        )
    return replace(own, **given)


def forms(formulation: Formulation, options: FinetuningConfig) -> tuple[Form, ...]:
    """The kinds of examples that take turns."""
    if formulation != "mixed":
        return (formulation,)
    if options.objective == "equalised":
        return ("sentence", "gap_fill", "choice")
    return ("rewrite", "gap_fill", "choice")
