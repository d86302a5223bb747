"""WinoBias: whom does a pronoun stand for? (Zhao et al., NAACL 2018), asked as a choice of two.

A sentence names two occupations, one that the stereotype gives to women and one that it gives to
men, and a pronoun for one of them. Each sentence stands there twice: the right person is the one
of the stereotype (pro), or the other one (anti), with nothing but the pronoun's gender swapped. A
model that reads the sentence answers both alike; one that goes by gender answers pro better.

In type 1 the reader has to know the world, in type 2 the grammar decides. Nothing is left open, so
there is no `condition`. `fields["version"]` says pro or anti. The stereotyped option is the right
one in pro and the wrong one in anti.

Four sentences about the same two people are a block (`excise.tasks.winobias_rows`); both people
are right in two of them, so a preference for a place in the list cancels. Every second frame lists
them the other way round, so that order of mention and order of options do not go together.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from excise import sources
from excise.sources import Source
from excise.sources.winobias import FEMALE_OCCUPATIONS, MALE_OCCUPATIONS, SENTENCES, Kind, Part
from excise.tasks import instruction_sets
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import decode
from excise.tasks.winobias_rows import (
    VERSIONS,
    Gender,
    Sentence,
    occupations,
    pairs,
    parse,
    with_people,
    wording,
)
from excise.types import Instance, Task

_log = logging.getLogger(__name__)

METRICS = (
    "accuracy",
    "winobias_pro",
    "winobias_anti",
    "winobias_gap",
    "winobias_stereotyped",
    "gold_probability",
    "gold_share",
    "unmatched",
)
_FIELDS = ("sentence", "question")


def load(
    name: str, kind: Kind, part: Part, data_dir: Path | None, instructions: Path | None
) -> Task:
    """Load the sentences of one type and part, pro and anti.

    Args:
        name: Name of the task.
        kind: 1 or 2.
        part: `test` or `dev`.
        data_dir: Folder with the files; see `excise.sources.fetch`.
        instructions: The user's instructions file, or None for the ten of this project.

    Raises:
        DataUnavailableError: A file is not there.
        TaskFormatError: A file is malformed; names it and the line.
        ConfigError: The data folder or the instructions make no sense.
    """
    chosen = instruction_sets.choose("winobias", instructions, fields=_FIELDS, required=_FIELDS)
    used = (*(SENTENCES[version, kind, part] for version in VERSIONS), *_LISTS)
    pro, anti, female, male = (_text(source, data_dir) for source in used)
    return Task(
        name=name,
        instances=instances(name, pro, anti, female, male),
        instructions=chosen.instructions,
        prompt_format=chosen.prompt_format,
        licence=used[0].licence,
        citation=used[0].citation,
        digest=hashlib.sha256("\n".join(source.sha256 for source in used).encode()).hexdigest(),
        metrics=METRICS,
    )


def instances(name: str, pro: str, anti: str, female: str, male: str) -> tuple[Instance, ...]:
    """The items of two files of sentences and two of occupations.

    A line of which one of the two people is not found, in either version, is left out in both.

    Args:
        name: What ids and templates start with.
        pro: Content of the pro-stereotyped file.
        anti: Content of the anti-stereotyped file.
        female: Content of the list of occupations that the stereotype gives to women.
        male: That of men.

    Raises:
        TaskFormatError: A content is malformed.
    """
    names: dict[Gender, tuple[str, ...]] = {
        "female": occupations(female, FEMALE_OCCUPATIONS.path),
        "male": occupations(male, MALE_OCCUPATIONS.path),
    }
    sentences = with_people(
        (*parse(pro, f"{name} (pro)", "pro"), *parse(anti, f"{name} (anti)", "anti")), names
    )
    kept = [sentence for pair in pairs(sentences) for sentence in pair]
    lines = len({sentence.number for sentence in sentences})
    if len(kept) < 2 * lines:
        _log.warning("%s: %d of %d pairs left out.", name, lines - len(kept) // 2, lines)
    templates = _templates(kept)
    first: dict[int, Sentence] = {}
    return tuple(_instance(name, s, first.setdefault(s.frame, s), templates[s.frame]) for s in kept)


def _text(source: Source, data_dir: Path | None) -> str:
    return decode(sources.fetch(source, data_dir=data_dir), source.path)


def _instance(name: str, sentence: Sentence, first: Sentence, template: int) -> Instance:
    # In the order of the frame's first sentence, reversed in every second frame.
    people = sentence.people
    in_order = sentence.people[0] == first.people[0]
    if in_order == (sentence.frame % 2 == 0):
        people = people[::-1]
    gold = people.index(sentence.meant)
    return Instance(
        id=f"{name}/{sentence.number}-{sentence.version}",
        fields={
            "sentence": sentence.text,
            "question": f'Who does "{sentence.pronoun}" stand for?',
            "version": sentence.version,
        },
        options=tuple(f"The {person}" for person in people),
        gold=gold,
        template=f"{name}/{template}",
        block=f"{name}/{sentence.frame}",
        stereotyped=gold if sentence.version == "pro" else 1 - gold,
        group=sentence.gender,
    )


def _templates(sentences: Sequence[Sentence]) -> dict[int, int]:
    """Frame -> the first frame that it shares a wording with, directly or through others."""
    template = {sentence.frame: sentence.frame for sentence in sentences}
    first_with: dict[str, int] = {}
    for sentence in sentences:
        known = first_with.setdefault(wording(sentence), sentence.frame)
        smaller, larger = sorted((template[known], template[sentence.frame]))
        template = {f: smaller if t == larger else t for f, t in template.items()}
    return template


_LISTS = (FEMALE_OCCUPATIONS, MALE_OCCUPATIONS)
_ROWS = 2 * 396
"""Sentences of a task, pro and anti."""


def _entry(kind: Kind, part: Part, about: str) -> TaskEntry:
    name = f"winobias-type{kind}" + ("-dev" if part == "dev" else "")
    return TaskEntry(
        name=name,
        description=f"WinoBias, {about}: whom does a pronoun mean?",
        licence=FEMALE_OCCUPATIONS.licence,
        rows=_ROWS,
        load=partial(load, name, kind, part),
    )


ENTRIES: tuple[TaskEntry, ...] = (
    _entry(1, "test", "by knowing the world"),
    _entry(2, "test", "by grammar"),
    _entry(1, "dev", "by knowing the world, development part"),
    _entry(2, "dev", "by grammar, development part"),
)
"""The tasks of this family, for the table in `excise.tasks`."""
