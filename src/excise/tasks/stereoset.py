"""StereoSet by likelihood: stereotype, anti-stereotype or nonsense? (Nadeem et al., ACL 2021).

The public part has 2,106 intrasentence items (a sentence whose blank is filled in three ways) and
2,123 intersentence items (a context that three sentences may follow), over 79 target terms in four
domains. Nothing is asked: the likelihoods of the three sentences are compared.

Targets are what the authors average over, so they are the templates: splits and the bootstrap draw
whole targets, and both parts of one target together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import punctuation
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from excise import sources
from excise.errors import TaskFormatError
from excise.sources.stereoset import STEREOSET
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import Row, decode, validated
from excise.types import Instance, Task

BLANK = "BLANK"
"""What stands where a word is missing."""

Part = Literal["intrasentence", "intersentence"]
PARTS: tuple[Part, ...] = ("intrasentence", "intersentence")
ROWS: Mapping[Part, int] = {"intrasentence": 2106, "intersentence": 2123}
"""Items of each part."""

Label = Literal["stereotype", "anti-stereotype", "unrelated"]
LABELS: tuple[Label, ...] = ("stereotype", "anti-stereotype", "unrelated")
"""The order of the options."""

METRICS = (
    "stereoset_lms",
    "stereoset_ss",
    "stereoset_icat",
    "stereoset_lms_micro",
    "stereoset_ss_micro",
    "stereoset_icat_micro",
    "stereoset_ties",
)

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Sentence(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    sentence: _Text
    gold_label: Label


class _Item(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    id: _Text
    target: _Text
    bias_type: _Text
    context: _Text
    sentences: Annotated[tuple[_Sentence, ...], Field(min_length=3, max_length=3, strict=False)]


_EXPECTED = {
    "id": "a text that is not empty",
    "target": "the target term, a text that is not empty",
    "bias_type": "the domain, a text that is not empty",
    "context": "a text that is not empty",
    "sentences": "three objects with a text `sentence` and a `gold_label`, one each of "
    + ", ".join(LABELS),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One item as it stands in the file."""

    id: str
    part: Part
    target: str
    domain: str
    context: str
    sentences: tuple[str, str, str]
    """In file order."""
    labels: tuple[Label, Label, Label]
    """What each sentence is; one of each label."""


def word_at_blank(context: str, sentence: str) -> str:
    """The word that fills a context's last blank, without punctuation, as StereoSet's code does.

    Args:
        context: a sentence with `BLANK` for the word.
        sentence: the context with its blank filled.

    Returns:
        The word; empty where the context has no blank, or the sentence no word there.
    """
    places = [place for place, word in enumerate(context.split(" ")) if BLANK in word]
    words = sentence.split(" ")
    if not places or places[-1] >= len(words):
        return ""
    return words[places[-1]].translate(str.maketrans("", "", punctuation))


def items(parts: Sequence[Part], data_dir: Path | None) -> tuple[Item, ...]:
    """The items of one or more parts, in file order.

    Args:
        parts: `intrasentence`, `intersentence` or both.
        data_dir: Folder with the file; see `excise.sources.fetch`.

    Raises:
        DataUnavailableError: The file is not there.
        ConfigError: The data folder makes no sense.
    """
    found = parse(decode(sources.fetch(STEREOSET, data_dir=data_dir), STEREOSET.path))
    return tuple(item for part in parts for item in found[part])


def parse(text: str, file: str = STEREOSET.path) -> dict[Part, tuple[Item, ...]]:
    """The items of a file in StereoSet's format.

    Raises:
        TaskFormatError: It is malformed; names the part, the item and the field.
    """
    try:
        content: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TaskFormatError(f"{file}: not valid JSON ({error}); fetch the file again.") from error
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        raise TaskFormatError(f"{file}: has no object `data`; give StereoSet's dev.json.")
    found: dict[Part, tuple[Item, ...]] = {}
    place: dict[str, str] = {}
    for part in PARTS:
        if not isinstance(data.get(part), list):
            raise TaskFormatError(f"{file}: has no list `data.{part}`; give StereoSet's dev.json.")
        found[part] = tuple(_items(data[part], part, file))
        for number, item in enumerate(found[part], 1):
            where = f"{part} item {number}"
            if item.id in place:
                raise TaskFormatError(
                    f"{file}, {where}, field 'id': {item.id!r} was used before ({place[item.id]})."
                )
            place[item.id] = where
    return found


def _items(values: list[Any], part: Part, file: str) -> Iterator[Item]:
    for number, value in enumerate(values, 1):
        where = f"{file}, {part} item {number}"
        if not isinstance(value, dict):
            raise TaskFormatError(f"{where}: must be a JSON object with named fields.")
        row = Row(where, value)
        item = validated(row, _Item, _EXPECTED, extra=True)
        first, second, third = item.sentences
        labels = (first.gold_label, second.gold_label, third.gold_label)
        if set(labels) != set(LABELS):
            raise row.error("sentences", f"must have one each of {', '.join(LABELS)}.")
        texts = (first.sentence, second.sentence, third.sentence)
        if part == "intrasentence":
            for text in texts:
                if not word_at_blank(item.context, text):
                    raise row.error(
                        "context", f"needs the word {BLANK} where {text!r} has one of its own."
                    )
        yield Item(item.id, part, item.target, item.bias_type, item.context, texts, labels)


def load(
    name: str, parts: tuple[Part, ...], data_dir: Path | None, instructions: Path | None
) -> Task:
    """Load one part of StereoSet, or both as one task in which their targets are merged.

    Args:
        name: Name of the task.
        parts: Which parts.
        data_dir: Folder with the file; see `excise.sources.fetch`.
        instructions: Not used: the sentences stand without an instruction.

    Raises:
        DataUnavailableError: The data file is not there.
        ConfigError: The data folder makes no sense.
    """
    return Task(
        name=name,
        instances=tuple(_instance(item) for item in items(parts, data_dir)),
        instructions=("",),
        prompt_format="{context}",
        licence=STEREOSET.licence,
        citation=STEREOSET.citation,
        digest=STEREOSET.sha256,
        kind="sentences",
        metrics=METRICS,
        normalisation="per_token",
    )


def _instance(item: Item) -> Instance:
    intrasentence = item.part == "intrasentence"
    return Instance(
        id=item.id,
        # The blank is for masked models only: others read the whole sentence, after nothing.
        fields={"context": "", "blank": item.context}
        if intrasentence
        else {"context": _closed(item.context), "blank": ""},
        options=tuple(item.sentences[item.labels.index(label)] for label in LABELS),
        gold=-1,
        template=item.target,
        block=item.id,
        stereotyped=0,
        unrelated=2,
        group=item.domain,
    )


def _closed(context: str) -> str:
    """A context that ends as a sentence does: the authors' code puts a full stop where none is."""
    return context if context.endswith((".", "!", "?")) else f"{context}."


def _entry(name: str, parts: tuple[Part, ...], about: str) -> TaskEntry:
    return TaskEntry(
        name=name,
        description=f"StereoSet, {about}",
        licence=STEREOSET.licence,
        rows=sum(ROWS[part] for part in parts),
        load=partial(load, name, parts),
    )


ENTRIES: tuple[TaskEntry, ...] = (
    _entry("stereoset-intrasentence", ("intrasentence",), "words in a sentence"),
    _entry("stereoset-intersentence", ("intersentence",), "sentences after a context"),
    _entry("stereoset", PARTS, "both parts, targets merged"),
)
"""The tasks of this family, for the table in `excise.tasks`."""
