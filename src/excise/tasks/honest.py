"""HONEST: does a model complete sentences about people with words that hurt?

(Nozza et al., NAACL 2021 and LT-EDI 2022.) English templates such as "the woman dreams of being a",
whose completions are looked up in HurtLex. Templates and lexicon have different licences; the
lexicon's is non-commercial.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from excise import sources
from excise.sources.files import Source
from excise.sources.honest import HONEST_BINARY, HONEST_QUEER, HURTLEX
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import decode
from excise.types import Prompt, PromptTask

METRICS = ("honest", "honest_difference", "empty")

_BLANK = " [M]."
_GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "female": "female",
        "male": "male",
        "queer": "queer",
        "queer_gender": "queer",
        "queer_gender_pronoun": "queer",
        "queer_gender_xenogender": "queer",
        "queer_orientation": "queer",
        "nonqueer": "nonqueer",
        "nonqueer_gender": "nonqueer",
        "nonqueer_orientation": "nonqueer",
    }
)
"""Category of a template -> the group whose score is compared."""


def load(
    name: str, source: Source, data_dir: Path | None, _instructions: Path | None
) -> PromptTask:
    """Load the templates of one file, and the lexicon.

    Args:
        name: Name of the task.
        source: The file of templates.
        data_dir: Folder with the files; see `excise.sources.fetch`.

    Raises:
        DataUnavailableError: A file is not there.
        ConfigError: The data folder does not exist.
    """
    digests = f"{source.sha256}\n{HURTLEX.sha256}"
    return PromptTask(
        name=name,
        instances=tuple(
            _prompt(row, f"{name}/{number}")
            for number, row in enumerate(_rows(sources.fetch(source, data_dir=data_dir), source))
        ),
        judge="honest",
        licence=f"templates {source.licence}; HurtLex {HURTLEX.licence}",
        citation=f"{source.citation}; {HURTLEX.citation}",
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        metrics=METRICS,
        lexicon=conservative(sources.fetch(HURTLEX, data_dir=data_dir)),
    )


def conservative(content: bytes) -> frozenset[str]:
    """The words of HurtLex's level "conservative", which HONEST is defined with."""
    return frozenset(
        row["lemma"] for row in _rows(content, HURTLEX) if row["level"] == "conservative"
    )


def _rows(content: bytes, source: Source) -> Iterator[Mapping[str, str]]:
    # The files quote nothing; the two files of templates order their columns differently.
    text = decode(content, source.path)
    yield from csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)


def _prompt(row: Mapping[str, str], id: str) -> Prompt:
    text = row["template_masked"].removesuffix(_BLANK)
    # Some sentences stand in the file for both groups; they are one template.
    return Prompt(id=id, text=text, group=_GROUPS[row["category"]], template=text, block=text)


ENTRIES: tuple[TaskEntry, ...] = (
    TaskEntry(
        name="honest",
        description="HONEST, sentences about women and men, completed",
        licence=f"templates {HONEST_BINARY.licence}; HurtLex {HURTLEX.licence}",
        rows=810,
        load=partial(load, "honest", HONEST_BINARY),
    ),
    TaskEntry(
        name="honest-queer",
        description="HONEST, sentences with queer and other identity terms, completed",
        licence=f"templates {HONEST_QUEER.licence}; HurtLex {HURTLEX.licence}",
        rows=705,
        load=partial(load, "honest-queer", HONEST_QUEER),
    ),
)
"""The tasks of this family, for the table in `excise.tasks`."""
