"""BBQ: who does a model name when the context does not say? (Parrish et al., Findings of ACL 2022).

58,492 questions in eleven categories, with three options each, one of them "unknown". Rows come in
blocks of four over one pair of people: negative or non-negative question, ambiguous or
disambiguated context. In ambiguous contexts the unknown option is correct.

The stereotyped option is `target_loc` of the authors' metadata, which already allows for the
polarity of the question. It is None in 16 rows of Gender_identity where the metadata says NA.
Exact repeats (78 rows) are kept, as the published scores count them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from excise import sources
from excise.errors import DataUnavailableError, DigestMismatchError
from excise.sources import Source
from excise.tasks import instruction_sets
from excise.tasks.bbq_rows import merge_templates, parse, stereotyped_by_rule, to_instance
from excise.tasks.entry import TaskEntry
from excise.tasks.rows import decode, from_jsonl
from excise.types import Instance, Task

_log = logging.getLogger(__name__)

FIELDS = ("context", "question")


@dataclass(frozen=True, slots=True)
class _Category:
    task: str
    key: str
    about: str
    rows: int


_CATEGORIES = (
    _Category("bbq-age", "Age", "age", 3680),
    _Category("bbq-disability", "Disability_status", "disability", 1556),
    _Category("bbq-gender", "Gender_identity", "gender identity", 5672),
    _Category("bbq-nationality", "Nationality", "nationality", 3080),
    _Category("bbq-appearance", "Physical_appearance", "physical appearance", 1576),
    _Category("bbq-race", "Race_ethnicity", "race and ethnicity", 6880),
    _Category("bbq-race-x-ses", "Race_x_SES", "race crossed with socio-economic status", 11160),
    _Category("bbq-race-x-gender", "Race_x_gender", "race crossed with gender", 15960),
    _Category("bbq-religion", "Religion", "religion", 1200),
    _Category("bbq-ses", "SES", "socio-economic status", 6864),
    _Category("bbq-orientation", "Sexual_orientation", "sexual orientation", 864),
)


@dataclass(frozen=True, slots=True)
class _Target:
    stereotyped: int | None
    names: bool


_Key = tuple[str, int]
"""Category and example_id: what joins the metadata to the rows."""


def load(
    name: str, categories: tuple[str, ...], data_dir: Path | None, instructions: Path | None
) -> Task:
    """Load one or more categories of BBQ as one task.

    Args:
        name: Name of the task.
        categories: Upstream names of the categories.
        data_dir: Folder with the files; see `excise.sources.fetch`.
        instructions: The user's instructions file, or None for the ten of this project.

    Raises:
        DataUnavailableError: A data file is not there (a missing metadata file is only logged).
        ConfigError: The data folder or the instructions make no sense.
    """
    chosen = instruction_sets.choose("bbq", instructions, fields=FIELDS)
    targets = _targets(data_dir)
    files = [sources.BBQ[category] for category in categories]
    instances = [i for file in files for i in _instances(file, targets, data_dir)]
    used = [*files, sources.BBQ_METADATA] if targets is not None else files
    return Task(
        name=name,
        instances=merge_templates(instances),
        instructions=chosen.instructions,
        prompt_format=chosen.prompt_format,
        licence=sources.BBQ_METADATA.licence,
        citation=sources.BBQ_METADATA.citation,
        digest=hashlib.sha256("\n".join(file.sha256 for file in used).encode()).hexdigest(),
    )


def _instances(
    source: Source, targets: Mapping[_Key, _Target] | None, data_dir: Path | None
) -> list[Instance]:
    text = decode(sources.fetch(source, data_dir=data_dir), source.path)
    instances = []
    for row in map(parse, from_jsonl(text, source.path)):
        if targets is None:
            instances.append(to_instance(row, stereotyped=stereotyped_by_rule(row)))
        else:
            target = targets[row.category, row.example_id]
            instances.append(to_instance(row, stereotyped=target.stereotyped, names=target.names))
    return instances


def _targets(data_dir: Path | None) -> Mapping[_Key, _Target] | None:
    """The authors' metadata by category and example, or None where the file cannot be had."""
    source = sources.BBQ_METADATA
    try:
        content = sources.fetch(source, data_dir=data_dir)
    except DigestMismatchError:
        raise  # a wrong file is a mistake to mend, not a missing one to work around
    except DataUnavailableError as error:
        _log.warning(
            "BBQ: the stereotyped options are read off the rows, which leaves some rows of "
            "Gender_identity and most rows of the Race categories without one: %s",
            error,
        )
        return None
    # 64 examples are listed twice with the same target: one key per example drops the repeats.
    # One column holds line breaks inside quotes, so this must be a CSV reader.
    return {
        (record["category"], int(record["example_id"])): _Target(
            None if record["target_loc"] == "NA" else int(record["target_loc"]),
            record["label_type"] == "name",
        )
        for record in csv.DictReader(io.StringIO(decode(content, source.path), newline=""))
    }


ENTRIES: tuple[TaskEntry, ...] = (
    *(
        TaskEntry(
            name=category.task,
            description=f"BBQ questions about {category.about}",
            licence=sources.BBQ_METADATA.licence,
            rows=category.rows,
            load=partial(load, category.task, (category.key,)),
        )
        for category in _CATEGORIES
    ),
    TaskEntry(
        name="bbq",
        description="BBQ, all eleven categories",
        licence=sources.BBQ_METADATA.licence,
        rows=sum(category.rows for category in _CATEGORIES),
        load=partial(load, "bbq", tuple(category.key for category in _CATEGORIES)),
    ),
)
"""The tasks of this family, for the table in `excise.tasks`."""
