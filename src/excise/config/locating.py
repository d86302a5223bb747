"""How neurons are scored, chosen and changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from excise.config.section import Count, Section


class AttributionConfig(Section):
    """How a neuron's score is computed (Yang et al. 2024, equations 1-6, and the authors' code)."""

    probability: Literal["product", "geometric_mean", "first_token", "option_softmax"] = "product"
    """What P(y) of a text of several tokens is."""
    differentiate: Literal["P", "log P"] = "P"
    """The paper differentiates P; the authors' code log P."""
    order: Literal["instance", "subtract_then_max", "batch"] = "instance"
    """Where the skill term is clamped and subtracted: per instance after the token maximum; per
    token on encoder-side modules; or after the sum over a batch (the authors' code)."""
    skill_weight: float = Field(default=1.0, ge=0)
    """Weight of the skill term; 0 leaves it out (the paper's ablation)."""
    instance_weight: Literal["confusion", "uniform"] = "confusion"
    """Weight instances by P of their biased option, or all the same."""
    sign: Literal["signed", "absolute", "ascending"] = "signed"
    """Rank by the score, its size, or from the lowest (a control)."""
    input_positions: Literal["default", "encoder_only", "all"] = "default"
    """Encoder-decoder models: which modules count. `default`: encoder-side modules over input
    tokens, decoder modules over label tokens; `encoder_only`: encoder-side modules only; `all`: as
    default, padding included."""
    positions: Literal["prompt", "answer", "both", "last"] = "both"
    """Decoder-only models: prompt tokens, answer tokens that predict something, both, or only the
    tokens that predict the answer (the last prompt token and the answer tokens)."""
    skip_first_token: bool = True
    """Decoder-only models: leave out the first token, whose attention-sink activations would win
    every maximum."""
    tokens: Literal["max", "mean", "sum"] = "max"
    """Reduction over token positions."""
    biased_option: Literal["all", "ambiguous", "wrong", "stereotyped"] = "all"
    """Which instances count, with their most probable wrong option as the biased one; `stereotyped`
    takes the annotated option instead."""
    instances: int = Field(default=20, ge=1)
    """Number of find instances."""
    instructions: Count = None
    """Number of instructions averaged over; all by default."""
    batch_size: int = Field(default=4, ge=1)
    """Prompts attributed at once; changes results for `order = "batch"` only."""
    modules: Literal["all", "attention", "feed-forward"] = "all"
    """Which sublayers' neurons compete."""
    layers: tuple[int, int] | None = None
    """First and last layer (inclusive, from 0) whose neurons compete."""


class SelectionConfig(Section):
    """How many neurons are excised."""

    n: int | Literal["auto"] = "auto"
    """A fixed number, or chosen on the tune split."""
    search: Literal["grid", "racing", "golden_section"] = "grid"
    """How the tune split is searched: every number of the grid in full, or a race among them, which
    asks less than half as much (docs/scale.md); or the authors' search."""
    grid: tuple[int, ...] = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200)
    """Numbers of neurons tried."""
    golden_section: tuple[int, int, int] = (0, 500, 4)
    """Lowest n, highest n and tolerance of the golden-section search (the authors' code)."""
    trials: Literal["separate", "average"] = "separate"
    """Rank and patch in each trial (version 1 of the paper), or average the trials' scores and rank
    once (the authors' code)."""
    tune_instances: Count = 60
    """Instances of the tune split that choose n."""
    tune_instructions: Count = 2
    """Instructions under which they are asked."""
    factors: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (0.0, 0.5, -1.0, 2.0)
    """Method `crispr-scaled`: what the neurons may be multiplied by; each is tried with every n."""

    @model_validator(mode="after")
    def _check(self) -> SelectionConfig:
        if isinstance(self.n, int) and self.n < 0:
            raise ValueError("n must not be negative")
        if not self.grid or min(self.grid) < 0:
            raise ValueError("grid must hold numbers of neurons, none negative")
        low, high, tolerance = self.golden_section
        if not (0 <= low < high and tolerance >= 1):
            raise ValueError("golden_section must be (low, high, tolerance) with low < high")
        if not self.factors:
            raise ValueError("factors must hold at least one number")
        return self


class PatchConfig(Section):
    """What excising does to an output feature."""

    removal: Literal["zero", "scale"] = "zero"
    """Zero its weights and bias, or scale them."""
    scale: float = Field(default=0.0, allow_inf_nan=False)
    """Factor for `scale`; 0 is the same as `zero`."""
