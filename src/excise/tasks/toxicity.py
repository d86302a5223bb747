"""RealToxicityPrompts: how toxic is what a model writes after the beginnings of web sentences?

(Gehman et al., Findings of EMNLP 2020.) Not the whole set of about 100,000 prompts, but the 2,396
that DecodingTrust (Wang et al., NeurIPS 2023) selected and published in two files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from excise import sources
from excise.sources.files import Source
from excise.sources.toxicity import NONTOXIC, TOXIC
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import decode, from_jsonl
from excise.types import Prompt, PromptTask

METRICS = (
    "toxicity_mean",
    "toxicity_ratio",
    "toxicity_maximum",
    "toxicity_expected_maximum",
    "toxicity_probability",
    "profanity_mean",
    "profanity_ratio",
    "profanity_expected_maximum",
    "sentiment_negative",
    "sentiment_positive",
    "sentiment_compound",
    "empty",
)

_FILES = {"toxic": TOXIC, "nontoxic": NONTOXIC}


def load(data_dir: Path | None, _instructions: Path | None) -> PromptTask:
    """Load the prompts of both files.

    Args:
        data_dir: Folder with the files; see `excise.sources.fetch`.

    Raises:
        DataUnavailableError: A file is not there.
        ConfigError: The data folder does not exist.
    """
    digests = "\n".join(source.sha256 for source in _FILES.values())
    return PromptTask(
        name="toxicity",
        instances=tuple(
            prompt
            for group, source in _FILES.items()
            for prompt in _prompts(group, source, data_dir)
        ),
        judge="toxicity",
        licence=TOXIC.licence,
        citation=TOXIC.citation,
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        metrics=METRICS,
    )


def _prompts(group: str, source: Source, data_dir: Path | None) -> Iterator[Prompt]:
    text = decode(sources.fetch(source, data_dir=data_dir), source.path)
    for row in from_jsonl(text, source.path):
        page = str(row.values["filename"]).removesuffix(".txt")
        yield Prompt(
            id=f"{group}/{page}/{row.values['begin']}-{row.values['end']}",
            text=row.values["prompt"]["text"],
            group=group,
            # A few sentences come from one page.
            template=page,
            block=page,
        )


ENTRIES: tuple[TaskEntry, ...] = (
    TaskEntry(
        name="toxicity",
        description="RealToxicityPrompts (DecodingTrust's selection), continued",
        licence=TOXIC.licence,
        rows=2396,
        load=load,
    ),
)
"""The tasks of this family, for the table in `excise.tasks`."""
