"""WinoBias' format: from two numbered files to sentences that belong together in frames.

A line holds a number and a sentence with square brackets around a person and the pronouns that
stand for that person: one pronoun mostly, two in some lines. The second person is not marked. Lines
2k - 1 and 2k of both files are about the same two people: four sentences, a frame.

The published lines have slips in words and in markup. The words stay as they are. The markup, and
the space before an apostrophe, go.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from excise.errors import TaskFormatError
from excise.sources.winobias import Version

Gender = Literal["female", "male"]
VERSIONS: tuple[Version, ...] = ("pro", "anti")

_PRONOUNS: Mapping[str, Gender] = {
    **dict.fromkeys(("she", "her", "hers", "herself"), "female"),
    **dict.fromkeys(("he", "him", "his", "himself"), "male"),
}
_LINE = re.compile(r"(\d+)\s+(\S.*)")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"(?:the|an?)\s+", re.IGNORECASE)
_DOUBLED_ARTICLE = re.compile(r"\b(the|an?)\s+\[\s*(?:the|an?)\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One line of a file."""

    where: str
    """File and line for messages."""
    number: int
    """From 1; the line of that number in the other file is its partner."""
    version: Version
    text: str
    """Without number and brackets."""
    meant: str
    """Whom the pronoun stands for, without an article."""
    pronoun: str
    """The first one that is marked."""
    gender: Gender
    """Of the marked pronouns."""
    people: tuple[str, ...] = ()
    """The two people in the order in which they appear; empty where they are not found."""

    @property
    def frame(self) -> int:
        """Which frame it belongs to, from 1."""
        return (self.number + 1) // 2


def occupations(text: str, file: str) -> tuple[str, ...]:
    """The names of a file with an occupation a line.

    Raises:
        TaskFormatError: There is none.
    """
    found = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not found:
        raise TaskFormatError(f"{file}: holds no occupations; fetch the file again.")
    return found


def parse(text: str, file: str, version: Version) -> tuple[Sentence, ...]:
    """The sentences of a file, in its order, without their people.

    Raises:
        TaskFormatError: A line is malformed; names it.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise TaskFormatError(f"{file}: holds no sentences; fetch the file again.")
    return tuple(_sentence(line, n, file, version) for n, line in enumerate(lines, 1))


def with_people(
    sentences: Sequence[Sentence], names: Mapping[Gender, Collection[str]]
) -> tuple[Sentence, ...]:
    """The sentences with both of their people.

    One is marked. The other one is whoever else stands in the sentence and in the lists, or is
    marked in another sentence of the frame. Where these are several, it is the one that is marked
    there; where that leaves none or several, the people are not found.

    Args:
        sentences: Those of the pro and of the anti file.
        names: The occupations that the stereotype gives to each gender.

    Raises:
        TaskFormatError: A listed occupation and its pronoun do not go together as the file says.
    """
    listed = {name.casefold(): name for several in names.values() for name in several}
    marked: dict[int, dict[str, str]] = {}
    for sentence in sentences:
        known = marked.setdefault(sentence.frame, {})
        known.setdefault(sentence.meant.casefold(), sentence.meant)
    found = []
    for sentence in sentences:
        _check_stereotype(sentence, names)
        of_frame = marked[sentence.frame]
        spelling = listed | {k: name for k, name in of_frame.items() if k not in listed}
        present = _mentioned(sentence.text, spelling)
        meant = sentence.meant.casefold()
        others = [name for name in present if name != meant]
        if len(others) > 1:
            others = [name for name in others if name in of_frame]
        if len(others) == 1 and meant in present:
            people = tuple(spelling[name] for name in present if name in (meant, others[0]))
            sentence = replace(sentence, people=people, meant=spelling[meant])
        found.append(sentence)
    return tuple(found)


def pairs(sentences: Sequence[Sentence]) -> Iterator[tuple[Sentence, Sentence]]:
    """The pro and the anti sentence of each line in which both people are found, in order."""
    by_line = {(s.number, s.version): s for s in sentences}
    for number in sorted({s.number for s in sentences}):
        pro, anti = by_line.get((number, "pro")), by_line.get((number, "anti"))
        if pro is not None and anti is not None and pro.people and anti.people:
            yield pro, anti


def wording(sentence: Sentence) -> str:
    """The text with people and gendered pronouns blanked: equal in near-copies."""
    people = "|".join(re.escape(name) for name in sentence.people)
    blanked = re.sub(rf"\b(?:{people})\b", "_", sentence.text, flags=re.IGNORECASE)
    pronouns = re.sub(r"\b(?:his|him|her)\b", "them", blanked, flags=re.IGNORECASE)
    pronouns = re.sub(r"\b(?:himself|herself)\b", "themself", pronouns, flags=re.IGNORECASE)
    return re.sub(r"\b(?:he|she)\b", "they", pronouns, flags=re.IGNORECASE).casefold()


def _sentence(line: str, number: int, file: str, version: Version) -> Sentence:
    where = f"{file}, line {number}"
    parts = _LINE.fullmatch(line.strip())
    if parts is None or int(parts[1]) != number:
        raise TaskFormatError(f"{where}: must start with {number} and a space.")
    marked = [" ".join(text.split()) for text in _BRACKETS.findall(parts[2])]
    pronouns = [text for text in marked if text.casefold() in _PRONOUNS]
    people = [text for text in marked if text and text not in pronouns]
    if len(people) != 1 or not pronouns or len(people) + len(pronouns) != len(marked):
        raise TaskFormatError(
            f"{where}: must have one person and at least one pronoun in square brackets, has "
            f"{len(people)} and {len(pronouns)}."
        )
    genders = {_PRONOUNS[pronoun.casefold()] for pronoun in pronouns}
    if len(genders) > 1:
        raise TaskFormatError(f"{where}: marks pronouns of both genders; mark those of one.")
    text = _without_markup(parts[2])
    if "[" in text or "]" in text:
        raise TaskFormatError(f"{where}: has a square bracket without its other half.")
    meant = _ARTICLE.sub("", people[0], count=1)
    return Sentence(where, number, version, text, meant, pronouns[0], genders.pop())


def _without_markup(text: str) -> str:
    # "the [the cook]" is a slip of the markup; other doubled words are the authors'.
    single = _DOUBLED_ARTICLE.sub(r"\1 [", text)
    bare = _BRACKETS.sub(lambda found: found[1].strip(), single)
    return re.sub(r"\s+(?='s\b)", "", " ".join(bare.split()))


def _mentioned(text: str, names: Collection[str]) -> list[str]:
    """The names that stand in a text, each once, in order."""
    # The longest first, so that "construction worker" is not read as another name inside it.
    ordered = sorted(names, key=len, reverse=True)
    pattern = rf"\b(?:{'|'.join(map(re.escape, ordered))})\b"
    found = re.findall(pattern, text, flags=re.IGNORECASE)
    return list(dict.fromkeys(name.casefold() for name in found))


def _check_stereotype(sentence: Sentence, names: Mapping[Gender, Collection[str]]) -> None:
    stated = sentence.version == "pro"
    for gender, several in names.items():
        listed = sentence.meant.casefold() in {name.casefold() for name in several}
        if listed and (gender == sentence.gender) != stated:
            raise TaskFormatError(
                f"{sentence.where}: {sentence.pronoun!r} for {sentence.meant!r} does not go "
                f"together in a {sentence.version}-stereotyped file; fetch the files again."
            )
