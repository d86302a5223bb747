"""Rows of the table: one stack reads the prompt and goes on from it."""

from __future__ import annotations

from excise.models.architectures.row import HEADS, Architecture

_GATED = (
    r"layers\.(?P<layer>\d+)\.(?:(?P<self_attention>self_attn\.[qkvo]_proj)"
    r"|(?P<feed_forward>mlp\.(?:gate|up|down)_proj))"
)
_FUSED_HEADS = (
    r"(?P<layer>\d+)\.(?:(?P<self_attention>(?:self_)?attention\.(?:query_key_value|dense))"
    r"|(?P<feed_forward>mlp\.(?:dense_h_to_4h|dense_4h_to_h)))"
)


def _gated(name: str, model_type: str, note: str, *, overwrites: bool = False) -> Architecture:
    """A row with separate query, key and value maps and a gated feed-forward, as in Llama."""
    return Architecture(
        name=name,
        model_types=(model_type,),
        kind="decoder-only",
        pattern=rf"model\.{_GATED}",
        explicit_positions=True,
        note=note,
        overwrites=overwrites,
    )


def _fused(
    name: str, layers: str, note: str, *, explicit_positions: bool = True, overwrites: bool = False
) -> Architecture:
    """A row with one map for queries, keys and values, and a plain feed-forward, as in BLOOM."""
    return Architecture(
        name=name,
        model_types=(name,),
        kind="decoder-only",
        pattern=layers + _FUSED_HEADS,
        explicit_positions=explicit_positions,
        note=note,
        overwrites=overwrites,
    )


ROWS = (
    _gated(
        "llama",
        "llama",
        "SmolLM2, Llama, and what shares its layout: gated feed-forward, rotary positions, grouped "
        "keys and values (fewer neurons in k_proj and v_proj).",
    ),
    _gated(
        "mistral",
        "mistral",
        "Mistral: as Llama; where attention has a sliding window, options do not share a prompt.",
    ),
    _gated("qwen2", "qwen2", "Qwen 1.5, 2 and 2.5: as Llama, with biases in q, k and v."),
    _gated(
        "qwen3",
        "qwen3",
        "Qwen 3: as Llama, with norms behind q and k; heads may be wider than hidden / heads.",
    ),
    _gated(
        "gemma",
        "gemma",
        "Gemma: as Llama with a GELU gate; embeddings are scaled and head sizes free.",
    ),
    _gated(
        "gemma2",
        "gemma2",
        "Gemma 2: capped attention scores and logits, so eager attention; a sliding window in "
        "every other layer, norms behind each sublayer.",
    ),
    _gated(
        "gemma3",
        "gemma3_text",
        "Gemma 3: sliding windows, with rotary positions of their own, in most layers; norms "
        "behind each sublayer and behind q and k.",
    ),
    Architecture(
        name="gemma3-vision",
        model_types=("gemma3",),
        kind="decoder-only",
        pattern=rf"model\.language_model\.{_GATED}",
        explicit_positions=False,
        note="Gemma 3 checkpoints that see: neurons of the language model only, asked in text.",
        heads=rf"{HEADS}|model\.(?:vision_tower|multi_modal_projector)\..*",
    ),
    Architecture(
        name="phi3",
        model_types=("phi3",),
        kind="decoder-only",
        pattern=(
            r"model\.layers\.(?P<layer>\d+)\.(?:(?P<self_attention>self_attn\.(?:qkv|o)_proj)"
            r"|(?P<feed_forward>mlp\.(?:gate_up|down)_proj))"
        ),
        explicit_positions=True,
        note="Phi-3, Phi-4: fused qkv_proj (queries, then keys, then values) and gate_up_proj "
        "(gates, then what they gate); a neuron is a feature of the fused map.",
    ),
    _gated("smollm3", "smollm3", "SmolLM3: as Llama, without rotary positions in some layers."),
    _gated(
        "olmo",
        "olmo",
        "OLMo: as Llama, with norms that have no weights; q, k, v may be clipped, in place.",
        overwrites=True,
    ),
    _gated(
        "olmo2",
        "olmo2",
        "OLMo 2: norms behind each sublayer and behind q and k, none before.",
    ),
    _fused(
        "bloom",
        r"transformer\.h\.",
        "BLOOM, Bloomz: one fused query_key_value map with 3 x hidden outputs, head by head; "
        "biases, ALiBi.",
        explicit_positions=False,
    ),
    _fused(
        "gpt_neox",
        r"gpt_neox\.layers\.",
        "GPT-NeoX, Pythia: fused query_key_value, head by head; attention and feed-forward side by "
        "side in most checkpoints; rotary positions on part of a head.",
    ),
    _fused(
        "falcon",
        r"transformer\.h\.",
        "Falcon: fused query_key_value with one or a few keys and values for all heads; attention "
        "and feed-forward side by side, added in place; some checkpoints have ALiBi.",
        overwrites=True,
    ),
    Architecture(
        name="gpt2",
        model_types=("gpt2",),
        kind="decoder-only",
        pattern=(
            r"transformer\.h\.(?P<layer>\d+)\.(?:(?P<self_attention>attn\.(?:c_attn|c_proj))"
            r"|(?P<feed_forward>mlp\.(?:c_fc|c_proj)))"
        ),
        explicit_positions=True,
        note="GPT-2: Conv1D, so a neuron is a column of the stored weights; fused c_attn (queries, "
        "then keys, then values), learned positions.",
    ),
    Architecture(
        name="gptj",
        model_types=("gptj",),
        kind="decoder-only",
        pattern=(
            r"transformer\.h\.(?P<layer>\d+)\.(?:(?P<self_attention>attn\.(?:[qkv]|out)_proj)"
            r"|(?P<feed_forward>mlp\.fc_(?:in|out)))"
        ),
        explicit_positions=True,
        note="GPT-J: attention and feed-forward side by side, biases in the feed-forward only; "
        "eager attention.",
    ),
    Architecture(
        name="opt",
        model_types=("opt",),
        kind="decoder-only",
        pattern=(
            r"model\.decoder\.layers\.(?P<layer>\d+)\."
            r"(?:(?P<self_attention>self_attn\.(?:[qkv]|out)_proj)|(?P<feed_forward>fc[12]))"
        ),
        explicit_positions=True,
        note="OPT: learned positions that begin at 2; the smallest one has maps between embeddings "
        "and layers, which hold no neurons; the feed-forward sees all rows as one.",
        heads=rf"{HEADS}|model\.decoder\.project_(?:in|out)",
    ),
)
"""Row for row; several share a layout, and differ in what their notes say."""
