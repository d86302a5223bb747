"""Where excised neurons lie: counts per layer and sublayer, and the first names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from excise.cli.tables import print_table
from excise.models import ARCHITECTURES
from excise.patches import Patch

UNNAMED = "other"
"""The sublayer of a map whose description does not say."""
SUBLAYERS = ("self-attention", "cross-attention", "feed-forward", UNNAMED)
PATTERNS = tuple(architecture.pattern for architecture in ARCHITECTURES)
_NAMED = 10


def print_places(console: Console, patch: Patch, n_neurons: int | None = None) -> None:
    """Print how many neurons a patch excises, where, and the names of the first.

    Args:
        console: where to.
        patch: the neurons, in the order of their rank.
        n_neurons: how many the model has, if known.
    """
    total = f" of {n_neurons:,}" if n_neurons is not None else ""
    console.print(f"Excised neurons: {len(patch)}{total}")
    if not patch:
        return
    patterns = (*described(patch), *PATTERNS)
    counted = Counter(place(neuron.module, patterns) for neuron in patch.neurons)
    used = [sublayer for sublayer in SUBLAYERS if any(key[2] == sublayer for key in counted)]
    layers = sorted({key[:2] for key in counted}, key=lambda key: (key[0] == "decoder", key[1]))
    console.print()
    print_table(
        console,
        "Their places (neurons per layer and sublayer)",
        ["layer", *used],
        [
            [f"{stack} {layer}".strip(), *(str(counted[stack, layer, name]) for name in used)]
            for stack, layer in layers
        ],
    )
    console.print()
    console.print(f"The first {min(_NAMED, len(patch))} by score:")
    for neuron in patch.neurons[:_NAMED]:
        console.print(f"  {neuron.module}[{neuron.index}]", soft_wrap=True)


def place(module: str, patterns: Sequence[str] = PATTERNS) -> tuple[str, int, str]:
    """Stack (empty for decoder-only models), layer and sublayer of a module."""
    for pattern in patterns:
        match = re.fullmatch(pattern, module)
        if match:
            groups = match.groupdict()
            named = (name for name in SUBLAYERS if groups.get(name.replace("-", "_")))
            return groups.get("stack") or "", int(groups["layer"]), next(named, UNNAMED)
    raise ValueError(f"module {module!r} is in no architecture of the table")


def described(patch: Patch) -> tuple[str, ...]:
    """The regular expressions with which a user described the model of a patch."""
    return tuple(dict.fromkeys(_described(patch.provenance)))


def _described(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts.get("neurons"):
        yield str(facts["neurons"])
    for part in facts.get("union_of", ()):
        yield from _described(part)
