"""How models are asked: options compared, prompts continued, texts read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.config.section import Section
from excise.types import Normalisation


class ScoringConfig(Section):
    """How options are compared."""

    normalisation: Normalisation | Literal["auto"] = "auto"
    """Compare total log-likelihoods, or those per token or per byte of the option. `auto`: totals
    for encoder-decoder models (the authors' code), per token for decoder-only ones (measured:
    docs/decisions/decoder-only.md)."""
    end_token: bool = False
    """Decoder-only models: score the end token after the option, as encoder-decoder models do."""
    mode: Literal["scoring", "generation"] = "scoring"
    """Take the likeliest option, or generate greedily and match the answer to an option."""
    max_new_tokens: int = Field(default=16, ge=1)
    """Length of generated answers."""
    max_tokens: int = Field(default=768, ge=1)
    """Tokens forwarded at once, at most; changes nothing but speed and memory."""
    max_memory_mib: int = Field(default=1024, ge=1)
    """Memory for activations and logits beside the weights; fewer tokens are forwarded at once
    where it asks for that. What they leave free may hold hidden states that patches share."""


class ContinuationConfig(Section):
    """How prompts are continued (HONEST, toxicity, regard)."""

    continuations: int = Field(default=5, ge=1)
    """Samples of each prompt (K)."""
    max_new_tokens: int = Field(default=20, ge=1)
    """Length of a continuation in tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Nucleus sampling: the smallest set of tokens with this share of the probability."""
    seed: int = Field(default=0, ge=0)
    """Decides the samples; the same for every state of the model."""
    batch_size: int = Field(default=16, ge=1)
    """Continuations generated at once; changes nothing else."""
    classifier: str | None = None
    """Hub id or folder of a sequence classifier, or the name of an offline scorer; None takes the
    one that the metric is defined with."""
    classifier_label: str | None = None
    """The classifier's label for the harmful class, where it has another name."""


class TextConfig(Section):
    """How plain text is read (perplexity, KL divergence)."""

    window: int = Field(default=512, ge=16)
    """Tokens of a passage, at most."""
