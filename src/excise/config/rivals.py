"""Options of the methods beside plain CRISPR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from excise.config.section import Count, Section


class CalibrationConfig(Section):
    """How calibration asks what options score where the question says nothing (`cc`, `dc`)."""

    content_free: tuple[str, ...] = Field(default=("N/A", "[MASK]", ""), min_length=1)
    """`cc`: texts that replace each field of an instance (Zhao et al. 2021)."""
    random_texts: int = Field(default=20, ge=1)
    """`dc`: number of texts of random words of the find split (Fei et al. 2023)."""


class GuardConfig(Section):
    """How `guarded` searches, and what its patch and that of `gated` may cost."""

    max_loss: Mapping[str, float] = {"disambiguated": 0.02, "gold_probability": 0.2}
    """Guard -> largest loss that is accepted. `disambiguated`: accuracy in contexts that decide the
    answer (0.02 is two points). `gold_probability`: share of P(gold) lost per token in these
    contexts. The name or file of another choice task: its accuracy. That of a text: the rise of its
    perplexity, as a share."""
    proposals: Literal["both", "crispr", "effects"] = "both"
    """Where candidates come from: CRISPR's ranking, first-order effects on the objective, or both
    in turns."""
    factors: tuple[float, ...] = Field(default=(0.0, 2.0), min_length=1)
    """What first-order effects may propose to multiply a neuron by; CRISPR's neurons are removed as
    `patch` says."""
    candidates: int = Field(default=32, ge=1)
    """Neurons screened in each round."""
    screening_instances: int = Field(default=24, ge=1)
    """Instances of find and tune that candidates are screened with."""
    instances: int = Field(default=96, ge=1)
    """Instances of find and tune that decide, those of the screening among them."""
    instructions: Count = 2
    """Instructions that take turns over their blocks."""
    other_instances: int = Field(default=60, ge=1)
    """Instances of the find and tune splits of each other task that is a guard, and passages of a
    text."""
    finalists: int = Field(default=12, ge=1)
    """Candidates that are measured on all instances."""
    neurons: int = Field(default=20, ge=1)
    """Neurons excised, at most."""
    slack: float = Field(default=0.1, ge=0)
    """What a set may lose beyond the limits on the way, since later neurons can win it back; the
    result may not."""
    min_gain: float = Field(default=0.01, ge=0)
    """Gain of the objective (mean log share of the gold option, in nats) that a further neuron
    needs."""
    tolerance: float = Field(default=0.01, ge=0)
    """Loss of the objective, in all, up to which neurons are dropped again."""
    rounds: int = Field(default=1, ge=1)
    """Rounds of proposals; later ones take the effects in the model patched so far."""

    @model_validator(mode="after")
    def _check(self) -> GuardConfig:
        if any(limit < 0 for limit in self.max_loss.values()):
            raise ValueError("max_loss must hold limits of at least 0")
        if self.screening_instances > self.instances:
            raise ValueError("screening_instances must not be more than instances")
        return self


class GateConfig(Section):
    """How `gated` learns factors; its limits on damage are `guard.max_loss`."""

    neurons: Count = 40
    """Neurons of the patch at most; `all`: every neuron that moved may stay."""
    sparsity: float = Field(default=0.4, ge=0, lt=1)
    """Pull of every factor towards 1, as a share of a step: factors that the steps do not push one
    way again and again stay at 1."""
    instances: int = Field(default=96, ge=1)
    """Instances of find and tune that a pass teaches, new ones in each pass while there are any."""
    deciding_instances: int = Field(default=240, ge=1)
    """Instances of find and tune, of other templates, that decide how far to go."""
    deciding_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the templates of find and tune that decides."""
    instructions: Count = None
    """Instructions that take turns over their blocks; all by default."""
    epochs: int = Field(default=5, ge=1)
    """Passes in which every neuron has a factor."""
    learning_rate: float = Field(default=0.03, gt=0)
    """First step of Adam, which shrinks to nothing; no factor moves by much more in one batch."""
    low: float = -1.0
    """Lowest factor in them; 0 removes a neuron, and below it acts the other way round."""
    high: float = Field(default=3.0, ge=1)
    """Highest factor in them."""
    few_passes: tuple[Annotated[int, Field(ge=1)], ...] = (1, 1, 2, 4)
    """Passes of each of the stages that follow those of `epochs`; a stage has a third of the
    neurons of the one before, the last has `neurons`."""
    few_learning_rate: float = Field(default=0.25, gt=0)
    """First step of Adam in the last stage, 2.3 times that of the stage before, and so on. Chosen
    for 40 neurons of 155,520: smaller for more."""
    few_low: float = -8.0
    """Lowest factor in these stages."""
    few_high: float = Field(default=10.0, ge=1)
    """Highest factor in them."""
    keep: tuple[str, ...] = ()
    """Other tasks, by name or file: while the few learn (or all, where no few follow), each step
    also asks questions of a block of theirs, those whose context decides the answer, out of their
    find and tune splits."""
    decided_weight: float = Field(default=3.0, gt=0)
    """What a question whose context decides the answer weighs against an ambiguous one."""
    gold_weight: float = Field(default=1.0, ge=0)
    """What a nat of P(gold) per token lost in such contexts weighs."""
    batch_size: int = Field(default=4, ge=1)
    """Questions in a step; blocks are not divided."""
    strengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """How far of the way from 1 to the learned factors is tried, the strongest first, until one
    holds the limits. The rest of the way gains a few points and costs perplexity of other
    text."""

    @field_validator("keep", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        # The path of a file may hold a comma.
        if given and Path(given).exists():
            return (given,)
        return [part.strip() for part in given.split(",")]

    @model_validator(mode="after")
    def _check(self) -> GateConfig:
        if max(self.low, self.few_low) > 1:
            raise ValueError("low and few_low must not be above 1, where factors start")
        if "" in self.keep:
            raise ValueError("keep got an empty name; [] keeps nothing")
        for name in ("strengths", "few_passes"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one number")
        return self

    @property
    def passes(self) -> int:
        """All passes."""
        return self.epochs + (sum(self.few_passes) if self.neurons else 0)


class FinetuningConfig(Section):
    """How a model is fine-tuned; what is None is the method's own (docs/finetuning.md)."""

    pairs: str = "crows-pairs"
    """Training pairs: `crows-pairs`, or a `.jsonl` or `.csv` file with fields `more` and `less`."""
    formulation: Literal["mixed", "rewrite", "gap_fill", "choice", "sentence"] | None = None
    """What a pair asks for: the sentence rewritten, its gap filled, one of the two chosen, or (no
    prompt) the sentence itself; `mixed` takes turns."""
    objective: Literal["likelihood", "equalised"] = "likelihood"
    """Raise the likelihood of the less stereotyped sentence, or make both equally likely per
    token."""
    steps: int | None = Field(default=None, ge=1)
    """Updates of the weights, at most."""
    batch_size: int | None = Field(default=None, ge=1)
    """Pairs in an update."""
    learning_rate: float | None = Field(default=None, gt=0)
    """The highest of the schedule (AdamW)."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW."""
    modules: Literal["all", "attention", "feed-forward"] = "all"
    """`finetune-lora`: which sublayers' linear maps get an adapter."""
    rank: int = Field(default=8, ge=1)
    """`finetune-lora`: rank of an adapter."""
    alpha: float = Field(default=16.0, gt=0)
    """`finetune-lora`: an adapter counts alpha / rank times."""
    trainable: Literal["norms", "biases", "norms_and_biases", "last_layers"] = "norms"
    """`finetune-frozen`: which weights are not frozen."""
    last_layers: int = Field(default=2, ge=1)
    """`finetune-frozen`: how many, of each stack."""
    kl_weight: float | None = Field(default=None, ge=0)
    """Weight of KL(original || trained) on replay prompts."""
    gold_weight: float = Field(default=0.0, ge=0)
    """Weight of the negative log-likelihood of correct answers to find items: this trains the task
    itself."""
    replay_pool: int = Field(default=32, ge=1)
    """Find items that are replayed."""
    replay_batch: int = Field(default=2, ge=1)
    """Of these in an update."""
    held_out: int = Field(default=32, ge=1)
    """Pairs whose loss chooses the step, at most a fifth of all."""
    retention: Literal["auto", "accuracy_disambiguated", "accuracy", "likelihood"] = "auto"
    """What must not be lost, measured on the tune split: accuracy where the context decides, over
    all items, or the log-likelihood per token of correct options. `auto`: the first of these that
    the task defines."""
    tolerance: float | None = Field(default=None, ge=0)
    """How far below the original's retention a step may fall and still be chosen."""
    tune_instances: int = Field(default=40, ge=1)
    """Tune items that measure it, under one instruction."""
    check_every: int | None = Field(default=None, ge=1)
    """Updates between two measurements."""
    patience: int = Field(default=3, ge=1)
    """Measurements in a row without a better step before training stops."""
