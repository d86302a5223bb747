"""Every test item with both models' answers, as compact JSON values for the item browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from excise.evidence import StoredRun
from excise.report.neurons import visible
from excise.types import FloatArray, Instance, Predictions

_CONTEXTS = {"ambiguous": 0, "disambiguated": 1}
_OPTION_FIELDS = ("options", "instruction")
"""Fields that repeat what is shown beside them."""


def answers(stored: StoredRun, task: str, drivers: Mapping[str, Any]) -> dict[str, Any]:
    """The items of one task under the original and the kept patch.

    Args:
        stored: a run folder.
        task: a task of it.
        drivers: instance -> the tokens that drove the attribution, [[token, weight], ...].

    Returns:
        `instructions`, the number `trial` of the patch (from 1; None with one trial only), and
        `items`. An item is [id, template, group, context, options, gold, unknown, stereotyped,
        fields, answers, tokens] where context is 0 (ambiguous), 1 (disambiguated) or -1, fields
        are [name, text] pairs, tokens may be None, and answers holds for each instruction
        [choice before, choice after, shares before, shares after, P before, P after]. Shares are
        those of what the options were compared by (their probability, or that per token), over
        the options, in thousandths; P is the sum of their probabilities; both are None where
        answers were generated.

    Raises:
        RunFolderError: rows are missing or damaged.
    """
    before = stored.predictions(task, "original")
    after = stored.predictions(task, "patched")
    shares = [_shares(state) for state in (before, after)]
    trials = len(stored.run["tasks"][task].get("trials") or ())
    return {
        "task": task,
        "instructions": list(before.instructions),
        "trial": stored.best_trial(task) + 1 if trials > 1 else None,
        "items": [
            [
                *_described(instance),
                [_answer(before, after, shares, i, n) for i in range(len(before.instructions))],
                _tokens(drivers.get(instance.id)),
            ]
            for n, instance in enumerate(before.instances)
        ],
    }


def weighed(stored: StoredRun, task: str) -> str:
    """In words, what the options of a task were compared by."""
    state = stored.predictions(task, "original")
    if state.log_likelihood is None or state.compared is None:
        return "their probabilities"
    if np.array_equal(state.log_likelihood, state.compared, equal_nan=True):
        return "their probabilities"
    unit = "byte" if stored.config.scoring.normalisation == "per_byte" else "token"
    return f"their probabilities per {unit} (geometric mean)"


def _described(instance: Instance) -> list[Any]:
    fields = [[k, v] for k, v in instance.fields.items() if k not in _OPTION_FIELDS and v]
    return [
        instance.id,
        instance.template,
        instance.group,
        _CONTEXTS.get(instance.condition or "", -1),
        list(instance.options),
        instance.gold,
        -1 if instance.unknown is None else instance.unknown,
        -1 if instance.stereotyped is None else instance.stereotyped,
        fields,
    ]


_Shares = tuple[FloatArray, FloatArray] | None


def _shares(state: Predictions) -> _Shares:
    """[I, N, C] share of each option in what was compared, and [I, N] the sum of their P."""
    if state.log_likelihood is None:
        return None
    compared = state.log_likelihood if state.compared is None else state.compared
    shares, _ = _softmax(compared)
    _, total = _softmax(state.log_likelihood)
    return shares, total


def _softmax(logarithms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Shares of the exponentials over the last axis, and their sum; NaN counts as none."""
    values = np.where(np.isnan(logarithms), -np.inf, logarithms)
    # Shifted by the largest, so that exp does not underflow for long options.
    largest = np.maximum(values.max(axis=-1, keepdims=True), -1e300)
    relative = np.exp(values - largest)
    total = relative.sum(axis=-1, keepdims=True)
    shares = np.divide(relative, total, out=np.zeros_like(relative), where=total > 0)
    return shares, (total * np.exp(largest))[..., 0]


def _answer(
    before: Predictions, after: Predictions, shares: list[_Shares], i: int, n: int
) -> list[Any]:
    width = len(before.instances[n].options)
    told = [None if s is None else np.rint(1000 * s[0][i, n, :width]).astype(int) for s in shares]
    sums = [None if s is None else float(f"{s[1][i, n]:.2g}") for s in shares]
    return [
        int(before.choice[i, n]),
        int(after.choice[i, n]),
        *(None if values is None else values.tolist() for values in told),
        *sums,
    ]


def _tokens(found: Any) -> list[list[Any]] | None:
    """[[token, weight], ...] out of what evidence.json holds; None where it is anything else."""
    if not isinstance(found, list):
        return None
    pairs = [
        [visible(str(pair[0])), round(float(pair[1]), 4)]
        for pair in found
        if isinstance(pair, list | tuple)
        and len(pair) == 2
        and isinstance(pair[1], int | float)
        and np.isfinite(pair[1])
    ]
    return pairs or None
