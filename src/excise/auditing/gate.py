"""Hold a run against declared limits: may this patch pass?

Decisions are made on intervals, not on points. A loss limit passes only if even the bad end of the
interval stays within it, and fails only if even the good end is beyond it; in between the run holds
no evidence. A wanted gain is the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from excise.errors import ConfigError, RunFolderError, UnknownNameError
from excise.evidence import MANIFEST_FILE, StoredRun, check_manifest, open_run
from excise.metrics import METRICS, Metric

POOLED = "(all tasks)"
"""The entry of `results.json` that pools the tasks of a run."""

Kind = Literal["max-loss", "min-gain"]
Verdict = Literal["pass", "fail", "no evidence"]


@dataclass(frozen=True)
class Limit:
    """One condition: a metric of one task, or of every task that has it."""

    kind: Kind
    metric: str
    amount: float
    """In the metric's own unit: 0.02 is two percentage points of a share."""
    task: str | None = None
    """None: every task of the folder that has the metric."""

    @classmethod
    def parse(cls, kind: Kind, name: str, amount: float) -> Limit:
        """A limit from `METRIC` or `TASK:METRIC`.

        Raises:
            UnknownNameError: there is no such metric.
            ConfigError: the amount is negative.
        """
        task, colon, metric = name.rpartition(":")
        if metric not in METRICS:
            raise UnknownNameError("metric", metric, METRICS)
        if not 0 <= amount < float("inf"):
            raise ConfigError(f"--{kind} {name}={amount:g}: the amount must be at least 0.")
        return cls(kind, metric, amount, task if colon else None)


@dataclass(frozen=True)
class Decision:
    """One limit on one task, decided."""

    kind: Kind
    task: str
    metric: str
    amount: float
    verdict: Verdict
    change: float | None
    """Gain (positive) or loss (negative) of the patched model, seen from the metric's ideal."""
    low: float | None
    """Lower end of the change's interval."""
    high: float | None
    reason: str
    """In words."""

    @property
    def name(self) -> str:
        """The condition as a title."""
        sign = "<=" if self.kind == "max-loss" else ">="
        word = "loss" if self.kind == "max-loss" else "gain"
        return f"{self.task}: {word} of {self.metric} {sign} {self.amount:g}"


@dataclass(frozen=True)
class Gate:
    """All decisions on a folder."""

    path: Path
    decisions: tuple[Decision, ...]
    on_no_evidence: Literal["fail", "pass"]

    def stops(self, decision: Decision) -> bool:
        """Whether a decision alone keeps the gate shut."""
        if decision.verdict == "no evidence":
            return self.on_no_evidence == "fail"
        return decision.verdict == "fail"

    @property
    def passed(self) -> bool:
        """Whether no decision keeps it shut."""
        return not any(self.stops(decision) for decision in self.decisions)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "folder": str(self.path),
            "passed": self.passed,
            "on_no_evidence": self.on_no_evidence,
            "decisions": [
                {**asdict(decision), "name": decision.name, "stops": self.stops(decision)}
                for decision in self.decisions
            ],
        }


def gate(
    path: str | Path, limits: Sequence[Limit], *, on_no_evidence: Literal["fail", "pass"] = "fail"
) -> Gate:
    """Decide every limit on the paired differences that a folder records.

    Args:
        path: a folder of `excise run`, or of `excise evaluate --patch --out`.
        limits: at least one.
        on_no_evidence: what an interval that decides nothing counts as.

    Raises:
        RunFolderError: no such folder, or one whose files are not those that were written.
        ConfigError: no limit, a task or metric that the folder does not have.
    """
    if not limits:
        raise ConfigError("no limit is given; use --max-loss or --min-gain.")
    stored = open_run(path, evaluation=True)
    if (stored.path / MANIFEST_FILE).is_file() and (problems := check_manifest(stored.path)):
        first = problems[0]
        raise RunFolderError(
            f"{stored.path}: {first.file}: {first.what}; no decision is made on changed files. "
            "Restore it; see `excise verify --files-only`."
        )
    paired = _paired(stored)
    found = [decision for limit in limits for decision in _decisions(limit, paired, stored.path)]
    return Gate(stored.path, tuple(found), on_no_evidence)


def _paired(stored: StoredRun) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Task -> metric -> the recorded paired difference."""
    paired = {
        task: {entry["metric"]: entry for entry in entries}
        for task, entries in stored.results.get("paired", {}).items()
    }
    if not any(paired.values()):
        raise ConfigError(
            f"{stored.path} compares nothing: it holds no patched model; use `excise run`, or "
            "`excise evaluate --patch PATCH --out DIR`."
        )
    return paired


def _decisions(
    limit: Limit, paired: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path
) -> Iterator[Decision]:
    tasks = [limit.task] if limit.task is not None else [t for t in paired if t != POOLED]
    if limit.task is not None and limit.task not in paired:
        raise UnknownNameError(f"task of {path}", limit.task, paired)
    having = [task for task in tasks if limit.metric in paired[task]]
    if not having:
        known = sorted({name for task in tasks for name in paired[task]})
        raise UnknownNameError(f"metric of {', '.join(tasks)}", limit.metric, known)
    for task in having:
        yield decide(limit, task, paired[task][limit.metric])


def decide(limit: Limit, task: str, entry: Mapping[str, Any]) -> Decision:
    """Decide one limit on one recorded difference.

    Args:
        limit: the condition.
        task: which task's difference it is.
        entry: `original`, `patched`, `difference`, `low` and `high` of the paired difference.
    """
    change, low, high = change_of(METRICS[limit.metric], entry)
    verdict: Verdict
    if low is None or high is None or change is None:
        verdict, reason = "no evidence", "there is no interval: too few question templates"
    elif limit.kind == "max-loss":
        # What is lost lies between -high and -low.
        if -low <= limit.amount:
            verdict, reason = "pass", _kept(low)
        elif -high > limit.amount:
            verdict, reason = "fail", f"even the good end loses {_loss(high)}"
        else:
            verdict, reason = "no evidence", f"the loss may be as large as {_loss(low)}"
    elif low >= limit.amount:
        verdict, reason = "pass", f"even the bad end gains {low:.4g}"
    elif high < limit.amount:
        verdict, reason = "fail", f"even the good end gains {high:.4g} only"
    else:
        verdict, reason = "no evidence", f"the gain may be as small as {low:.4g}"
    return Decision(
        limit.kind, task, limit.metric, limit.amount, verdict, change, low, high, reason
    )


def _kept(low: float) -> str:
    """Why a loss limit holds, from the bad end of the difference."""
    return (
        "even the bad end loses nothing" if low >= 0 else f"even the bad end loses {-low:.4g} only"
    )


def _loss(change: float) -> str:
    return f"{max(-change, 0.0):.4g}"


def change_of(
    metric: Metric, entry: Mapping[str, Any]
) -> tuple[float | None, float | None, float | None]:
    """Gain towards the metric's ideal, with its interval; negative is a loss.

    Where the ideal is a number, the gain is how much nearer the patched value lies to it, with the
    original value taken as it is and the ends of the difference's interval put through the
    distance.
    """
    difference, low, high = entry["difference"], entry["low"], entry["high"]
    if difference is None:
        return None, None, None
    if metric.ideal == "max":
        return difference, low, high
    if metric.ideal == "min":
        flipped = (None if low is None else -low), (None if high is None else -high)
        return -difference, flipped[1], flipped[0]
    offset = entry["original"] - metric.ideal

    def nearer(change: float) -> float:
        return float(abs(offset) - abs(offset + change))

    if low is None or high is None:
        return nearer(difference), None, None
    # Distance is largest at an end, and smallest at the ideal where the interval holds it.
    best = abs(offset) if low <= -offset <= high else max(nearer(low), nearer(high))
    return nearer(difference), min(nearer(low), nearer(high)), best
