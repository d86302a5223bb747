"""Frozen values that pass between the stages of the straight line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Condition = Literal["ambiguous", "disambiguated"]


@dataclass(frozen=True, slots=True)
class Instance:
    """One item of a dataset: a question with its answer options."""

    id: str
    """Unique within the task, stable between runs."""
    fields: Mapping[str, str]
    """Texts that the prompt format names, for example context and question."""
    options: tuple[str, ...]
    """Candidate answers, at least two, in file order."""
    gold: int
    """Index of the correct option."""
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
    group: str = ""
    """Category or subgroup, for tables."""


@dataclass(frozen=True, slots=True)
class Task:
    """A dataset with its ten instructions and its prompt format."""

    name: str
    instances: tuple[Instance, ...]
    instructions: tuple[str, ...]
    prompt_format: str
    """`str.format` layout over `instruction`, `options` and the instances' fields."""
    licence: str
    citation: str
    digest: str
    """sha256 over the data, for the run folder."""

    def prompt(self, instruction: str, instance: Instance) -> str:
        """The text that asks `instance` in the words of `instruction`."""
        return self.prompt_format.format(
            instruction=instruction, options=", ".join(instance.options), **instance.fields
        )


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
