"""Options of a run: every ambiguity of the method as a named choice, presets, TOML in and out."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from excise.errors import ConfigError, UnknownNameError
from excise.types import Normalisation


def _all_means_none(value: Any) -> Any:
    return None if value == "all" else value


Count = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_all_means_none)]
"""A positive number, or None for all; `all` in files and on the command line."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AttributionConfig(_Section):
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


class SelectionConfig(_Section):
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


class PatchConfig(_Section):
    """What excising does to an output feature."""

    removal: Literal["zero", "scale"] = "zero"
    """Zero its weights and bias, or scale them."""
    scale: float = Field(default=0.0, allow_inf_nan=False)
    """Factor for `scale`; 0 is the same as `zero`."""


class ScoringConfig(_Section):
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


class ContinuationConfig(_Section):
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


class TextConfig(_Section):
    """How plain text is read (perplexity, KL divergence)."""

    window: int = Field(default=512, ge=16)
    """Tokens of a passage, at most."""


class CalibrationConfig(_Section):
    """How calibration asks what options score where the question says nothing (`cc`, `dc`)."""

    content_free: tuple[str, ...] = Field(default=("N/A", "[MASK]", ""), min_length=1)
    """`cc`: texts that replace each field of an instance (Zhao et al. 2021)."""
    random_texts: int = Field(default=20, ge=1)
    """`dc`: number of texts of random words of the find split (Fei et al. 2023)."""


class GuardConfig(_Section):
    """How `guarded` searches, and what a patch may cost."""

    max_loss: Mapping[str, float] = {"disambiguated": 0.02, "gold_probability": 0.2}
    """Guard -> largest loss that is accepted. `disambiguated`: accuracy in contexts that decide the
    answer (0.02 is two points). `gold_probability`: share of P(gold) lost per token in these
    contexts. The name or file of another choice task: its accuracy."""
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
    """Instances of the find and tune splits of each other task that is a guard."""
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
    """Loss of the objective at which a neuron is dropped again."""
    rounds: int = Field(default=1, ge=1)
    """Rounds of proposals; later ones take the effects in the model patched so far."""

    @model_validator(mode="after")
    def _check(self) -> GuardConfig:
        if any(limit < 0 for limit in self.max_loss.values()):
            raise ValueError("max_loss must hold limits of at least 0")
        if self.screening_instances > self.instances:
            raise ValueError("screening_instances must not be more than instances")
        return self


class GateConfig(_Section):
    """How `gated` learns factors; its limits on damage are `guard.max_loss`."""

    neurons: Count = None
    """Neurons that get a factor: the best by first-order effects; all by default."""
    sparsity: float = Field(default=0.1, ge=0, lt=1)
    """Pull of every factor towards 1, as a share of a step: factors that the steps do not push one
    way again and again stay at 1."""
    instances: int = Field(default=128, ge=1)
    """Instances of find and tune that teach."""
    deciding_instances: int = Field(default=192, ge=1)
    """Instances of find and tune, of other templates, that decide how far to go."""
    deciding_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the templates of find and tune that decides."""
    instructions: Count = None
    """Instructions that take turns over their blocks; all by default."""
    epochs: int = Field(default=5, ge=1)
    """Passes over what teaches."""
    learning_rate: float = Field(default=0.02, gt=0)
    """Step of Adam; no factor moves by much more in one batch."""
    low: float = 0.0
    """Lowest factor; 0 removes a neuron."""
    high: float = Field(default=1.0, ge=1)
    """Highest factor."""
    decided_weight: float = Field(default=3.0, gt=0)
    """What a question whose context decides the answer weighs against an ambiguous one."""
    gold_weight: float = Field(default=1.0, ge=0)
    """What a nat of P(gold) per token lost in such contexts weighs."""
    batch_size: int = Field(default=4, ge=1)
    """Questions in a step."""
    strengths: tuple[Annotated[float, Field(gt=0)], ...] = (0.75, 1.0)
    """How far of the way from 1 to the learned factors is tried after every pass."""

    @model_validator(mode="after")
    def _check(self) -> GateConfig:
        if self.low > 1:
            raise ValueError("low must not be above 1, where factors start")
        if not self.strengths:
            raise ValueError("strengths must hold at least one number")
        return self


class DissectionConfig(_Section):
    """How excised neurons are examined (docs/dissection.md)."""

    resamples: int = Field(default=500, ge=1)
    """Resamples of find instances and instructions, as many again of templates."""
    neurons: int = Field(default=50, ge=1)
    """Neurons that are measured one by one and looked at per token: those of the highest scores."""
    objective: Literal["auto", "accuracy", "log_share"] = "auto"
    """What the smallest set must keep on the tune split: accuracy, or the mean log share of the
    gold option in nats. `auto`: what the run's method maximised."""
    tolerance: float = Field(default=0.01, ge=0)
    """How much of the objective the smallest set may lose."""
    tune_instances: int | None = Field(default=None, ge=1)
    """Tune instances asked; as many as the run's own by default."""
    tune_instructions: int | None = Field(default=None, ge=1)
    """Instructions under which they are asked; the run's by default."""
    evaluations: int = Field(default=400, ge=1)
    """Sets of neurons that the search for the smallest one may measure, at most."""
    items: int = Field(default=40, ge=0)
    """Test items of each task whose tokens are looked at for the report, changed answers first."""
    memory: int = Field(default=200, ge=1)
    """Megabytes of scores per prompt; neurons that do not fit are left out, lowest scores first."""


class FinetuningConfig(_Section):
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


class StatisticsConfig(_Section):
    """How differences are judged (docs/statistics.md)."""

    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of intervals; a corrected p-value of at most 1 - level is significant."""
    margin: float = Field(default=0.02, ge=0)
    """Largest loss that counts as none: a share or score (0.02 is two points); for metrics without
    a fixed range, as perplexity, a share of the original's value."""
    correction: Literal["holm", "none"] = "holm"
    """Correction for the number of tests: over all tasks and metrics of a run, or none."""
    power: float = Field(default=0.8, ge=0.5, lt=1)
    """Probability with which the smallest detectable change would be shown."""


class Preset(_Section):
    """Everything that a preset decides."""

    attribution: AttributionConfig = AttributionConfig()
    selection: SelectionConfig = SelectionConfig()
    scoring: ScoringConfig = ScoringConfig()
    continuation: ContinuationConfig = ContinuationConfig()
    text: TextConfig = TextConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    finetuning: FinetuningConfig = FinetuningConfig()
    guard: GuardConfig = GuardConfig()
    gate: GateConfig = GateConfig()
    dissection: DissectionConfig = DissectionConfig()
    patch: PatchConfig = PatchConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    split_by: Literal["template", "example"] = "template"
    split_seed: int = Field(default=0, ge=0)
    """Decides the test split; trials draw find and tune anew from the rest."""
    trials: int = Field(default=1, ge=1)
    """Draws of find and tune."""
    seed: int = Field(default=0, ge=0)
    """Decides the samples and the random controls."""
    limit: Count = None
    """Test instances of each task; all by default."""
    test_instructions: Count = None
    """Instructions under which test instances are asked; all by default."""
    controls: int = Field(default=20, ge=0)
    """Draws of random neurons; with fewer than 20, beating all of them is no percentile."""


PRESETS: Mapping[str, Preset] = {
    "v1": Preset(
        attribution=AttributionConfig(instance_weight="uniform", instances=10),
        selection=SelectionConfig(n=50),
        trials=3,
    ),
    "v2": Preset(),
    "quick": Preset(
        attribution=AttributionConfig(instances=12, instructions=5),
        selection=SelectionConfig(
            grid=(0, 1, 2, 3, 5, 8, 12, 20, 30), tune_instances=48, tune_instructions=1
        ),
        limit=100,
        test_instructions=2,
        controls=3,
    ),
    "official": Preset(
        attribution=AttributionConfig(differentiate="log P", order="batch", batch_size=4),
        selection=SelectionConfig(
            search="golden_section",
            trials="average",
            tune_instances=None,
            tune_instructions=None,
        ),
        scoring=ScoringConfig(mode="generation"),
        split_by="example",
        seed=2026,
    ),
}
PRESET_NOTES: Mapping[str, str] = {
    "v1": "first version of the paper: 10 instances, 3 trials, uniform weights, n = 50",
    "v2": "the published paper: 20 instances weighted by confusion, n chosen on the tune split",
    "quick": "version 2 cut down to minutes on a laptop: fewer instances, instructions, items",
    "official": "the authors' code: log P, clamp after each batch of 4, golden section, generation",
}


class RunConfig(Preset):
    """Everything that decides a run's result; saved with it."""

    preset: str = "v2"
    model: str | None = None
    """Hub id, local folder or GGUF file; None is the embedded default."""
    revision: str | None = None
    neurons: str | None = None
    """Models that the table of architectures lacks: regular expression over the names of linear
    maps that hold neurons, with a group `layer` (docs/add-an-architecture.md)."""
    no_neurons: str | None = None
    """The same for those that hold none, besides the language-model head."""
    tasks: tuple[str, ...] = ("bbq-age",)
    method: str = "crispr"
    """How `run` finds its patch: a method of `excise ls methods` that excises neurons."""
    instructions: str | None = None
    """File with instructions that replace the task's own."""
    data_dir: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """Spreads a model that is too large for one device over all of them (docs/scale.md)."""
    apply_chat_template: Literal["auto", "yes", "no"] = "auto"
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of question templates."""

    @model_validator(mode="after")
    def _check_placement(self) -> RunConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(
                f"device = {self.device!r} and device_map = {self.device_map!r} exclude each "
                "other, as the map chooses the devices; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_sublayers(self) -> RunConfig:
        described = self.neurons is not None and not any(
            f"(?P<{group}>" in self.neurons
            for group in ("self_attention", "cross_attention", "feed_forward")
        )
        if described and self.attribution.modules != "all":
            raise ValueError(
                "attribution.modules needs groups self_attention and feed_forward in neurons"
            )
        return self


_COUNTS = (
    ("attribution", "instructions"),
    ("selection", "tune_instances"),
    ("selection", "tune_instructions"),
    ("", "limit"),
    ("", "test_instructions"),
)


def resolve(overrides: Mapping[str, Any], *, file: Path | None = None) -> RunConfig:
    """The options of a run: preset, then configuration file, then `overrides`.

    Args:
        overrides: option -> value, nested by section; None means "not given".
        file: a TOML file with the same names.

    Raises:
        ConfigError: a file that is no TOML, an option that is not known or has a wrong value.
        UnknownNameError: a preset that is not known.
    """
    from_file = _read_toml(file) if file else {}
    given = _without_none(overrides)
    name = given.get("preset", from_file.get("preset", "v2"))
    if name not in PRESETS:
        raise UnknownNameError("preset", str(name), PRESETS)
    merged = _merge(_merge(PRESETS[name].model_dump(), from_file), given)
    try:
        return RunConfig.model_validate({**merged, "preset": name})
    except ValidationError as error:
        raise ConfigError(_one_line(error, file)) from error


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML; counts that are None are `all`, other options left out."""
    values = config.model_dump(mode="json")
    for section, name in _COUNTS:
        inner = values[section] if section else values
        inner[name] = inner[name] or "all"
    return tomli_w.dumps(_without_none(values))


def read_record(values: Mapping[str, Any], file: Path) -> RunConfig:
    """The configuration that a record holds; options that it does not name have their defaults.

    Args:
        values: what `model_dump(mode="json")` gave when the record was written.
        file: the record, for the error.

    Raises:
        ConfigError: an option that is not known or has a wrong value.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, file)) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {file} is no valid TOML: {error}") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = (
            _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return merged


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _one_line(error: ValidationError, file: Path | None) -> str:
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"]) or "configuration"
    where = f" (from {file} or the command line)" if file else ""
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    # A check of a whole section would show all of it.
    got = "" if isinstance(given, dict) else f"; got {str(given)[:80]!r}"
    return f"option {option}{where}: {message}{got}."
