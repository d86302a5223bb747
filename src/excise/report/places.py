"""The map of excised neurons: layers against modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.models import ARCHITECTURES
from excise.patches import Patch

SUBLAYERS = ("self-attention", "cross-attention", "feed-forward")
_LEVELS = 5
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module stands in its model."""

    stack: str
    """`encoder`, `decoder`, or empty where there is one stack only."""
    layer: int
    """-1 where the name does not say it."""
    sublayer: str
    """One of `SUBLAYERS`; empty where no table of architectures describes the module."""
    name: str
    """The module's name inside its layer."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One module: how many of its neurons were excised."""

    count: int
    level: int
    """0 for none, then 1 to 5 for the shade."""
    tip: str
    """What a reader sees who points at it; empty where the model has no such module."""


@dataclass(frozen=True, slots=True)
class PlacesMap:
    """Excised neurons by layer and module."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    sublayers: tuple[tuple[str, int], ...]
    """Sublayer -> excised neurons, those that have any."""
    caption: str


def place(module: str, described: Sequence[str] = ()) -> Place:
    """Where a module stands; by its first number where no architecture of the table describes it.

    Args:
        module: its dotted name.
        described: regular expressions of the user, as in the table, which come before it.
    """
    for pattern in (*described, *(row.pattern for row in ARCHITECTURES)):
        match = re.fullmatch(pattern, module)
        if match:
            groups = match.groupdict()
            sublayer = next((s for s in SUBLAYERS if groups.get(s.replace("-", "_"))), "")
            inner = groups.get(sublayer.replace("-", "_")) or module
            if inner == module:
                inner = module.rpartition(f".{groups['layer']}.")[2]
            return Place(groups.get("stack") or "", int(groups["layer"]), sublayer, inner)
    match = re.search(r"\.(\d+)\.", module)
    if match is None:
        return Place("", -1, "", module)
    stack = next((s for s in ("encoder", "decoder") if s in module[: match.start()]), "")
    return Place(stack, int(match[1]), "", module[match.end() :])


def places_map(patch: Patch, scores: Mapping[str, Sequence[Any] | Any]) -> PlacesMap | None:
    """The map of one patch.

    Args:
        patch: the excised neurons.
        scores: `TASK/TRIAL/MODULE` -> scores, which name the modules without excised neurons and
            their sizes; may be empty.

    Returns:
        None for a patch without neurons.
    """
    if not patch:
        return None
    sizes = {name.split("/", 2)[2]: len(values) for name, values in scores.items()}
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in sizes}
    for neuron, score in zip(patch.neurons, patch.scores, strict=True):
        found.setdefault(neuron.module, []).append((neuron.index, score))
    described = tuple(dict.fromkeys(_described(patch.provenance)))
    placed = {module: place(module, described) for module in found}
    columns = list(dict.fromkeys(p.name for p in placed.values()))
    order = sorted(
        {(p.stack, p.layer) for p in placed.values()},
        key=lambda key: (key[0] == "decoder", key[0], key[1]),
    )
    at = {(p.stack, p.layer, p.name): module for module, p in placed.items()}
    most = max(len(neurons) for neurons in found.values())
    rows = tuple(
        (
            f"{stack} {layer if layer >= 0 else ''}".strip() or "other",
            tuple(_cell(at.get((stack, layer, name)), found, sizes, most) for name in columns),
        )
        for stack, layer in order
    )
    kinds = {
        kind: sum(len(found[m]) for m, p in placed.items() if p.sublayer == kind)
        for kind in (*SUBLAYERS, "")
    }
    named = tuple((kind or "other", number) for kind, number in kinds.items() if number)
    return PlacesMap(tuple(columns), rows, named, _caption(len(patch), named))


def _cell(
    module: str | None,
    found: Mapping[str, list[tuple[int, float]]],
    sizes: Mapping[str, int],
    most: int,
) -> Cell:
    if module is None:
        return Cell(0, 0, "")
    neurons = found[module]
    of = f" of {sizes[module]:,}" if module in sizes else ""
    tip = f"{module}: {len(neurons)}{of} neurons excised"
    if neurons:
        first = ", ".join(str(index) for index, _ in neurons[:_NAMED])
        more = ", …" if len(neurons) > _NAMED else ""
        tip += f" (index {first}{more}; highest score {max(s for _, s in neurons):.3g})"
    level = -(-len(neurons) * _LEVELS // most) if neurons else 0
    return Cell(len(neurons), level, tip)


def _described(facts: Mapping[str, Any]) -> Iterator[str]:
    """The regular expressions with which a user described the model of a patch."""
    if facts.get("neurons"):
        yield str(facts["neurons"])
    for part in facts.get("union_of") or ():
        yield from _described(part)


def _caption(total: int, named: Sequence[tuple[str, int]]) -> str:
    parts = ", ".join(f"{number} in {kind}" for kind, number in named)
    return f"{total} excised neurons: {parts}."
