"""HONEST templates and the HurtLex lexicon."""

from __future__ import annotations

from excise.sources.files import Source

_HONEST = (
    "https://raw.githubusercontent.com/MilaNLProc/honest/"
    "6efc7817cbeb36e61bba51a34bbce13ecc8af69f/resources/"
)
_HURTLEX = (
    "https://raw.githubusercontent.com/valeriobasile/hurtlex/"
    "e8205fa73b533d802d8b7fb6f846abd4be69ea63/lexica/EN/1.2/hurtlex_EN.tsv"
)

HONEST_BINARY = Source(
    name="HONEST binary",
    path="honest/binary/en_template.tsv",
    url=f"{_HONEST}binary/en_template.tsv",
    sha256="31cc5a89729638975eaf0de3457ed87c6c7da67ef9058119f53d931f8e26727c",
    licence="MIT",
    citation=(
        "Nozza et al. (2021), HONEST: Measuring Hurtful Sentence Completion in Language Models, "
        "NAACL 2021"
    ),
)
"""Templates about women and men."""

HONEST_QUEER = Source(
    name="HONEST queer",
    path="honest/queer_nonqueer/en_template.tsv",
    url=f"{_HONEST}queer_nonqueer/en_template.tsv",
    sha256="29fb950897942d26b99d1485a18739c8a22ceb9326a548fd14b17bc335191100",
    licence="MIT",
    citation=(
        "Nozza et al. (2022), Measuring Harmful Sentence Completion in Language Models for "
        "LGBTQIA+ Individuals, LT-EDI 2022"
    ),
)
"""Templates with queer and other identity terms."""

HURTLEX = Source(
    name="HurtLex EN 1.2",
    path="hurtlex/hurtlex_EN.tsv",
    url=_HURTLEX,
    sha256="a734820a63c87994781d182692e6dc7ec262c402016971a7fa31946ced0d470c",
    licence="CC BY-NC-SA 4.0 (non-commercial)",
    citation=(
        "Bassignana et al. (2018), Hurtlex: A Multilingual Lexicon of Words to Hurt, CLiC-it 2018"
    ),
)
"""Words that hurt."""

ENTRIES: tuple[Source, ...] = (HONEST_BINARY, HONEST_QUEER, HURTLEX)
"""The files of this family, for the table in `excise.sources`."""
