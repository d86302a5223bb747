"""The kinds of experiments; each is declared by many files and carried out by one class here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from excise.experiments.definition import Definition
from excise.experiments.kinds.benchmarks import Benchmarks
from excise.experiments.kinds.matrix import Matrix
from excise.experiments.kinds.methods import Methods
from excise.experiments.kinds.places import Places
from excise.experiments.kinds.questions import Questions
from excise.experiments.kinds.sweep import Sweep

KINDS: Mapping[str, type[Definition]] = MappingProxyType(
    {
        "methods": Methods,
        "sweep": Sweep,
        "places": Places,
        "matrix": Matrix,
        "benchmarks": Benchmarks,
        "questions": Questions,
    }
)
"""Name in a definition -> what carries it out."""
