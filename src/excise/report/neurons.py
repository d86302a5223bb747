"""What evidence.json says about single neurons and about the texts that drive them.

`excise dissect` writes that file; every entry is optional, and what is not understood is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_LISTED = 100
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Example:
    """A text with the token at which a neuron speaks most for the biased option."""

    instance: str
    before: str
    token: str
    after: str


@dataclass(frozen=True, slots=True)
class NeuronRow:
    """One excised neuron with what is known about it."""

    name: str
    score: str
    stability: str
    """Share of the trials, or of resamples, that excised it too."""
    effect: str
    """Objective on the tune split with all but this one excised, minus that with all."""
    minimal: bool
    """Whether the smallest set that keeps the effect holds it."""
    tokens: str
    """The tokens that drive it, the strongest first."""
    examples: tuple[Example, ...]


def neuron_rows(evidence: Mapping[str, Any]) -> list[NeuronRow]:
    """The neurons of evidence.json, at most a hundred.

    Args:
        evidence: the file's content; empty where there is none.
    """
    listed = evidence.get("neurons")
    if not isinstance(listed, list):
        return []
    found = _examples(evidence)
    return [
        NeuronRow(
            f"{entry['module']}[{entry['index']}]",
            _number(entry.get("score"), "{:.3g}"),
            _number(entry.get("stability"), "{:.0%}"),
            _number(entry.get("leave_one_out"), "{:+.3f}"),
            entry.get("minimal") is True,
            ", ".join(_words(entry.get("tokens"))),
            tuple(found.get((entry.get("task"), entry["module"], entry["index"]), ())),
        )
        for entry in listed[:_LISTED]
        if isinstance(entry, Mapping)
        and isinstance(entry.get("module"), str)
        and isinstance(entry.get("index"), int)
    ]


def drivers(evidence: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Instance -> [[token, weight], ...] of one task's items; empty without the file."""
    tasks = evidence.get("items")
    found = tasks.get(task) if isinstance(tasks, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _examples(evidence: Mapping[str, Any]) -> dict[tuple[Any, Any, Any], list[Example]]:
    found: dict[tuple[Any, Any, Any], list[Example]] = {}
    tasks = evidence.get("tokens")
    for task in tasks if isinstance(tasks, Mapping) else ():
        for neuron, peak in _peaks(evidence, task):
            listed = found.setdefault((task, neuron.get("module"), neuron.get("index")), [])
            if len(listed) < _EXAMPLES:
                before, token, after = (
                    str(peak.get(name, "")) for name in ("before", "token", "after")
                )
                instance = str(peak.get("instance", ""))
                listed.append(Example(instance, before, visible(token), after))
    return found


def _peaks(evidence: Mapping[str, Any], task: str) -> Iterator[tuple[Any, Any]]:
    """Every (neuron, peak) of one task that is as docs/dissection.md describes it."""
    tasks = evidence.get("tokens")
    block = tasks.get(task) if isinstance(tasks, Mapping) else None
    neurons = block.get("neurons") if isinstance(block, Mapping) else block
    for neuron in neurons if isinstance(neurons, list) else ():
        peaks = neuron.get("peaks") if isinstance(neuron, Mapping) else None
        for peak in peaks if isinstance(peaks, list) else ():
            if isinstance(peak, Mapping):
                yield neuron, peak


def _number(value: Any, shape: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    return shape.format(value)


def _words(tokens: Any) -> list[str]:
    if not isinstance(tokens, list):
        return []
    return [
        visible(str(token[0] if isinstance(token, list | tuple) and token else token))
        for token in tokens[:8]
    ]


def visible(token: str) -> str:
    """A token's text; white space by itself as signs that can be seen."""
    if token.strip(" \n\t\r"):
        return token
    return token.translate({10: "⏎", 32: "␣", 9: "⇥", 13: "␍"})
