"""Plain text: a file of the user, or sentences of a benchmark, for perplexity.

The passages of a file are its paragraphs, which are separated by empty lines. Equal paragraphs
share one template, so that a resample does not take repeats for independent text.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from excise import sources
from excise.errors import TaskFormatError
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import decode
from excise.types import Passage, TextTask

SUFFIXES = (".txt", ".md")
"""File endings that are read as plain text."""

METRICS = ("perplexity", "bits_per_byte", "kl_divergence")

PASSAGE_WORDS = 250
"""Words of a passage of `wikipedia-sentences`, at most: one window of the default configuration."""


def load(path: Path) -> TextTask:
    """Load a text file of the user as a task named after it.

    Args:
        path: A `.txt` or `.md` file in UTF-8.

    Raises:
        TaskFormatError: The file is missing, is not UTF-8, or holds no text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TaskFormatError(
            f"{path}: cannot be read ({error.strerror}); check the path."
        ) from error
    paragraphs = list(_paragraphs(decode(content, str(path))))
    if not paragraphs:
        raise TaskFormatError(f"{path}: holds no text; give at least one paragraph.")
    return TextTask(
        name=path.stem,
        instances=_passages(paragraphs),
        licence="the user's own",
        citation="",
        digest=hashlib.sha256(content).hexdigest(),
        metrics=METRICS,
    )


def load_wikipedia_sentences(data_dir: Path | None, instructions: Path | None) -> TextTask:
    """Load the sentences of QNLI's dev file as plain text.

    They are sentences of Wikipedia articles; the file lists them shuffled. A passage is a run of
    distinct sentences, in the order of the file, of up to `PASSAGE_WORDS` words.

    Args:
        data_dir: Folder with the files; see `excise.sources.fetch`.
        instructions: Not used: plain text is read without an instruction.

    Raises:
        DataUnavailableError: The file is not there.
        ConfigError: The data folder makes no sense.
    """
    source = sources.glue.QNLI_DEV
    text = decode(sources.fetch(source, data_dir=data_dir), source.path)
    # Sentences hold double quotes that are not balanced.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    sentences = dict.fromkeys(row["sentence"].strip() for row in rows)
    return TextTask(
        name="wikipedia-sentences",
        instances=_passages(_runs(sentences)),
        licence=source.licence,
        citation=source.citation,
        digest=source.sha256,
        metrics=METRICS,
    )


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n(?:[^\S\n]*\n)+", re.sub(r"\r\n?", "\n", text)):
        if paragraph.strip():
            yield paragraph.strip()


def _runs(sentences: Iterable[str]) -> Iterator[str]:
    """Neighbouring sentences joined by spaces, up to `PASSAGE_WORDS` words each."""
    run: list[str] = []
    words = 0
    for sentence in sentences:
        size = len(sentence.split())
        if run and words + size > PASSAGE_WORDS:
            yield " ".join(run)
            run, words = [], 0
        run.append(sentence)
        words += size
    if run:
        yield " ".join(run)


def _passages(texts: Iterable[str]) -> tuple[Passage, ...]:
    first: dict[str, str] = {}
    passages = []
    for number, text in enumerate(texts):
        name = f"passage-{number}"
        unit = first.setdefault(text, name)
        passages.append(Passage(id=name, text=text, template=unit, block=unit))
    return tuple(passages)


ENTRIES: tuple[TaskEntry, ...] = (
    TaskEntry(
        name="wikipedia-sentences",
        description="Plain text: sentences of Wikipedia articles, for perplexity",
        licence=sources.glue.QNLI_DEV.licence,
        rows=447,
        load=load_wikipedia_sentences,
    ),
)
"""The tasks of this family, for the table in `excise.tasks`."""
