"""The report of one run: verdict, tables, plots, items, methods and provenance on one page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from excise.errors import PatchError
from excise.evidence import StoredRun
from excise.patches import Patch
from excise.report.answers import answers, weighed
from excise.report.changes import changes
from excise.report.curve import tune_curve
from excise.report.forest import forest
from excise.report.neurons import drivers, neuron_rows
from excise.report.notes import POOLED, notes
from excise.report.numbers import UNDEFINED, Row
from excise.report.page import embedded, page
from excise.report.pareto import pareto
from excise.report.places import places_map
from excise.report.provenance import (
    LIMITS,
    METHOD_CITATION,
    command,
    facts,
    methods,
    sources,
)
from excise.report.story import CONTEXTS, tell

EVIDENCE_FILE = "evidence.json"
"""What a run may know beside its numbers; see docs/report.md."""


def report(stored: StoredRun) -> str:
    """The page of a run.

    Args:
        stored: a run folder.

    Returns:
        HTML that needs no other file and no network.

    Raises:
        RunFolderError: answers are missing or damaged.
    """
    evidence = _evidence(stored)
    patch = _patch(stored)
    n_excised = None if patch is None else len(patch)
    model = stored.run["model"]
    paired = stored.results["paired"]
    labels = [name for name in (POOLED, *stored.tasks) if name in paired]
    items = [answers(stored, task, drivers(evidence, task)) for task in stored.tasks]
    return page(
        "report.html.j2",
        model=str(model.get("name")),
        tasks=list(stored.tasks),
        n_excised=n_excised,
        n_neurons=model.get("neurons"),
        method=str(stored.run["config"].get("method", "crispr")),
        story=tell(
            "all tasks" if POOLED in paired else stored.tasks[0],
            paired[labels[0]],
            n_excised=n_excised,
        ),
        contexts=CONTEXTS
        if "accuracy_ambiguous" in {r["metric"] for r in paired[labels[0]]}
        else "",
        notes=notes(stored.run, stored.results, n_excised=n_excised),
        parts_of=[_part(stored, name) for name in labels],
        places=None if patch is None else places_map(patch, stored.scores),
        neurons=neuron_rows(evidence),
        n_items=sum(len(part["items"]) for part in items),
        items=embedded(items),
        compared=weighed(stored, stored.tasks[0]),
        methods=methods(stored),
        limits=LIMITS,
        facts=facts(stored),
        sources=sources(stored),
        command=command(stored),
        method_citation=METHOD_CITATION,
        undefined=UNDEFINED,
    )


def verdict(stored: StoredRun) -> dict[str, Any]:
    """The story of a run as JSON values: headline, summary, and one finding for each metric."""
    paired = stored.results["paired"]
    patch = _patch(stored)
    name = POOLED if POOLED in paired else stored.tasks[0]
    story = tell(name, paired[name], n_excised=None if patch is None else len(patch))
    return {
        "headline": story.headline,
        "summary": story.summary,
        "findings": [
            {"metric": f.row["metric"], "verdict": f.kind, "text": f.sentence}
            for f in story.findings
        ],
    }


def _part(stored: StoredRun, name: str) -> dict[str, Any]:
    """One task, or all of them pooled."""
    rows: list[Row] = stored.results["paired"][name]
    by_metric = {row["metric"]: row for row in rows}
    pooled = name == POOLED
    trials = [] if pooled else stored.run["tasks"][name].get("trials") or []
    values = stored.results["results"].get(name, {})
    unions = {
        key.removesuffix(",union"): value for key, value in values.items() if key.endswith(",union")
    }
    told = tell(name, rows)
    return {
        "name": f"All {len(stored.tasks)} tasks, each with its own patch" if pooled else name,
        "pooled": pooled,
        "story": told,
        "rows": [finding.row for finding in told.findings],
        "more": [row for row in rows if row not in [f.row for f in told.findings]],
        "clusters": max((row["n_clusters"] for row in rows), default=0),
        "curve": tune_curve(trials, stored.best_trial(name)) if trials else None,
        "pareto": None if pooled else pareto(by_metric, unions),
        "forest": forest(rows),
        "changes": changes(stored.results.get("changes", {}).get(name)),
    }


def _patch(stored: StoredRun) -> Patch | None:
    try:
        return stored.patch
    except PatchError:
        return None


def _evidence(stored: StoredRun) -> Mapping[str, Any]:
    """evidence.json, or nothing where it is missing or no JSON object."""
    try:
        found = json.loads((stored.path / EVIDENCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
