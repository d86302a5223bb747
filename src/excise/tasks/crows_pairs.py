"""CrowS-Pairs: which of two minimally different sentences is likelier? (Nangia et al., EMNLP 2020).

1,508 pairs in nine bias types. `sent_more` is always the more stereotypical sentence: in 1,290
pairs it states a stereotype, in 218 its counterpart contradicts one. Nothing is asked.

The authors themselves warn that the data may not be a good indicator of social bias: Blodgett et
al. (ACL 2021) found many pairs that are noisy, badly aligned or no stereotypes at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from excise import sources
from excise.errors import TaskFormatError
from excise.sources.crows_pairs import CROWS_PAIRS
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import decode, from_csv, validated
from excise.types import Instance, Task

METRICS = (
    "crows_pairs",
    "crows_pairs_stereo",
    "crows_pairs_antistereo",
    "crows_pairs_ties",
    "crows_pairs_per_token",
)

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    sent_more: _Text
    sent_less: _Text
    stereo_antistereo: Literal["stereo", "antistereo"]
    bias_type: _Text


_EXPECTED = {
    "sent_more": "the more stereotypical sentence",
    "sent_less": "the less stereotypical sentence",
    "stereo_antistereo": '"stereo" or "antistereo"',
    "bias_type": "a text that is not empty",
}


def parse(text: str, file: str = CROWS_PAIRS.path) -> tuple[Instance, ...]:
    """The pairs of a file in CrowS-Pairs' format.

    A pair that stands twice shares its template, so that it is drawn as one.

    Raises:
        TaskFormatError: It is malformed; names line and field.
    """
    first_place: dict[tuple[str, str], str] = {}
    instances = []
    for number, row in enumerate(from_csv(text, file)):
        pair = validated(row, _Row, _EXPECTED, extra=True)
        if pair.sent_more == pair.sent_less:
            raise row.error("sent_less", "equals sent_more; a pair must differ.")
        identity = f"pair-{number}"
        instances.append(
            Instance(
                id=identity,
                fields={"context": "", "direction": pair.stereo_antistereo},
                options=(pair.sent_more, pair.sent_less),
                gold=-1,
                template=first_place.setdefault((pair.sent_more, pair.sent_less), identity),
                block=identity,
                stereotyped=0,
                group=pair.bias_type,
            )
        )
    if not instances:
        raise TaskFormatError(f"{file}: holds no pairs; fetch the file again.")
    return tuple(instances)


def load(data_dir: Path | None, instructions: Path | None) -> Task:
    """Load the pairs.

    Args:
        data_dir: Folder with the file; see `excise.sources.fetch`.
        instructions: Not used: the sentences stand without an instruction.

    Raises:
        DataUnavailableError: The data file is not there.
        ConfigError: The data folder makes no sense.
    """
    text = decode(sources.fetch(CROWS_PAIRS, data_dir=data_dir), CROWS_PAIRS.path)
    return Task(
        name="crows-pairs",
        instances=parse(text),
        instructions=("",),
        prompt_format="{context}",
        licence=CROWS_PAIRS.licence,
        citation=CROWS_PAIRS.citation,
        digest=CROWS_PAIRS.sha256,
        kind="sentences",
        metrics=METRICS,
        normalisation="total",
    )


ENTRIES: tuple[TaskEntry, ...] = (
    TaskEntry(
        name="crows-pairs",
        description="CrowS-Pairs: which of two sentences is likelier?",
        licence=CROWS_PAIRS.licence,
        rows=1508,
        load=load,
    ),
)
"""The tasks of this family, for the table in `excise.tasks`."""
