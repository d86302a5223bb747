"""Rows of the table: models that fill gaps."""

from __future__ import annotations

from excise.models.architectures.row import Architecture

_BERT_LIKE = (
    r"encoder\.layer\.(?P<layer>\d+)\."
    r"(?:(?P<self_attention>attention\.(?:self\.(?:query|key|value)|output\.dense))"
    r"|(?P<feed_forward>(?:intermediate|output)\.dense))"
)

ROWS = (
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
