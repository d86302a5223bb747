"""The line of a dissection: how stable, which of them matter, where they lie, what drives them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from excise import __version__
from excise.attribution import attribute, competing_sites
from excise.config import DissectionConfig, RunConfig
from excise.dissection.candidates import Candidates, every_neuron, highest
from excise.dissection.contributions import Contributions, contributions
from excise.dissection.effects import Objective, TunePanel, one_by_one, part, smallest
from excise.dissection.items import item_tokens
from excise.dissection.overlap import all_pairs
from excise.dissection.peaks import described
from excise.dissection.places import where
from excise.dissection.resampling import stability
from excise.dissection.subjects import Subject, refuse_empty
from excise.methods import ATTRIBUTION_WORK
from excise.models import LoadedModel, Site
from excise.patches import Patch
from excise.progress import Progress, Silent
from excise.types import Neuron

SCHEMA_VERSION = 1
_MEGABYTE = 2**20
_GUARDED = "guarded"


@dataclass(frozen=True)
class Dissection:
    """What was found about the neurons of a patch."""

    record: Mapping[str, Any]
    """evidence.json: JSON values, described in docs/dissection.md."""
    minimal: Patch
    """The smallest part that keeps the effect; over several tasks, the union."""


def dissect(
    loaded: LoadedModel,
    subjects: Sequence[Subject],
    patch: Patch,
    *,
    progress: Progress | None = None,
) -> Dissection:
    """Examine the neurons of a patch on the find and tune splits.

    Of the test split, nothing is asked but which tokens of the shown items drive the neurons.

    Args:
        loaded: the unpatched model; comes back as it was.
        subjects: the patch of each task.
        patch: what is used in the end: their union.
        progress: who watches; work is counted in scored prompts.

    Raises:
        PatchError: the patches excise nothing.
        PatchMismatchError: they were made on another model.
        ConfigError: no neuron competes under the options of attribution.
        NonFiniteError: NaN or infinity in the model's answers or gradients.
    """
    progress = progress or Silent()
    refuse_empty(subjects)
    for entry in subjects:
        entry.patch.check(loaded)
    progress.plan(sum(_work(entry) for entry in subjects))
    start = time.perf_counter()
    found = {entry.task.name: _one(loaded, entry, progress) for entry in subjects}
    competing = competing_sites(loaded, subjects[0].config.attribution)
    sizes = {site.module: site.size for site in competing}
    minimal = reduce(or_, (one.minimal for one in found.values()))
    record = {
        "schema_version": SCHEMA_VERSION,
        "excise": __version__,
        "model": {"name": loaded.name, "digest": loaded.digest, "neurons": loaded.n_neurons},
        "config": subjects[0].config.dissection.model_dump(mode="json"),
        "tasks": {
            entry.task.name: {
                "method": entry.config.method,
                "trial": entry.trial,
                "neurons": len(entry.patch),
                "looked_at": len(_watched(entry)),
            }
            for entry in subjects
        },
        "neurons": [row for one in found.values() for row in one.summary()],
        "stability": {name: one.stability for name, one in found.items()},
        "overlap": {
            "trials": {
                entry.task.name: all_pairs(
                    {f"trial {n}": p.neurons for n, p in enumerate(entry.trials)}, sizes
                )
                for entry in subjects
                if len(entry.trials) > 1
            },
            "tasks": all_pairs({entry.task.name: entry.patch.neurons for entry in subjects}, sizes)
            if len(subjects) > 1
            else None,
        },
        "minimal": {
            "n": len(minimal),
            "of": len(patch),
            "tasks": {name: one.smallest for name, one in found.items()},
        },
        "leave_one_out": {name: one.without for name, one in found.items()},
        "alone": {name: one.alone for name, one in found.items()},
        "where": where(competing, patch.neurons),
        "tokens": {name: one.tokens for name, one in found.items()},
        "items": {name: one.items for name, one in found.items()},
        "cost": {
            "seconds": round(time.perf_counter() - start, 1),
            **{
                key: sum(one.cost[key] for one in found.values())
                for key in ("prompts_attributed", "prompts_scored", "sets_measured")
            },
            "tasks": {name: one.cost for name, one in found.items()},
        },
    }
    return Dissection(record, minimal)


@dataclass(frozen=True)
class _Found:
    """One task's part of the record."""

    task: str
    stability: dict[str, Any]
    without: dict[str, Any]
    alone: dict[str, Any]
    smallest: dict[str, Any]
    tokens: dict[str, Any]
    items: dict[str, list[list[Any]]]
    minimal: Patch
    cost: dict[str, Any]

    def summary(self) -> list[dict[str, Any]]:
        """One row a neuron: the numbers that a reader looks for first."""
        without = {_key(row): row for row in self.without["neurons"]}
        alone = {_key(row): row for row in self.alone["neurons"]}
        tokens = {_key(row): row for row in self.tokens["neurons"]}
        kept = {_key(row) for row in self.smallest["neurons"]}
        rows = []
        for entry in self.stability["neurons"]:
            key = _key(entry)
            rows.append(
                {
                    "task": self.task,
                    **{name: entry[name] for name in ("module", "index", "score")},
                    "stability": entry["frequency"],
                    "leave_one_out": without[key]["objective"] if key in without else None,
                    "alone": alone[key]["objective"] if key in alone else None,
                    "minimal": key in kept,
                    "tokens": [text["token"] for text in tokens[key]["texts"]]
                    if key in tokens
                    else [],
                }
            )
        return rows


def _one(loaded: LoadedModel, entry: Subject, progress: Progress) -> _Found:
    name, config, options = entry.task.name, entry.config, entry.config.dissection
    start = time.perf_counter()
    sites = competing_sites(loaded, config.attribution)
    competing = {site.module for site in sites}
    ranked = [neuron for neuron in entry.patch.neurons if neuron.module in competing]
    watched = [neuron for neuron in _watched(entry) if neuron.module in competing]
    progress.stage(f"{name}: attributing prompt by prompt")
    samples = _samples(loaded, entry, sites, watched, ranked, progress)
    stable = stability(
        samples,
        ranked,
        competing=sum(site.size for site in sites),
        sign=config.attribution.sign,
        resamples=options.resamples,
        seed=config.seed,
    )
    progress.stage(f"{name}: attributing asked items")
    items = item_tokens(
        loaded, entry, sites, watched, lambda prompts: progress.advance(prompts * ATTRIBUTION_WORK)
    )
    progress.stage(f"{name}: excising each neuron alone, and all but each")
    panel = TunePanel(
        loaded,
        entry.task,
        entry.patch,
        entry.tune,
        entry.tune_instructions,
        config.scoring,
        _objective(config),
        progress.advance,
    )
    with panel.ready():
        without, alone = one_by_one(panel, _watched(entry))
        progress.stage(f"{name}: looking for the smallest set that keeps the effect")
        minimal, how = smallest(panel, tolerance=options.tolerance, limit=options.evaluations)
    return _Found(
        task=name,
        stability=stable,
        without=without,
        alone=alone,
        smallest=how,
        tokens={"neurons": _tokens(loaded, samples, watched, sites)},
        items=items,
        minimal=minimal,
        cost={
            "seconds": round(time.perf_counter() - start, 1),
            "prompts_attributed": sum(found.scale.size for found in samples) + len(entry.shown),
            "prompts_scored": panel.asked * panel.prompts,
            "sets_measured": panel.asked,
            "tune_instances": len(entry.tune),
            "tune_instructions": len(entry.tune_instructions),
        },
    )


def _samples(
    loaded: LoadedModel,
    entry: Subject,
    sites: Sequence[Site],
    watched: Sequence[Neuron],
    ranked: Sequence[Neuron],
    progress: Progress,
) -> list[Contributions]:
    candidates = _candidates(loaded, entry, sites, ranked)
    return [
        contributions(
            loaded,
            entry.task,
            instances,
            entry.instructions,
            entry.config.attribution,
            sites=sites,
            candidates=candidates,
            watched=watched,
            end_token=entry.config.scoring.end_token,
            advance=lambda prompts: progress.advance(prompts * ATTRIBUTION_WORK),
        )
        for instances in entry.find
    ]


def _candidates(
    loaded: LoadedModel, entry: Subject, sites: Sequence[Site], ranked: Sequence[Neuron]
) -> Candidates:
    """All neurons, or as many as memory holds, the best ones of the whole find sample."""
    config = entry.config
    prompts = sum(map(len, entry.find)) * len(entry.instructions)
    each = prompts * 4 * (2 if config.attribution.order == "batch" else 1)
    fits = config.dissection.memory * _MEGABYTE // max(each, 1)
    if fits >= sum(site.size for site in sites):
        return every_neuron(sites)
    scores = entry.scores
    if scores is None or any(site.module not in scores for site in sites):
        own = attribute(
            loaded,
            entry.task,
            entry.find[0],
            config.attribution,
            instructions=entry.instructions,
            end_token=config.scoring.end_token,
        )
        scores = own.by_module
    return highest(sites, scores, max(fits, len(ranked)), ranked, sign=config.attribution.sign)


def _tokens(
    loaded: LoadedModel,
    samples: Sequence[Contributions],
    watched: Sequence[Neuron],
    sites: Sequence[Site],
) -> list[dict[str, Any]]:
    """The first sample's items; those of other trials would say the same of other items."""
    over_input = frozenset(site.module for site in sites if site.over_input)
    told = described(loaded, samples[0].peaks, samples[0].instances, over_input)
    return [
        {"module": n.module, "index": n.index, **told.get(n, {"peaks": [], "texts": []})}
        for n in watched
    ]


def _watched(entry: Subject) -> tuple[Neuron, ...]:
    """The neurons of the highest scores, in the patch's order."""
    patch = entry.patch
    order = sorted(range(len(patch)), key=lambda n: -patch.scores[n])
    kept = {patch.neurons[n] for n in order[: entry.config.dissection.neurons]}
    return part(patch, kept).neurons


def _objective(config: RunConfig) -> Objective:
    options: DissectionConfig = config.dissection
    if config.scoring.mode == "generation":
        return "accuracy"
    if options.objective == "auto":
        return "log_share" if config.method == _GUARDED else "accuracy"
    return options.objective


def _work(entry: Subject) -> int:
    """Estimated work, in units of one scored prompt."""
    attributed = sum(map(len, entry.find)) * len(entry.instructions) + len(entry.shown)
    sets = 2 + 2 * len(_watched(entry)) + len(entry.patch)
    return attributed * ATTRIBUTION_WORK + sets * len(entry.tune) * len(entry.tune_instructions)


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["module"], row["index"]
