"""Which modules hold neurons, in one table of architectures.

A neuron is one output feature of one linear map in self-attention, cross-attention or feed-forward
(Yang et al. 2024, section 4.1). Embeddings, norms, position tables and the language-model head hold
none. A layout is never guessed: a linear map that the table does not describe is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from excise.errors import UnsupportedArchitectureError

Kind = Literal["encoder-decoder", "decoder-only", "masked"]
Sublayer = Literal["self-attention", "cross-attention", "feed-forward"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table."""

    name: str
    model_types: tuple[str, ...]
    """Values of `config.model_type` that share this layout."""
    kind: Kind
    pattern: str
    """Regular expression over module names; its groups name layer and sublayer."""
    explicit_positions: bool
    """Whether position ids and a free attention mask may be passed, so that options can branch off
    one shared prompt. False for ALiBi models, whose positions follow the order in the sequence."""
    note: str
    """Its peculiarities in a sentence."""
    heads: str = r"(?:.*\.)?(?:lm_head|shared)"
    """Regular expression over the names of linear maps that turn hidden states into tokens; they
    hold no neurons."""


@dataclass(frozen=True, slots=True)
class Site:
    """One linear map whose output features are neurons."""

    module: str
    size: int
    """Number of output features."""
    layer: int
    sublayer: Sublayer
    over_input: bool
    """Whether its positions are those of an encoder's input (encoder modules, and keys and values
    of cross-attention); always False without a separate encoder."""


_LLAMA_LIKE = (
    r"model\.layers\.(?P<layer>\d+)\.(?:(?P<self_attention>self_attn\.[qkvo]_proj)"
    r"|(?P<feed_forward>mlp\.(?:gate|up|down)_proj))"
)

_BERT_LIKE = (
    r"encoder\.layer\.(?P<layer>\d+)\."
    r"(?:(?P<self_attention>attention\.(?:self\.(?:query|key|value)|output\.dense))"
    r"|(?P<feed_forward>(?:intermediate|output)\.dense))"
)

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="t5",
        model_types=("t5", "mt5", "umt5"),
        kind="encoder-decoder",
        pattern=(
            r"(?P<stack>encoder|decoder)\.block\.(?P<layer>\d+)\.layer\.\d+\."
            r"(?:(?P<self_attention>SelfAttention\.[qkvo])"
            r"|(?P<cross_attention>EncDecAttention\.[qkvo])"
            r"|(?P<feed_forward>DenseReluDense\.(?:wi|wi_0|wi_1|wo)))"
        ),
        explicit_positions=False,
        note="Flan-T5, T0, mT5: gated feed-forward in the v1.1 line; cross-attention keys and "
        "values run over encoder positions.",
    ),
    Architecture(
        name="llama",
        model_types=("llama", "mistral", "qwen2", "qwen3"),
        kind="decoder-only",
        pattern=_LLAMA_LIKE,
        explicit_positions=True,
        note="SmolLM2, Llama, Mistral, Qwen: gated feed-forward, rotary positions, grouped keys "
        "and values (fewer neurons in k_proj and v_proj).",
    ),
    Architecture(
        name="bloom",
        model_types=("bloom",),
        kind="decoder-only",
        pattern=(
            r"transformer\.h\.(?P<layer>\d+)\."
            r"(?:(?P<self_attention>self_attention\.(?:query_key_value|dense))"
            r"|(?P<feed_forward>mlp\.(?:dense_h_to_4h|dense_4h_to_h)))"
        ),
        explicit_positions=False,
        note="Bloomz: one fused query_key_value map with 3 x hidden outputs, biases, ALiBi.",
    ),
    Architecture(
        name="bert",
        model_types=("bert",),
        kind="masked",
        pattern=rf"bert\.{_BERT_LIKE}",
        explicit_positions=False,
        note="BERT: reads both sides of a gap, so it compares sentences but answers no prompts.",
        heads=r"cls\.predictions\.(?:transform\.dense|decoder)|bert\.pooler\.dense",
    ),
    Architecture(
        name="roberta",
        model_types=("roberta", "xlm-roberta"),
        kind="masked",
        pattern=rf"roberta\.{_BERT_LIKE}",
        explicit_positions=False,
        note="RoBERTa: as BERT, with a head of its own and positions counted behind the padding.",
        heads=r"lm_head\.(?:dense|decoder)|roberta\.pooler\.dense",
    ),
)

_BY_MODEL_TYPE: Mapping[str, Architecture] = {
    model_type: row for row in ARCHITECTURES for model_type in row.model_types
}


def architecture_of(model_type: str) -> Architecture:
    """The table's row for a `config.model_type`.

    Raises:
        UnsupportedArchitectureError: the table has no such row; the message names the known ones.
    """
    if model_type not in _BY_MODEL_TYPE:
        raise UnsupportedArchitectureError(
            f"models of type {model_type!r} are not described in the table of architectures. "
            f"Known: {', '.join(sorted(_BY_MODEL_TYPE))}. "
            "A new one is one row in excise/models/architectures.py."
        )
    return _BY_MODEL_TYPE[model_type]


def sites(model: nn.Module, architecture: Architecture) -> tuple[Site, ...]:
    """All linear maps that hold neurons, in the order of the model's modules.

    Works on meta tensors: no weights are read.

    Raises:
        UnsupportedArchitectureError: the model has no linear map that the row describes, or one
            that the row does not describe.
    """
    pattern, heads = re.compile(architecture.pattern), re.compile(architecture.heads)
    found: list[Site] = []
    for name, module in model.named_modules():
        match = pattern.fullmatch(name)
        if match is None:
            if isinstance(module, nn.Linear) and not heads.fullmatch(name):
                raise UnsupportedArchitectureError(
                    f"linear map {name!r} is not described for architecture {architecture.name!r}; "
                    "layouts are not guessed. Describe it in excise/models/architectures.py."
                )
            continue
        if not isinstance(module, nn.Linear):
            raise UnsupportedArchitectureError(
                f"module {name!r} is a {type(module).__name__}, not a plain linear map; quantised "
                "or adapter-wrapped weights must be merged or de-quantised first."
            )
        found.append(_site(name, module.out_features, match))
    if not found:
        raise UnsupportedArchitectureError(
            f"the model holds no linear map that architecture {architecture.name!r} describes."
        )
    return tuple(found)


def _site(name: str, size: int, match: re.Match[str]) -> Site:
    groups = match.groupdict()
    cross = groups.get("cross_attention")
    sublayer: Sublayer = (
        "cross-attention"
        if cross
        else "self-attention"
        if groups.get("self_attention")
        else "feed-forward"
    )
    over_input = groups.get("stack") == "encoder" or bool(cross and cross[-1] in "kv")
    return Site(name, size, int(groups["layer"]), sublayer, over_input)
