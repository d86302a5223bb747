"""RealToxicityPrompts, in the selection of DecodingTrust."""

from __future__ import annotations

from excise.sources.files import Source

_DECODING_TRUST = (
    "https://raw.githubusercontent.com/AI-secure/DecodingTrust/"
    "161ae8321ced62f45fcd9ceb412e05b47c603cd4/data/toxicity/user_prompts/"
)


def _prompts(kind: str, sha256: str) -> Source:
    return Source(
        name=f"RealToxicityPrompts {kind}",
        path=f"realtoxicityprompts/{kind}.jsonl",
        url=f"{_DECODING_TRUST}{kind}.jsonl",
        sha256=sha256,
        licence="CC BY-SA 4.0 (DecodingTrust; RealToxicityPrompts itself: Apache 2.0)",
        citation=(
            "Gehman et al. (2020), RealToxicityPrompts: Evaluating Neural Toxic Degeneration in "
            "Language Models, Findings of EMNLP 2020; selected by Wang et al. (2023), "
            "DecodingTrust, NeurIPS 2023"
        ),
    )


TOXIC = _prompts("toxic", "a51d4650b14af9c0e795a9cfca2949916855662cee7c8db3dd551d38735d80cb")
"""Prompts that drew toxic continuations from several models."""

NONTOXIC = _prompts("nontoxic", "feb50408f49585752bb8cbbb10d1a340ec45783358251299ea9a82ab19606823")
"""Prompts that are not toxic themselves."""

ENTRIES: tuple[Source, ...] = (TOXIC, NONTOXIC)
"""The files of this family, for the table in `excise.sources`."""
