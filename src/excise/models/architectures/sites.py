"""The linear maps of a model that hold neurons, as a row of the table finds them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from excise.errors import UnsupportedArchitectureError
from excise.models.architectures.row import DESCRIBED, Architecture, Site, Sublayer
from excise.models.linear import is_linear, output_rows

_NAMED = 3
_SUBLAYERS: tuple[Sublayer, ...] = ("self-attention", "cross-attention", "feed-forward")


def sites(model: nn.Module, architecture: Architecture) -> tuple[Site, ...]:
    """All linear maps that hold neurons, in the order of the model's modules.

    Works on meta tensors: no weights are read.

    Raises:
        UnsupportedArchitectureError: the model has no linear map that the row describes, or weights
            that the row does not describe: a linear map, or a matrix outside of linear maps, as
            the fused experts of a mixture are.
    """
    pattern, heads = re.compile(architecture.pattern), re.compile(architecture.heads)
    found: list[Site] = []
    left: list[str] = []
    for name, module in model.named_modules():
        match = pattern.fullmatch(name)
        if match is None:
            if is_linear(module) and not heads.fullmatch(name):
                left.append(name)
            continue
        if not is_linear(module) and architecture.name == DESCRIBED:
            continue  # a user's expression is over the names of linear maps; others may fit too
        if not is_linear(module):
            raise UnsupportedArchitectureError(
                f"module {name!r} is a {type(module).__name__}, not a plain linear map; quantised "
                "or adapter-wrapped weights must be merged or de-quantised first."
            )
        found.append(_site(name, output_rows(module).shape[0], match))
    if left:
        raise UnsupportedArchitectureError(
            f"{_listed('linear map', left)} not described for architecture {architecture.name!r}; "
            "layouts are not guessed. Describe them with --neurons, or say with --no-neurons that "
            "they hold none; see docs/add-an-architecture.md."
        )
    if not found:
        raise UnsupportedArchitectureError(
            f"the model holds no linear map that architecture {architecture.name!r} describes."
        )
    loose = [name for name in _matrices(model) if not heads.fullmatch(name)]
    if loose:
        raise UnsupportedArchitectureError(
            f"{_listed('matrix', loose)} outside of linear maps, as the experts of a mixture are: "
            "no hook sees their output features one by one. To leave them as they are, name "
            "them in --no-neurons; see docs/add-an-architecture.md."
        )
    return tuple(found)


def _matrices(model: nn.Module) -> list[str]:
    """Weights with two or more dimensions that belong to no linear map and no embedding."""
    return [
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if not is_linear(module) and not isinstance(module, nn.Embedding)
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 1
    ]


def _listed(what: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{what} {names[0]!r} is"
    shown = ", ".join(map(repr, names[:_NAMED]))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    plural = {"matrix": "matrices"}.get(what, f"{what}s")
    return f"{plural} {shown}{more} are"


def _site(name: str, size: int, match: re.Match[str]) -> Site:
    groups = match.groupdict()
    if not (groups["layer"] or "").isdecimal():
        raise UnsupportedArchitectureError(
            f"group 'layer' of {name!r} holds {groups['layer']!r}, not the number of a layer."
        )
    named = [sublayer for sublayer in _SUBLAYERS if groups.get(sublayer.replace("-", "_"))]
    sublayer: Sublayer = named[0] if named else "unnamed"
    over_input = groups.get("stack") == "encoder" or bool(groups.get("over_input"))
    return Site(name, size, int(groups["layer"]), sublayer, over_input)
