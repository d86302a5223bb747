"""MRPC, RTE and QNLI: pairs of texts, asked as questions with the options "Yes" and "No".

CRISPR (Yang et al., ACL 2024, table 1) measures them beside BBQ: as tasks whose answers depend too
much on the wording of the instruction, and as tasks that an edit made on another one should leave
alone. They are the labelled validation parts of GLUE (Wang et al., ICLR 2019).

"Yes" (paraphrase, entailment, answered) is always the first option, `excise.metrics.glue.POSITIVE`.
Pairs that share a text, directly or through others, are one template: most sentences of QNLI stand
in several pairs. No pair has a context that leaves the answer open, so there is no `condition`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from excise import sources
from excise.errors import TaskFormatError
from excise.metrics.glue import POSITIVE
from excise.sources import Source
from excise.sources.glue import MRPC_DEV, NON_COMMERCIAL, QNLI_DEV, RTE_DEV
from excise.tasks import instruction_sets
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import Row, decode
from excise.types import Instance, Task

_log = logging.getLogger(__name__)

OPTIONS = ("Yes", "No")
_NEGATIVE = 1 - POSITIVE
_ENTAILMENT = {"entailment": POSITIVE, "not_entailment": _NEGATIVE}


@dataclass(frozen=True, slots=True)
class _Pairs:
    task: str
    asks: str
    source: Source
    rows: int
    columns: Mapping[str, str]
    """Field of the prompt -> column of the file."""
    label: str
    gold: Mapping[str, int]
    """Label of the file -> option."""
    metrics: tuple[str, ...]


_METRICS = ("accuracy", "gold_probability", "gold_share", "unmatched")

_DATASETS = (
    _Pairs(
        task="mrpc",
        asks="do two sentences mean the same?",
        source=MRPC_DEV,
        rows=408,
        columns={"sentence1": "#1 String", "sentence2": "#2 String"},
        label="Quality",
        gold={"1": POSITIVE, "0": _NEGATIVE},
        metrics=("accuracy", "f1", *_METRICS[1:]),
    ),
    _Pairs(
        task="rte",
        asks="does a hypothesis follow from a premise?",
        source=RTE_DEV,
        rows=277,
        columns={"premise": "sentence1", "hypothesis": "sentence2"},
        label="label",
        gold=_ENTAILMENT,
        metrics=_METRICS,
    ),
    _Pairs(
        task="qnli",
        asks="does a sentence answer a question?",
        source=QNLI_DEV,
        rows=5463,
        columns={"sentence": "sentence", "question": "question"},
        label="label",
        gold=_ENTAILMENT,
        metrics=_METRICS,
    ),
)


def load(pairs: _Pairs, data_dir: Path | None, instructions: Path | None) -> Task:
    """Load one of the three datasets.

    Args:
        pairs: Which one, and how its file is read.
        data_dir: Folder with the files; see `excise.sources.fetch`.
        instructions: The user's instructions file, or None for the ten of this project.

    Raises:
        DataUnavailableError: The data file is not there.
        TaskFormatError: The data file is malformed; names file, line and field.
        ConfigError: The data folder or the instructions make no sense.
    """
    chosen = instruction_sets.choose(
        pairs.task, instructions, fields=tuple(pairs.columns), required=tuple(pairs.columns)
    )
    source = pairs.source
    text = decode(sources.fetch(source, data_dir=data_dir), source.path)
    if source.licence == NON_COMMERCIAL:
        _log.info("%s: %s.", source.name, source.licence)
    rows = enumerate(_rows(text, source.path))
    return Task(
        name=pairs.task,
        instances=_grouped([_instance(pairs, number, row) for number, row in rows]),
        instructions=chosen.instructions,
        prompt_format=chosen.prompt_format,
        licence=source.licence,
        citation=source.citation,
        digest=source.sha256,
        metrics=pairs.metrics,
    )


def _rows(text: str, file: str) -> Iterator[Row]:
    """Rows of a file of tab-separated cells with a header.

    Double quotes mean nothing in these files: many sentences hold a single one, and a CSV reader
    would swallow everything up to the next.
    """
    header, *lines = text.split("\n")
    columns = header.split("\t")
    for number, line in enumerate(lines, 2):
        if line.strip():
            where, cells = f"{file}, line {number}", line.split("\t")
            if len(cells) != len(columns):
                raise TaskFormatError(
                    f"{where}: has {len(cells)} cells but the header has {len(columns)}; "
                    "separate cells by one tab."
                )
            yield Row(where, dict(zip(columns, cells, strict=True)))


def _instance(pairs: _Pairs, number: int, row: Row) -> Instance:
    label = _cell(row, pairs.label)
    if label not in pairs.gold:
        raise row.error(pairs.label, f"must be {' or '.join(pairs.gold)}, not {label!r}.")
    identity = f"{pairs.task}/{number}"
    return Instance(
        id=identity,
        fields={name: _cell(row, column) for name, column in pairs.columns.items()},
        options=OPTIONS,
        gold=pairs.gold[label],
        template=identity,
        block=identity,
        group=pairs.task,
    )


def _cell(row: Row, column: str) -> str:
    text = str(row.values.get(column, "")).strip()
    if not text:
        raise row.error(column, "missing or empty; give a text.")
    return text


def _grouped(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Give pairs that share a text, whatever its case, the template of the first of them."""
    parent = list(range(len(instances)))

    def root(pair: int) -> int:
        while parent[pair] != pair:
            pair = parent[pair]
        return pair

    first_with: dict[str, int] = {}
    for pair, instance in enumerate(instances):
        for text in instance.fields.values():
            known = first_with.setdefault(text.casefold(), pair)
            smaller, larger = sorted((root(known), root(pair)))
            parent[larger] = smaller
    return tuple(
        replace(instance, template=instances[root(pair)].template)
        for pair, instance in enumerate(instances)
    )


ENTRIES: tuple[TaskEntry, ...] = tuple(
    TaskEntry(
        name=pairs.task,
        description=f"{pairs.source.name} (GLUE): {pairs.asks}",
        licence=pairs.source.licence,
        rows=pairs.rows,
        load=partial(load, pairs),
    )
    for pairs in _DATASETS
)
"""The tasks of this family, for the table in `excise.tasks`."""
