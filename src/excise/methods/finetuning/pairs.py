"""Pairs of sentences that differ in how much they rest on a stereotype: what is trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from excise.errors import ConfigError, TaskFormatError
from excise.tasks import load_task
from excise.tasks.rows import Row, decode, from_csv, from_jsonl, validated
from excise.types import AnyTask, Task

CROWS_PAIRS = "crows-pairs"

Direction = Literal["stereo", "antistereo"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences that are the same but for the words that name people."""

    more: str
    """The more stereotyped one."""
    less: str
    """The less stereotyped one: what training aims at."""
    group: str
    template: str
    """Pairs of one template are kept together when some are held out."""
    direction: Direction = "stereo"
    """CrowS-Pairs: whether `more` demonstrates a stereotype, or `less` violates one."""


@dataclass(frozen=True)
class Pairs:
    """All pairs of one source, and what must not be reported of a model trained on them."""

    name: str
    pairs: tuple[Pair, ...]
    trained_on: frozenset[str]
    """Names and digests of the data."""

    def refuses(self, task: AnyTask) -> str | None:
        """Why a task says nothing about a model trained on these pairs; None where it does.

        A task is refused by its name, by the digest of its data, and where it compares sentences
        that were trained on, whatever the file they came from.
        """
        named = any(task.name == t or task.name.startswith(f"{t}-") for t in self.trained_on)
        if named or task.digest in self.trained_on or self._shares_sentences(task):
            return (
                f"the model was fine-tuned on {self.name!r}, so the task {task.name!r} would "
                "measure what it memorised; report another task, or train on other pairs."
            )
        return None

    def _shares_sentences(self, task: AnyTask) -> bool:
        if not isinstance(task, Task) or task.kind != "sentences":
            return False
        trained = {text.strip() for pair in self.pairs for text in (pair.more, pair.less)}
        return any(text.strip() in trained for i in task.instances for text in i.options)


def load_pairs(source: str, *, data_dir: Path | None) -> Pairs:
    """The pairs of CrowS-Pairs, or of the user's own file.

    A file has one pair a line (`.jsonl`, or `.csv` with a header):

        {"more": "...", "less": "...", "group": "...", "template": "..."}

    `group` and `template` may be left out; each pair is then its own template.

    Args:
        source: `crows-pairs`, or a path.
        data_dir: folder with the benchmark files.

    Raises:
        ConfigError: neither a known name nor a file.
        TaskFormatError: a malformed file; names file, line and field.
        DataUnavailableError: CrowS-Pairs is neither on disk nor can it be fetched.
    """
    if source == CROWS_PAIRS:
        return _from_task(load_task(CROWS_PAIRS, data_dir=data_dir))
    path = Path(source).expanduser()
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise ConfigError(
            f"option finetuning.pairs: {source!r} is neither {CROWS_PAIRS!r} nor a .jsonl or .csv "
            "file of pairs."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TaskFormatError(
            f"{path}: cannot be read ({error.strerror}); check the path."
        ) from error
    read = from_csv if path.suffix.lower() == ".csv" else from_jsonl
    pairs = _checked(list(read(decode(content, str(path)), str(path))), str(path))
    return Pairs(path.stem, pairs, frozenset({hashlib.sha256(content).hexdigest()}))


def _from_task(task: AnyTask) -> Pairs:
    assert isinstance(task, Task)
    pairs = dict.fromkeys(
        Pair(
            more=instance.options[0],
            less=instance.options[1],
            group=instance.group,
            template=instance.template,
            direction="antistereo" if instance.fields["direction"] == "antistereo" else "stereo",
        )
        for instance in task.instances
        if instance.options[0].split() != instance.options[1].split()
    )
    return Pairs(task.name, tuple(pairs), frozenset({task.name, task.digest}))


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _PairRow(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    more: _Text
    less: _Text
    group: str = ""
    template: _Text | None = None


_EXPECTED = {
    "more": "the more stereotyped sentence, not empty",
    "less": "the less stereotyped sentence, not empty",
    "group": "a text",
    "template": "a text that is not empty",
}


def _checked(rows: list[Row], file: str) -> tuple[Pair, ...]:
    pairs: list[Pair] = []
    seen: dict[tuple[str, str], str] = {}
    for number, row in enumerate(rows):
        item = validated(row, _PairRow, _EXPECTED)
        if item.more.split() == item.less.split():
            raise row.error("less", "is the same sentence as `more`; make the two differ.")
        first = seen.setdefault((item.more, item.less), row.where)
        if first != row.where:
            raise row.error("more", f"the pair was given before ({first}); give each pair once.")
        if (item.less, item.more) in seen:
            raise row.error(
                "more",
                f"the pair was given the other way round before ({seen[item.less, item.more]}); "
                "decide which sentence is more stereotyped.",
            )
        pairs.append(Pair(item.more, item.less, item.group, item.template or f"pair-{number}"))
    if len({pair.template for pair in pairs}) < 2:
        raise TaskFormatError(
            f"{file}: holds pairs of fewer than two templates; one at least is trained on and one "
            "held out."
        )
    return tuple(pairs)
