"""Methods in words, limits, and where every number comes from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from excise.evidence import StoredRun
from excise.report.numbers import counted

Document = Mapping[str, Any]

METHOD_CITATION = (
    "Yang et al. (2024), Mitigating Biases for Instruction-following Language Models via Bias "
    "Neurons Elimination, ACL 2024"
)

_LOCATED = {
    "crispr": "Every neuron was scored by activation times gradient: what it adds to the most "
    "probable wrong option, minus what it adds to the right one.",
}

_LIMITED = {
    "guarded": "Candidate neurons were proposed cheaply, measured one by one on items of find and "
    "tune, and excised or scaled only where the objective improved within the declared limits on "
    "damage.",
    "gated": "Outputs of neurons were multiplied by factors that were learned by gradient on some "
    "templates of find and tune; those of other templates decided how far to go within the "
    "declared limits on damage.",
}
"""Methods that use find and tune together."""

LIMITS = (
    "A benchmark measures what its items ask, in the language and the society they were written "
    "for. A patch found on one benchmark may do nothing, or harm, on another.",
    "Where “unknown” is the right answer in half of the items, accuracy also rewards a model that "
    "merely says “unknown” more often: read the decided contexts beside the open ones.",
    "Intervals speak about other questions of the same kind. They rest on question templates, so "
    "few templates make them wide, and they know nothing about other models or other wordings.",
    "No evidence of a change is not evidence of no change: a small effect may be there that this "
    "many items cannot show.",
)


def methods(stored: StoredRun) -> list[str]:
    """How the numbers came about, a few sentences to a paragraph."""
    config, results = stored.run["config"], stored.results
    name = config.get("method", "crispr")
    by = "question template" if config["split_by"] == "template" else "example"
    trials = config["trials"]
    located = _LOCATED.get(name, f"Neurons were found by the method {name}.")
    selection = config["selection"]
    number = (
        "how many to excise was chosen on the tune split, none being a possible answer"
        if selection["n"] == "auto"
        else f"the first {selection['n']} were excised"
    )
    patch = config.get("patch", {})
    removal = {"mean": "replaced by their mean"}.get(patch.get("removal", "zero"), "set to zero")
    asked = ", ".join(
        f"{task}: {counted(sizes['effective'], 'item')} of {sizes['original']:,}"
        for task, sizes in results.get("n-samples", {}).items()
    )
    told = max(len(task["instructions"]) for task in stored.run["tasks"].values())
    mode = config["scoring"]["mode"]
    answer = (
        "the option with the highest log-likelihood counts as the answer"
        if mode == "scoring"
        else "the option that a generated text names counts as the answer"
    )
    controls = config["controls"]
    controlled = (
        f"{counted(controls, 'random control')} excised as many random neurons of the same modules."
        if controls
        else "No random controls were drawn."
    )
    resamples = config["resamples"]
    kept = [Path(task).name for task in config.get("gate", {}).get("keep", ())]
    beside = (
        f" Questions of {', '.join(kept)} whose context decides the answer were taught, too."
        if kept and name == "gated"
        else ""
    )
    found = (
        f"{_LIMITED[name]}{beside}"
        if name in _LIMITED
        else f"{located} This used the find split only; {number}. The outputs of the excised "
        f"neurons were {removal}."
    )
    return [
        f"Items were split by {by} into find, tune and test. {found} "
        f"{counted(trials, 'trial')} drew find and tune anew.",
        f"The test split was asked last ({asked}), in {counted(told, 'wording')} of the "
        f"instruction; {answer}. Original, patched and control models got the same items. "
        f"{controlled}",
        "Differences are paired, patched minus original. Intervals come from a bootstrap over "
        f"question templates with {resamples:,} resamples. Other verdicts than those of intervals, "
        "and p-values, are stated where the run has them.",
    ]


def facts(stored: StoredRun) -> list[tuple[str, str]]:
    """Names and values that identify a run: digests, versions, date."""
    run = stored.run
    found = [
        ("Model", str(run["model"].get("name"))),
        ("Weights (sha256)", str(run["model"].get("digest"))),
    ]
    for name, task in run["tasks"].items():
        found.append((f"Data of {name} (sha256)", str(task.get("data_digest"))))
        trials = task.get("trials") or [{}]
        split = trials[stored.best_trial(name)].get("split") or {}
        found += [
            (f"{name}, {part} split", str(split[part]))
            for part in ("find", "test")
            if part in split
        ]
    found += [
        ("excise", str(run.get("excise"))),
        ("Date (UTC)", str(run.get("date", "unknown"))),
        ("Seeds", f"seed {run['config']['seed']}, split seed {run['config']['split_seed']}"),
        ("Preset", str(run["config"].get("preset"))),
    ]
    code = run.get("code")
    if isinstance(code, Mapping):
        found += [(f"Code, {key}", str(value)) for key, value in code.items()]
    environment = run.get("environment", {})
    if environment:
        found.append(("Environment", ", ".join(f"{k} {v}" for k, v in environment.items())))
    return found


def sources(stored: StoredRun) -> list[tuple[str, str, str]]:
    """Task, licence and citation of every dataset."""
    return [
        (name, str(task.get("licence") or "not stated"), str(task.get("citation") or "not stated"))
        for name, task in stored.run["tasks"].items()
    ]


def command(stored: StoredRun) -> str:
    """The command that repeats the run."""
    return f"excise run --config {shlex.quote(f'{stored.path.name}/config.toml')} --out again"
