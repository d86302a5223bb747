"""The exact test of any metric: what if the two states had changed names in some templates?

A metric of answers is evaluated on mixtures: in each template either the original's or the
patched model's answers. Without an effect every mixture is as likely as the one observed. Metrics
that add up over templates, as shares with a fixed denominator do, are recognised by trying, and
tested by `sign_flip` at once; for others (bias scores, F1) the metric itself is evaluated on the
mixtures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from excise.statistics.estimates import Ideal, Pair, gain
from excise.statistics.exact import ExactTest, sign_flip
from excise.statistics.resampling import (
    MetricFunction,
    chunks,
    over_instructions,
    template_index,
)
from excise.types import Answers, Continuations, FloatArray, IntArray, Predictions, Readings

MOST_ENUMERATED = 12
"""Templates up to which all mixtures of a metric that does not add up are evaluated."""

N_SWAPS = 4_999
"""Random mixtures where there are more."""

_TRIED = 32
"""Random mixtures that show whether a metric adds up over templates."""

_NEGLIGIBLE = 1e-9


@dataclass(frozen=True, slots=True)
class SwapTest:
    """What the test of a metric found."""

    p_value: float
    smallest: float
    """The smallest p that so many templates allow."""
    name: str


def swap_test(
    function: MetricFunction, strata: Sequence[Sequence[Pair]], ideal: Ideal, *, seed: int = 0
) -> SwapTest:
    """Two-sided test that a metric's gain is zero; templates are swapped as a whole.

    A template is swapped in all pairs of its stratum at once, so trials on the same items do not
    pass for independent evidence. Mixtures in which the metric is undefined count as more extreme.

    Args:
        function: The metric.
        strata: Pairs of each stratum, the metric defined in all of them.
        ideal: The metric's best value.
        seed: Start of the random mixtures.

    Returns:
        The test.
    """
    stacked = [_Stratum.of(function, pairs, seed) for pairs in strata]
    if isinstance(ideal, str) and all(stratum.adds_up for stratum in stacked):
        parts = [stratum.contributions / len(stacked) for stratum in stacked]
        found = sign_flip(np.concatenate(parts), seed=seed)
        single = all(stratum.single_items for stratum in stacked)
        return SwapTest(found.p_value, found.smallest, _flip_name(found, single=single))
    return _over_mixtures(stacked, ideal, seed)


def _flip_name(found: ExactTest, *, single: bool) -> str:
    if found.binomial and single:
        return "exact McNemar test"
    return "exact sign-flip test over templates" if found.exact else "sign-flip test over templates"


def _over_mixtures(strata: Sequence[_Stratum], ideal: Ideal, seed: int) -> SwapTest:
    total = sum(stratum.n_templates for stratum in strata)
    observed = abs(float(_gains(strata, np.zeros((1, total)), ideal)[0]))
    exact = total <= MOST_ENUMERATED
    if exact:
        # Swapping all templates gives the same gain with the other sign: half of them suffice.
        flips = np.array([(0, *rest) for rest in product((0, 1), repeat=total - 1)], np.float64)
        gains = np.abs(_gains(strata, flips, ideal))
    else:
        generator = np.random.default_rng([seed, total])
        drawn = (
            generator.integers(2, size=(len(rows), total)).astype(np.float64)
            for rows in chunks(N_SWAPS, total)
        )
        gains = np.abs(np.concatenate([_gains(strata, flips, ideal) for flips in drawn]))
    gains = np.where(np.isnan(gains), np.inf, gains)
    largest = max(observed, float(gains.max(where=np.isfinite(gains), initial=0.0)))
    rounding = _NEGLIGIBLE * largest
    extreme = int((gains >= observed - rounding).sum())
    possible = int((gains >= largest - rounding).sum())
    if exact:
        name = "exact swap test over templates"
        return SwapTest(extreme / len(gains), possible / len(gains), name)
    drawn_too = N_SWAPS + 1
    name = "swap test over templates"
    return SwapTest((extreme + 1) / drawn_too, max(possible, 1) / drawn_too, name)


def _gains(strata: Sequence[_Stratum], flips: FloatArray, ideal: Ideal) -> FloatArray:
    """[B] mean gain over strata where the templates that are 1 in [B, T of all] are swapped."""
    ends = np.cumsum([stratum.n_templates for stratum in strata])
    parts = np.split(flips, ends[:-1], axis=1)
    of_strata = [s.gains(part, ideal) for s, part in zip(strata, parts, strict=True)]
    means: FloatArray = np.mean(of_strata, axis=0)
    return means


@dataclass(frozen=True, slots=True)
class _Stratum:
    pairs: tuple[_Mixed, ...]
    n_templates: int

    @classmethod
    def of(cls, function: MetricFunction, pairs: Sequence[Pair], seed: int) -> _Stratum:
        index, n_templates = template_index([pair.original.templates for pair in pairs])
        mixed = (
            _Mixed.of(function, pair, of_instance, n_templates, seed)
            for pair, of_instance in zip(pairs, index, strict=True)
        )
        return cls(tuple(mixed), n_templates)

    @property
    def adds_up(self) -> bool:
        return all(pair.contributions is not None for pair in self.pairs)

    @property
    def single_items(self) -> bool:
        """Whether no template has a second item."""
        return all(pair.index.size == self.n_templates for pair in self.pairs)

    @property
    def contributions(self) -> FloatArray:
        """[T] what each template adds to the mean difference, where that adds up."""
        of_pairs = [p.contributions for p in self.pairs if p.contributions is not None]
        added: FloatArray = np.mean(of_pairs, axis=0)
        return added

    def gains(self, flips: FloatArray, ideal: Ideal) -> FloatArray:
        """[B] mean gain over pairs where the templates that are 1 in [B, T] are swapped."""
        of_pairs = [gain(p.values(flips), p.values(1.0 - flips), ideal) for p in self.pairs]
        means: FloatArray = np.mean(of_pairs, axis=0)
        return means


@dataclass(frozen=True, slots=True)
class _Mixed:
    """A metric of two states of which each template is taken from one."""

    function: MetricFunction
    both: Answers
    index: IntArray
    original: float
    contributions: FloatArray | None = None
    """[T] what swapping a template adds, where that adds up."""

    @classmethod
    def of(
        cls,
        function: MetricFunction,
        pair: Pair,
        index: IntArray,
        n_templates: int,
        seed: int,
    ) -> _Mixed:
        both = stacked(pair.original, pair.patched)
        none = np.zeros((1, n_templates))
        mixed = cls(function, both, index, np.nan)
        mixed = replace(mixed, original=float(mixed.values(none)[0]))
        added = mixed.values(np.eye(n_templates)) - mixed.original
        if np.isnan(added).any():
            return mixed
        generator = np.random.default_rng([seed, n_templates])
        tried = generator.integers(2, size=(_TRIED, n_templates)).astype(np.float64)
        tried = np.concatenate([tried, np.ones_like(none)])
        found, expected = mixed.values(tried), mixed.original + tried @ added
        scale = max(float(np.abs(expected).max()), float(np.abs(added).max()))
        if np.isnan(found).any() or np.abs(found - expected).max() > _NEGLIGIBLE * scale:
            return mixed
        # What is left of rounding must not pass for a template that changed.
        return replace(mixed, contributions=np.where(np.abs(added) > 1e-13 * scale, added, 0.0))

    def values(self, flips: FloatArray) -> FloatArray:
        """[B] the metric where templates that are 1 in [B, T] are the patched model's."""
        if self.contributions is not None:
            return self.original + flips @ self.contributions
        found = []
        for rows in chunks(len(flips), 2 * len(self.index)):
            patched = flips[rows.start : rows.stop][:, self.index]
            weights = np.concatenate([1.0 - patched, patched], axis=1)
            found.append(over_instructions(self.function(self.both, weights)))
        return np.concatenate(found)


def stacked(original: Answers, patched: Answers) -> Answers:
    """The answers of both states as those of twice as many items, the original's first.

    Raises:
        TypeError: answers of different kinds, or of one that is not known.
    """
    if isinstance(original, Predictions) and isinstance(patched, Predictions):
        return replace(
            original,
            instances=original.instances + patched.instances,
            choice=np.concatenate([original.choice, patched.choice], axis=1),
            log_likelihood=_beside(original.log_likelihood, patched.log_likelihood),
            n_tokens=_beside(original.n_tokens, patched.n_tokens),
            compared=_beside(original.compared, patched.compared),
        )
    if isinstance(original, Continuations) and isinstance(patched, Continuations):
        labels = original.scores.keys() & patched.scores.keys()
        return replace(
            original,
            instances=original.instances + patched.instances,
            texts=original.texts + patched.texts,
            scores={
                name: np.concatenate([original.scores[name], patched.scores[name]])
                for name in sorted(labels)
            },
        )
    if isinstance(original, Readings) and isinstance(patched, Readings):
        return replace(
            original,
            instances=original.instances + patched.instances,
            log_likelihood=np.concatenate([original.log_likelihood, patched.log_likelihood]),
            n_tokens=np.concatenate([original.n_tokens, patched.n_tokens]),
            n_bytes=np.concatenate([original.n_bytes, patched.n_bytes]),
            divergence=np.concatenate([original.divergence, patched.divergence]),
        )
    raise TypeError(f"cannot stack {type(original).__name__} and {type(patched).__name__}")


def _beside(one: Any, other: Any) -> Any:
    return None if one is None or other is None else np.concatenate([one, other], axis=1)
