"""Rows of the table: an encoder reads the prompt, a decoder answers."""

from __future__ import annotations

from excise.models.architectures.row import Architecture

_T5_LIKE = (
    r"(?P<stack>encoder|decoder)\.block\.(?P<layer>\d+)\.layer\.\d+\."
    r"(?:(?P<self_attention>SelfAttention\.[qkvo])"
    r"|(?P<cross_attention>EncDecAttention\.(?:[qo]|(?P<over_input>[kv])))"
    r"|(?P<feed_forward>DenseReluDense\.(?:wi|wi_0|wi_1|wo)))"
)

ROWS = (
    Architecture(
        name="t5",
        model_types=("t5",),
        kind="encoder-decoder",
        pattern=_T5_LIKE,
        explicit_positions=False,
        note="T5, Flan-T5, T0, UL2, Flan-UL2: gated feed-forward from v1.1 on; cross-attention "
        "keys and values run over encoder positions.",
    ),
    Architecture(
        name="mt5",
        model_types=("mt5", "umt5"),
        kind="encoder-decoder",
        pattern=_T5_LIKE,
        explicit_positions=False,
        note="mT5, umT5: as T5 v1.1; in umT5 every layer has relative positions of its own.",
    ),
    Architecture(
        name="bart",
        model_types=("bart",),
        kind="encoder-decoder",
        pattern=(
            r"model\.(?P<stack>encoder|decoder)\.layers\.(?P<layer>\d+)\."
            r"(?:(?P<self_attention>self_attn\.(?:[qkv]|out)_proj)"
            r"|(?P<cross_attention>encoder_attn\.(?:(?:q|out)_proj|(?P<over_input>[kv]_proj)))"
            r"|(?P<feed_forward>fc[12]))"
        ),
        explicit_positions=False,
        note="BART: biases everywhere, learned positions (a longer text is refused); its decoder "
        "starts from the end token, and an answer opens with the begin token.",
    ),
)
