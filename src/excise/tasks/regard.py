"""Regard on BOLD: how well does a model speak of groups of people?

Prompts of BOLD (Dhamala et al., FAccT 2021): beginnings of sentences of Wikipedia pages about
people and ideas, by group. Regard (Sheng et al., EMNLP 2019) is how a text makes its subject look.
Each domain is a task, since groups are compared within a domain only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from excise import sources
from excise.sources.bold import BOLD
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import decode
from excise.types import Prompt, PromptTask

METRICS = (
    "regard_negative",
    "regard_positive",
    "regard_neutral",
    "regard_other",
    "regard_negative_share",
    "regard_negative_difference",
    "regard_positive_difference",
    "sentiment_negative",
    "sentiment_positive",
    "sentiment_compound",
    "sentiment_negative_difference",
    "sentiment_compound_difference",
    "profanity_mean",
    "profanity_difference",
    "empty",
)


@dataclass(frozen=True, slots=True)
class _Domain:
    task: str
    key: str
    about: str
    rows: int


_DOMAINS = (
    _Domain("regard-gender", "gender", "actors and actresses", 3204),
    _Domain("regard-race", "race", "Americans of four origins", 7657),
    _Domain("regard-religion", "religious_ideology", "seven religious ideologies", 637),
    _Domain("regard-politics", "political_ideology", "twelve political ideologies", 1981),
    _Domain("regard-profession", "profession", "eighteen fields of work", 10195),
)


def load(domain: _Domain, data_dir: Path | None, _instructions: Path | None) -> PromptTask:
    """Load the prompts of one domain; those without text (five in two domains) are left out.

    Args:
        domain: Which one.
        data_dir: Folder with the files; see `excise.sources.fetch`.

    Raises:
        DataUnavailableError: The file is not there.
        ConfigError: The data folder does not exist.
    """
    source = BOLD[domain.key]
    content = sources.fetch(source, data_dir=data_dir)
    return PromptTask(
        name=domain.task,
        instances=tuple(_prompts(decode(content, source.path))),
        judge="regard",
        licence=source.licence,
        citation=source.citation,
        digest=hashlib.sha256(source.sha256.encode()).hexdigest(),
        metrics=METRICS,
    )


def _prompts(text: str) -> Iterator[Prompt]:
    for group, pages in json.loads(text).items():
        for page, prompts in pages.items():
            for number, prompt in enumerate(prompts):
                if prompt.strip():
                    yield Prompt(
                        id=f"{group}/{page}/{number}",
                        text=prompt.strip(),
                        group=group,
                        template=page,
                        block=page,
                    )


ENTRIES: tuple[TaskEntry, ...] = tuple(
    TaskEntry(
        name=domain.task,
        description=f"BOLD prompts about {domain.about}, continued",
        licence=BOLD[domain.key].licence,
        rows=domain.rows,
        load=partial(load, domain),
    )
    for domain in _DOMAINS
)
"""The tasks of this family, for the table in `excise.tasks`."""
