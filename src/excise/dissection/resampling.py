"""How stable the selected neurons are when other prompts had been drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from excise.dissection.candidates import Candidates
from excise.dissection.contributions import Contributions, Kept
from excise.dissection.overlap import Chance
from excise.types import BoolArray, FloatArray, IntArray, Neuron

Unit = Literal["instance", "template"]
"""What is drawn: instances, or question templates with all their instances."""

_ENTRIES = 4_000_000
"""Scores held at once, 32 MB."""
_NEXT = 10
"""Neurons listed that were not excised and are selected most often."""


def drawn(
    instances: Sequence[str], templates: Sequence[str], unit: Unit, generator: np.random.Generator
) -> IntArray:
    """Places of instances drawn with replacement, in the order of the draw.

    Args:
        instances: [N] ids.
        templates: [N] template of each.
        unit: as many instances as there are, or as many templates.
        generator: the random numbers.

    Returns:
        [N] places; by template their number varies.
    """
    if unit == "instance":
        return generator.integers(len(instances), size=len(instances))
    names = list(dict.fromkeys(templates))
    members = {name: np.flatnonzero([t == name for t in templates]) for name in names}
    chosen = generator.integers(len(names), size=len(names))
    return np.concatenate([members[names[place]] for place in chosen])


Draw = tuple[IntArray, IntArray]
"""Places of instances and of instructions, in the order in which they were drawn."""


def aggregate(found: Contributions, draws: Sequence[Draw]) -> FloatArray:
    """Scores of the candidates from lists of instances and of instructions, with repetitions.

    What `excise.attribution.attribute` gives for these lists: the sum over prompts divided by both
    numbers; for `order = "batch"` the clamp is taken after each batch of the list.

    Args:
        found: the terms of every prompt.
        draws: [B] lists.

    Returns:
        [B, M] scores, up to float32.
    """
    largest = found.scale.max(initial=0.0) or 1.0
    if found.skill is not None:
        relative = found.scale / largest
        return np.stack([largest * _in_batches(found, relative, *draw) for draw in draws])
    weights = np.zeros((len(draws), *found.scale.shape))
    for row, (instances, instructions) in zip(weights, draws, strict=True):
        np.add.at(row, np.ix_(instructions, instances), 1 / (len(instances) * len(instructions)))
    weights *= found.scale / largest
    prompts = found.scale.size
    values = found.values.reshape(prompts, -1)
    return np.asarray(largest * _weighted(values, weights.reshape(-1, prompts)))


def _in_batches(
    found: Contributions, scale: FloatArray, instances: IntArray, instructions: IntArray
) -> FloatArray:
    """[M] for `order = "batch"`."""
    assert found.skill is not None
    total = np.zeros(len(found.candidates))
    size = found.config.batch_size
    for i in instructions:
        for start in range(0, len(instances), size):
            batch = instances[start : start + size]
            total += _weighted(found.values[i, batch], scale[i, batch])
            skill = _weighted(found.skill[i, batch], scale[i, batch])
            total -= found.config.skill_weight * skill.clip(min=0.0)
    return np.asarray(total / (len(instances) * len(instructions)))


def _weighted(values: Kept, weights: FloatArray) -> FloatArray:
    """[..., M] sums over P prompts of [P, M] by weights [..., P]."""
    return np.asarray(weights.astype(np.float32) @ values, dtype=np.float64)


def pooled(samples: Sequence[Contributions], draws: Sequence[Sequence[Draw]]) -> FloatArray:
    """[B, M] means over the find samples of several trials, as `selection.trials = "average"`.

    Args:
        samples: the terms of every prompt, by trial.
        draws: [B] lists for each of them.
    """
    scores = [aggregate(found, own) for found, own in zip(samples, draws, strict=True)]
    return np.asarray(np.mean(scores, axis=0))


def whole(samples: Sequence[Contributions]) -> FloatArray:
    """[M] scores of the samples as they are."""
    every = [[(np.arange(len(f.instances)), np.arange(len(f.instructions)))] for f in samples]
    return np.asarray(pooled(samples, every)[0])


def selected(scores: FloatArray, n: int, *, sign: str) -> BoolArray:
    """[M] whether each is among the first n; ties go to the earlier one, as in `selection.rank`."""
    key = {"signed": scores, "absolute": np.abs(scores), "ascending": -scores}[sign]
    if n <= 0:
        return np.zeros(len(scores), dtype=np.bool_)
    if n >= len(scores):
        return np.ones(len(scores), dtype=np.bool_)
    least = np.partition(key, len(key) - n)[len(key) - n]
    chosen = key > least
    chosen[np.flatnonzero(key == least)[: n - int(chosen.sum())]] = True
    return np.asarray(chosen)


def resampled(
    samples: Sequence[Contributions], *, unit: Unit, resamples: int, seed: int
) -> Iterator[FloatArray]:
    """Scores under resamples of find instances (or templates) and of instructions.

    Instructions are drawn with replacement, too, independently of the instances.

    Args:
        samples: the find sample of the trial, or of each trial whose scores are averaged.
        unit: what is drawn.
        resamples: how many.
        seed: start of the random numbers.

    Yields:
        [M] scores of each resample.
    """
    generator = np.random.default_rng([seed, 0 if unit == "instance" else 1])
    at_once = max(_ENTRIES // len(samples[0].candidates), 1)
    for start in range(0, resamples, at_once):
        draws: list[list[Draw]] = [[] for _ in samples]
        for _ in range(min(at_once, resamples - start)):
            for found, own in zip(samples, draws, strict=True):
                own.append(_draw(found, unit, generator))
        yield from pooled(samples, draws)


def _draw(found: Contributions, unit: Unit, generator: np.random.Generator) -> Draw:
    ids = [instance.id for instance in found.instances]
    templates = [instance.template for instance in found.instances]
    asked = drawn(found.instructions, found.instructions, "instance", generator)
    return drawn(ids, templates, unit, generator), asked


def stability(
    samples: Sequence[Contributions],
    excised: Sequence[Neuron],
    *,
    competing: int,
    sign: str,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, Any]:
    """How often each excised neuron is among the first n, as JSON values.

    Args:
        samples: what each prompt adds, one find sample a trial.
        excised: the n excised neurons; they must be candidates.
        competing: number of neurons that compete.
        sign: order of the ranking.
        resamples: of each kind.
        seed: start of the random numbers.
        level: of the interval of scores.

    Returns:
        See docs/dissection.md.
    """
    candidates, n = samples[0].candidates, len(excised)
    places = candidates.places(excised)
    found = whole(samples)
    reproduced = int(selected(found, n, sign=sign)[places].sum())
    frequency, jaccard, scores = {}, {}, np.zeros((resamples, n))
    for unit in ("instance", "template"):
        counted = np.zeros(len(candidates), dtype=np.int64)
        shared = np.zeros(resamples, dtype=np.int64)
        draws = resampled(samples, unit=unit, resamples=resamples, seed=seed)
        for draw, values in enumerate(draws):
            chosen = selected(values, n, sign=sign)
            counted += chosen
            shared[draw] = chosen[places].sum()
            if unit == "instance":
                scores[draw] = values[places]
        frequency[unit] = counted / resamples
        jaccard[unit] = _spread(shared / np.maximum(2 * n - shared, 1), level)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(scores, [tail, 100 - tail], axis=0) if n else (scores, scores)
    return {
        "n": n,
        "candidates": len(candidates),
        "competing": competing,
        "resamples": resamples,
        "level": level,
        "find_instances": [len(f.instances) for f in samples],
        "find_templates": [len({i.template for i in f.instances}) for f in samples],
        "find_instructions": [len(f.instructions) for f in samples],
        "reproduced": reproduced / n if n else None,
        "jaccard": jaccard,
        "expected_jaccard": Chance.of({"": (competing, n, n)}).jaccard,
        "neurons": [
            {
                "module": neuron.module,
                "index": neuron.index,
                "score": float(found[place]),
                "score_low": float(low[k]),
                "score_high": float(high[k]),
                "frequency": float(frequency["instance"][place]),
                "frequency_templates": float(frequency["template"][place]),
            }
            for k, (neuron, place) in enumerate(zip(excised, places, strict=True))
        ],
        "others": _others(candidates, frequency, found, set(places.tolist())),
    }


def _others(
    candidates: Candidates, frequency: Mapping[str, FloatArray], found: FloatArray, own: set[int]
) -> list[dict[str, Any]]:
    """Neurons that were not excised and would be most often."""
    order = np.argsort(-frequency["instance"], kind="stable")
    neurons = candidates.neurons
    return [
        {
            "module": neurons[place].module,
            "index": neurons[place].index,
            "score": float(found[place]),
            "frequency": float(frequency["instance"][place]),
            "frequency_templates": float(frequency["template"][place]),
        }
        for place in [int(p) for p in order if int(p) not in own][:_NEXT]
        if frequency["instance"][place] > 0
    ]


def _spread(values: FloatArray, level: float) -> dict[str, float]:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
