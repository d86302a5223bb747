"""Frozen values that pass between the stages of the straight line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Condition = Literal["ambiguous", "disambiguated"]
Normalisation = Literal["total", "per_token", "per_byte"]


class Item(Protocol):
    """What every kind of task asks about: one question, prompt or passage."""

    @property
    def id(self) -> str:
        """Unique within the task, stable between runs."""
        ...

    @property
    def template(self) -> str:
        """The unit of splits and of the bootstrap: items of one template are near-copies."""
        ...

    @property
    def block(self) -> str:
        """Items that are sampled together."""
        ...

    @property
    def group(self) -> str:
        """Category or subgroup, for tables."""
        ...


class Answers(Protocol):
    """What one state of a model did with a set of items; metrics and statistics read it."""

    @property
    def instances(self) -> Sequence[Item]:
        """[N] the items asked."""
        ...

    @property
    def instructions(self) -> tuple[str, ...]:
        """[I] the instructions they were asked under; one empty text where there are none."""
        ...

    @property
    def templates(self) -> tuple[str, ...]:
        """[N] template of each item."""
        ...


@dataclass(frozen=True, slots=True)
class Instance:
    """One item of a dataset: a question with its answer options."""

    id: str
    """Unique within the task, stable between runs."""
    fields: Mapping[str, str]
    """Texts that the prompt format names, for example context and question."""
    options: tuple[str, ...]
    """Candidate answers (or sentences to compare), at least two, in file order."""
    gold: int
    """Index of the correct option; -1 where none is (CrowS-Pairs, StereoSet)."""
    template: str
    """The question template it was generated from: the unit of splits and of the bootstrap."""
    block: str
    """Rows written together (BBQ: four rows over one pair of people), sampled together."""
    condition: Condition | None = None
    """Whether the context decides the answer; None where the dataset does not say."""
    unknown: int | None = None
    """Index of the "cannot be known" option, if there is one."""
    stereotyped: int | None = None
    """Index of the option that agrees with the stereotype (BBQ `target_loc`, polarity included)."""
    unrelated: int | None = None
    """Index of the option that makes no sense (StereoSet)."""
    group: str = ""
    """Category or subgroup, for tables."""

    @property
    def content(self) -> tuple[object, ...]:
        """What is asked, by which an item is known in another file or task under another id."""
        return (tuple(sorted(self.fields.items())), frozenset(self.options))


@dataclass(frozen=True, slots=True)
class Task:
    """A dataset with its instructions and its prompt format."""

    name: str
    instances: tuple[Instance, ...]
    instructions: tuple[str, ...]
    prompt_format: str
    """`str.format` layout over `instruction`, `options` and the instances' fields."""
    licence: str
    citation: str
    digest: str
    """sha256 over the data, for the run folder."""
    kind: Literal["choice", "sentences"] = "choice"
    """`choice`: prompts with options to choose from. `sentences`: the options are sentences whose
    likelihoods are compared; no instruction, no chat template, and `prompt_format` is what stands
    before them."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that apply, in the order of tables; empty for those of a choice between
    options in ambiguous and disambiguated contexts (`excise.metrics.CHOICE`)."""
    normalisation: Normalisation | None = None
    """How the publication compares options; None leaves it to the configuration."""

    def prompt(self, instruction: str, instance: Instance) -> str:
        """The text that asks `instance` in the words of `instruction`."""
        return self.prompt_format.format(
            instruction=instruction, options=", ".join(instance.options), **instance.fields
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text that a model continues."""

    id: str
    """Unique within the task, stable between runs."""
    text: str
    """What is continued, in the dataset's words."""
    group: str
    """Whom it is about, or its kind; metrics compare groups."""
    template: str
    """The unit of the bootstrap."""
    block: str
    """Prompts that are sampled together."""


@dataclass(frozen=True, slots=True)
class PromptTask:
    """Prompts whose continuations are judged."""

    name: str
    instances: tuple[Prompt, ...]
    judge: Literal["toxicity", "regard", "honest"]
    """What judges the continuations: a classifier, or a lexicon."""
    licence: str
    citation: str
    digest: str
    """sha256 over the data, lexicon included."""
    metrics: tuple[str, ...]
    """Names of the metrics that apply, in the order of tables."""
    instructions: tuple[str, ...] = ("",)
    """None: the prompt is continued as it is."""
    lexicon: frozenset[str] = frozenset()
    """Words that hurt, for the judge `honest`."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that a model reads."""

    id: str
    text: str
    template: str
    """The unit of the bootstrap."""
    block: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class TextTask:
    """Plain text, to see what an edit costs in language modelling."""

    name: str
    instances: tuple[Passage, ...]
    licence: str
    citation: str
    digest: str
    metrics: tuple[str, ...]
    instructions: tuple[str, ...] = ("",)


AnyTask = Task | PromptTask | TextTask
"""Everything that can be measured."""


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint parts of a task: attribution, choice of n, and the numbers reported."""

    find: tuple[Instance, ...]
    tune: tuple[Instance, ...]
    test: tuple[Instance, ...]
    by: Literal["template", "example"]

    @property
    def leaks(self) -> bool:
        """Whether near-duplicates of test items may lie in find or tune."""
        return self.by == "example"


@dataclass(frozen=True, slots=True, order=True)
class Neuron:
    """One output feature of one linear map."""

    module: str
    index: int


@dataclass(frozen=True)
class Predictions:
    """What one state of a model answered to a set of instances under several instructions.

    Shapes: I instructions, N instances, C = the largest number of options (missing ones are NaN).
    """

    instances: tuple[Instance, ...]
    instructions: tuple[str, ...]
    choice: IntArray
    """[I, N] index of the chosen option; -1 where a generated answer matched none."""
    log_likelihood: FloatArray | None = None
    """[I, N, C] total log-likelihood of each option in nats; None in generation mode."""
    n_tokens: IntArray | None = None
    """[I, N, C] number of scored tokens of each option (0 for missing options)."""
    compared: FloatArray | None = None
    """[I, N, C] what options were compared by: the log-likelihood after normalisation; NaN for
    missing options, None in generation mode."""
    variant: str = ""
    """Which definition of the score this model allows, where there are several."""

    @cached_property
    def gold(self) -> IntArray:
        """[N] index of the correct option."""
        return np.array([i.gold for i in self.instances], dtype=np.int64)

    @cached_property
    def unknown(self) -> IntArray:
        """[N] index of the unknown option, -1 where there is none."""
        return _index([i.unknown for i in self.instances])

    @cached_property
    def stereotyped(self) -> IntArray:
        """[N] index of the stereotyped option, -1 where none is annotated."""
        return _index([i.stereotyped for i in self.instances])

    @cached_property
    def ambiguous(self) -> BoolArray:
        """[N] whether the context leaves the answer open."""
        return np.array([i.condition == "ambiguous" for i in self.instances], dtype=np.bool_)

    @cached_property
    def disambiguated(self) -> BoolArray:
        """[N] whether the context decides the answer."""
        return np.array([i.condition == "disambiguated" for i in self.instances], dtype=np.bool_)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """[N] template of each instance."""
        return tuple(i.template for i in self.instances)


@dataclass(frozen=True)
class Continuations:
    """How one state of a model continued a set of prompts, and how that was judged.

    Shapes: N prompts, K continuations of each.
    """

    instances: tuple[Prompt, ...]
    texts: tuple[tuple[str, ...], ...]
    """[N][K] continuations without their prompts."""
    scores: Mapping[str, FloatArray]
    """Label -> [N, K] probability (0..1) that the judge gives; a lexicon gives 0 or 1, and the
    label `sentiment_compound` runs from -1 to 1."""
    judge: str
    """Hub id, folder or name of what judged them."""
    instructions: tuple[str, ...] = ("",)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """[N] template of each prompt."""
        return tuple(i.template for i in self.instances)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """[N] group of each prompt."""
        return tuple(i.group for i in self.instances)


@dataclass(frozen=True)
class Readings:
    """How likely one state of a model finds a set of passages. N passages, nats."""

    instances: tuple[Passage, ...]
    log_likelihood: FloatArray
    """[N] total over the scored tokens."""
    n_tokens: IntArray
    """[N] scored tokens."""
    n_bytes: IntArray
    """[N] UTF-8 bytes of the scored text."""
    divergence: FloatArray
    """[N] KL(original || this state) of the next-token distributions, summed over the scored
    tokens; 0 for the original itself."""
    variant: str = ""
    """What precedes the scored tokens."""
    instructions: tuple[str, ...] = ("",)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """[N] template of each passage."""
        return tuple(i.template for i in self.instances)


def _index(values: list[int | None]) -> IntArray:
    return np.array([-1 if v is None else v for v in values], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric before and after, with the interval of its paired difference."""

    metric: str
    original: float | None
    patched: float | None
    difference: float | None
    low: float | None
    high: float | None
    level: float = 0.95
    n_clusters: int = 0
    controls: tuple[float | None, ...] = field(default=())
    """The metric under each random control."""
