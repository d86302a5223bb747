"""Two runs item by item: what changed, what was fixed, what was broken, and what differs else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from excise.auditing.rebuilding import metric_names
from excise.errors import ConfigError, NonFiniteError, RunFolderError
from excise.evidence import StoredRun, open_run
from excise.metrics import METRICS
from excise.patches import Patch
from excise.statistics import Pair, PooledEstimate, pooled_difference
from excise.types import Predictions

_STATES = ("original", "patched")
_COUNTS = ("answers", "changed", "fixed", "broken", "to_unknown", "from_unknown")


@dataclass(frozen=True)
class TaskDifference:
    """One state of one task in both runs. Counts are of answers: item x instruction x trial."""

    task: str
    state: str
    answers: int
    changed: int
    """Another option was chosen."""
    fixed: int
    """Wrong in the first run, right in the second."""
    broken: int
    """Right in the first run, wrong in the second."""
    to_unknown: int
    """Changed to the "unknown" option."""
    from_unknown: int
    metrics: tuple[PooledEstimate, ...]
    """`original` is the first run, `patched` the second; intervals over question templates."""
    items: tuple[Mapping[str, Any], ...]
    """Every changed answer: item, instruction, trial, both choices, and what became of it."""


@dataclass(frozen=True)
class Difference:
    """Two folders compared."""

    first: Path
    second: Path
    tasks: tuple[TaskDifference, ...]
    refused: Mapping[str, str]
    """Task -> why it cannot be compared."""
    config: Mapping[str, tuple[Any, Any]]
    """Option -> its values, where they differ."""
    environment: Mapping[str, tuple[Any, Any]]
    """Model, versions and code, where they differ."""
    neurons: Mapping[str, int]
    """Excised neurons of both, of the first only, of the second only; empty without patches."""
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        document = asdict(self)
        return document | {
            "first": str(self.first),
            "second": str(self.second),
            "tasks": [
                {**entry, "metrics": list(entry["metrics"]), "items": list(entry["items"])}
                for entry in document["tasks"]
            ],
        }


def diff(first: str | Path, second: str | Path) -> Difference:
    """Compare two folders item by item.

    Tasks are compared where both asked the same items of the same data under the same
    instructions. Where both have as many trials, trials are compared pair by pair, else the two
    that were kept. Differences are second minus first.

    Args:
        first: a folder of `excise run`, or of `excise evaluate --out`.
        second: another one.

    Raises:
        RunFolderError: one of them is none of these, or damaged.
        ConfigError: there is nothing to compare: the same folder twice, the same model twice, or
            no task in common; says which.
    """
    one, other = open_run(first, evaluation=True), open_run(second, evaluation=True)
    if one.path.resolve() == other.path.resolve():
        raise ConfigError(
            f"{one.path} is compared with itself; `excise verify` says whether a run repeats."
        )
    common = [task for task in one.tasks if task in other.tasks]
    if not common:
        raise ConfigError(
            f"no task in common: {one.path} has {', '.join(one.tasks)}, {other.path} has "
            f"{', '.join(other.tasks)}."
        )
    _refuse_identical(one, other, common)
    refused: dict[str, str] = {}
    found: list[TaskDifference] = []
    for task in common:
        reason = _incomparable(one, other, task)
        if reason:
            refused[task] = reason
            continue
        for state in _STATES:
            pairs = list(_pairs(one, other, task, state))
            if pairs:
                found.append(_difference(one, other, task, state, pairs))
    if not found:
        task, reason = next(iter(refused.items()))
        raise ConfigError(f"nothing can be compared: {task}: {reason}.")
    left = set(one.tasks) ^ set(other.tasks)
    notes = [f"{task} is in one of them only." for task in sorted(left)]
    return Difference(
        one.path,
        other.path,
        tuple(found),
        refused,
        _differing(_flat(one.run["config"]), _flat(other.run["config"])),
        _differing(_environment(one), _environment(other)),
        _neurons(one, other),
        tuple(notes),
    )


def _refuse_identical(one: StoredRun, other: StoredRun, tasks: Sequence[str]) -> None:
    """The same weights, patches and way of asking twice: every difference would be rounding."""
    if one.kind != "run" or other.kind != "run":
        return
    decides = ("scoring", "dtype", "apply_chat_template")
    same = (
        one.run["model"]["digest"] == other.run["model"]["digest"]
        and all(one.run["config"].get(name) == other.run["config"].get(name) for name in decides)
        and len(one.tasks) == len(other.tasks)
        and all(_patches(one, task) == _patches(other, task) for task in tasks)
    )
    if same:
        raise ConfigError(
            f"{one.path} and {other.path} hold the same model (weights "
            f"{one.run['model']['digest'][:12]}) with the same patches, so there is nothing to "
            "compare; `excise verify` says whether a run repeats."
        )


def _patches(stored: StoredRun, task: str) -> list[dict[Any, float]]:
    trials = range(len(stored.run["tasks"][task]["trials"]))
    return [dict(stored.trial_patch(task, trial).by_neuron) for trial in trials]


def _incomparable(one: StoredRun, other: StoredRun, task: str) -> str:
    """Why a task cannot be compared; empty where it can."""
    here, there = one.run["tasks"][task], other.run["tasks"][task]
    if here["data_digest"] != there["data_digest"]:
        return "the data differ (another sha256)"
    if list(here["instructions"]) != list(there["instructions"]):
        return "the instructions differ"
    if (
        here.get("prompt_format", "")
        and there.get("prompt_format", "")
        and (here["prompt_format"] != there["prompt_format"])
    ):
        return "the prompt formats differ"
    try:
        first, second = one.predictions(task, "original"), other.predictions(task, "original")
    except RunFolderError:
        return "its answers are no choices between options"
    ids, others = ([i.id for i in said.instances] for said in (first, second))
    if set(ids) != set(others):
        return f"{len(set(ids) ^ set(others))} items were asked in one of them only"
    if first.instructions != second.instructions:
        return "the instructions differ"
    return ""


def _pairs(
    one: StoredRun, other: StoredRun, task: str, state: str
) -> Iterator[tuple[int | None, Predictions, Predictions]]:
    """Answers of both, the items in the first one's order; trials where there are several."""
    here, there = (
        [trial for name, found, trial in stored.states if (name, found) == (task, state)]
        for stored in (one, other)
    )
    if not here or not there:
        return
    if len(here) != len(there):
        here, there = [None], [None]  # the kept ones
    for first, second in zip(here, there, strict=True):
        said = one.predictions(task, state, first)
        answer = other.predictions(task, state, second)
        yield first, said, _ordered(answer, said)


def _ordered(answer: Predictions, like: Predictions) -> Predictions:
    place = {instance.id: n for n, instance in enumerate(answer.instances)}
    order = np.array([place[instance.id] for instance in like.instances], dtype=np.int64)

    def taken(table: Any) -> Any:
        return None if table is None else table[:, order]

    return Predictions(
        like.instances,
        answer.instructions,
        answer.choice[:, order],
        taken(answer.log_likelihood),
        taken(answer.n_tokens),
        taken(answer.compared),
        answer.variant,
    )


def _difference(
    one: StoredRun,
    other: StoredRun,
    task: str,
    state: str,
    pairs: Sequence[tuple[int | None, Predictions, Predictions]],
) -> TaskDifference:
    counts = dict.fromkeys(_COUNTS, 0)
    items: list[dict[str, Any]] = []
    for trial, before, after in pairs:
        counts["answers"] += before.choice.size
        for i, n in np.argwhere(before.choice != after.choice).tolist():
            instance = before.instances[n]
            first, second = int(before.choice[i, n]), int(after.choice[i, n])
            became = _became(first, second, instance.gold)
            counts["changed"] += 1
            if became in ("fixed", "broken"):
                counts[became] += 1
            unknown = instance.unknown
            counts["to_unknown"] += unknown is not None and second == unknown
            counts["from_unknown"] += unknown is not None and first == unknown
            items.append(
                {
                    "instance": instance.id,
                    "template": instance.template,
                    "condition": instance.condition,
                    "instruction": i,
                    "trial": trial,
                    "first": first,
                    "second": second,
                    "first_option": instance.options[first] if first >= 0 else None,
                    "second_option": instance.options[second] if second >= 0 else None,
                    "gold": instance.gold,
                    "became": became,
                }
            )
    names = [name for name in metric_names(one, task) if name in metric_names(other, task)]
    metrics = tuple(_estimates(one, task, names, pairs))
    return TaskDifference(task, state, **counts, metrics=metrics, items=tuple(items))


def _became(first: int, second: int, gold: int) -> str:
    if gold < 0:
        return "changed"
    return "fixed" if second == gold else "broken" if first == gold else "changed"


def _estimates(
    one: StoredRun,
    task: str,
    names: Sequence[str],
    pairs: Sequence[tuple[int | None, Predictions, Predictions]],
) -> Iterator[PooledEstimate]:
    config = one.config
    for name in names:
        if name not in METRICS:
            continue  # of another version
        try:
            found = pooled_difference(
                METRICS[name].function,
                [Pair(before, after, task) for _, before, after in pairs],
                metric_name=name,
                n_resamples=config.resamples,
                seed=config.seed,
            )
        except NonFiniteError:
            continue
        if found.difference is not None:
            yield found


def _neurons(one: StoredRun, other: StoredRun) -> dict[str, int]:
    if one.kind != "run" or other.kind != "run":
        return {}
    here, there = _settings(one.patch), _settings(other.patch)
    return {
        "both": len(here & there),
        "first only": len(here - there),
        "second only": len(there - here),
    }


def _settings(patch: Patch) -> set[Any]:
    return set(patch.by_neuron.items())


def _environment(stored: StoredRun) -> dict[str, Any]:
    model = stored.run["model"]
    return {
        "model": model.get("name"),
        "model digest": model.get("digest"),
        "excise": stored.run.get("excise"),
        "code digest": stored.run.get("code", {}).get("digest"),
        **stored.run.get("environment", {}),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*first, *second))
    return {
        name: (first.get(name), second.get(name))
        for name in names
        if first.get(name) != second.get(name)
    }
