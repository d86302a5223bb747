"""MRPC, RTE and QNLI: rows, labels and templates, on hand-made look-alikes and the real files."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from excise import sources
from excise.errors import ConfigError, TaskFormatError
from excise.metrics import METRICS, metrics_of, value
from excise.metrics.glue import POSITIVE
from excise.sources import Source, glue
from excise.splits import split_instances
from excise.tasks import TASKS, instruction_sets, load_task
from excise.types import Predictions, Task

NAMES = ("mrpc", "rte", "qnli")

# Look-alikes, invented for these tests. Single double quotes are what a CSV reader trips over.
FILES = {
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t11\t21\tThe bakery opens at six.\t"The bakery, she said, is open from six.\n'
    '0\t12\t22\tThe tram was late.\tThe "express tram was on time.\n'
    "1\t13\t23\tNobody saw the heron.\tThe heron went unnoticed.\n"
    "0\t14\t24\tThe Heron went unnoticed.\tThe heron flew off.\n",
    "rte": "index\tsentence1\tsentence2\tlabel\n"
    "0\tThe mayor of Ruritania resigned on Monday.\tRuritania has a mayor.\tnot_entailment\n"
    "1\tAn otter swam past.\tAn animal swam past.\tentailment\n"
    "2\tThe mayor of Ruritania resigned on Monday.\tThe mayor resigned.\tentailment\n",
    "qnli": "index\tquestion\tsentence\tlabel\n"
    '0\tWho built the mill?\t The mill was built by "two sisters. \tentailment\n'
    "1\tWhen did it burn down?\tThe river froze that winter.\tnot_entailment\n"
    "2\tWho built the mill?\tThe river froze that winter.\tnot_entailment\n"
    "3\tHow deep is the lake?\tThe lake is nine metres deep.\tentailment\n",
}


def serve(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Give hand-made files instead of the published ones."""
    contents = {f"glue/{name.upper()}/dev.tsv": text for name, text in (FILES | files).items()}

    def fetch(source: Source, *, data_dir: Path | None = None) -> bytes:
        return contents[source.path].encode()

    monkeypatch.setattr(sources, "fetch", fetch)


def load(name: str, **options: Path | None) -> Task:
    task = load_task(name, **options)
    assert isinstance(task, Task)
    return task


def test_yes_is_the_positive_option_and_labels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    gold = {name: [i.options[i.gold] for i in load(name).instances] for name in NAMES}
    assert gold == {
        "mrpc": ["Yes", "No", "Yes", "No"],
        "rte": ["No", "Yes", "Yes"],
        "qnli": ["Yes", "No", "No", "Yes"],
    }
    options = {i.options for name in NAMES for i in load(name).instances}
    assert options == {("Yes", "No")}
    assert POSITIVE == 0


def test_double_quotes_are_text_and_outer_space_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    first, second, *_ = load("mrpc").instances
    assert first.fields == {
        "sentence1": "The bakery opens at six.",
        "sentence2": '"The bakery, she said, is open from six.',
    }
    assert second.fields["sentence2"] == 'The "express tram was on time.'
    assert load("qnli").instances[0].fields == {
        "sentence": 'The mill was built by "two sisters.',
        "question": "Who built the mill?",
    }
    assert load("rte").instances[1].fields == {
        "premise": "An otter swam past.",
        "hypothesis": "An animal swam past.",
    }


def test_pairs_that_share_a_text_share_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    templates = {name: [i.template for i in load(name).instances] for name in NAMES}
    assert templates == {
        # the second sentence of one pair is the first of another, in another case
        "mrpc": ["mrpc/0", "mrpc/1", "mrpc/2", "mrpc/2"],
        "rte": ["rte/0", "rte/1", "rte/0"],
        # pairs 0 and 1 share nothing but are linked through pair 2
        "qnli": ["qnli/0", "qnli/0", "qnli/0", "qnli/3"],
    }
    instances = load("qnli").instances
    assert [i.id for i in instances] == [i.block for i in instances]
    assert len({i.id for i in instances}) == 4
    assert {(i.group, i.condition, i.unknown, i.stereotyped) for i in instances} == {
        ("qnli", None, None, None)
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "mrpc",
            'Same? Sentence 1: The tram was late.  Sentence 2: The "express tram was on time.  '
            "Answer options: Yes, No  Your answer:",
        ),
        (
            "rte",
            "Same? Premise: An otter swam past.  Hypothesis: An animal swam past.  "
            "Answer options: Yes, No  Your answer:",
        ),
        (
            "qnli",
            "Same? Sentence: The river froze that winter.  Question: When did it burn down?  "
            "Answer options: Yes, No  Your answer:",
        ),
    ],
)
def test_the_prompt(name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    task = load(name)
    assert task.prompt("Same?", task.instances[1]) == expected
    assert task.kind == "choice"


@pytest.mark.parametrize("name", NAMES)
def test_ten_different_instructions(name: str) -> None:
    chosen = instruction_sets.packaged(name)
    assert len(set(chosen.instructions)) == 10
    starts = Counter(instruction.split()[0] for instruction in chosen.instructions)
    assert max(starts.values()) <= 3, "ten wordings, not ten endings of one"
    assert chosen.prompt_format.startswith("{instruction} ")
    assert chosen.prompt_format.endswith("Answer options: {options}  Your answer:")


def test_metrics_of_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    common = ["gold_probability", "gold_share", "unmatched"]
    for name in NAMES:
        names = [metric.name for metric in metrics_of(load(name))]
        assert names == ["accuracy", *(["f1"] if name == "mrpc" else []), *common]


def test_the_non_commercial_licence_is_named_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    serve(monkeypatch)
    with caplog.at_level(logging.INFO):
        load("rte")
        load("qnli")
        assert not caplog.messages
        load("mrpc")
    assert "non-commercial" in caplog.text
    assert "non-commercial" in TASKS["mrpc"].licence
    assert TASKS["rte"].licence == TASKS["qnli"].licence == "none stated"


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("mrpc", "2\t1\t2\ta\tb", "line 6, field 'Quality': must be 1 or 0, not '2'."),
        ("mrpc", "1\t1\t2\ta", "line 6: has 4 cells but the header has 5; separate cells by one"),
        ("mrpc", "1\t1\t2\ta\tb\tc", "line 6: has 6 cells but the header has 5"),
        ("mrpc", "\t1\t2\ta\tb", "line 6, field 'Quality': missing or empty"),
        ("mrpc", "1\t1\t2\ta\t ", "line 6, field '#2 String': missing or empty; give a text."),
        ("rte", "3\t\tb\tentailment", "line 5, field 'sentence1': missing or empty"),
        ("rte", "3\ta\tb\tneutral", "'label': must be entailment or not_entailment, not 'neutral'"),
        ("qnli", "4\ta\tb\t1", "line 6, field 'label': must be entailment or not_entailment"),
    ],
)
def test_malformed_rows_are_named(
    name: str, row: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, **{name: f"{FILES[name]}{row}\n"})
    with pytest.raises(TaskFormatError) as caught:
        load_task(name)
    message = str(caught.value)
    assert message.startswith(f"glue/{name.upper()}/dev.tsv, ")
    assert expected in message
    assert "\n" not in message


def test_a_missing_column_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, rte=FILES["rte"].replace("sentence2", "sentence3", 1))
    with pytest.raises(TaskFormatError, match="line 2, field 'sentence2': missing or empty"):
        load_task("rte")


def test_own_instructions_name_the_fields_of_the_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(monkeypatch)
    own = tmp_path / "own.txt"
    own.write_text("Is it so?\n", encoding="utf-8")
    assert load("rte", instructions=own).instructions == ("Is it so?",)
    own = tmp_path / "own.toml"
    start = 'instructions = ["Is it so?"]\nprompt_format = '
    own.write_text(f'{start}"{{premise}} {{instruction}} {{hypothesis}} {{options}}"')
    task = load("rte", instructions=own)
    assert task.prompt("Is it so?", task.instances[1]) == (
        "An otter swam past. Is it so? An animal swam past. Yes, No"
    )
    for layout, problem in (
        ("{instruction} {premise} {options}", "lacks {hypothesis}; without it the prompt"),
        ("{instruction} {premise} {hypothesis}", "lacks {options}"),
        ("{premise} {hypothesis} {options}", "lacks {instruction}"),
        ("{instruction} {question} {options}", "cannot fill {question}; this task has {hypothesis"),
    ):
        own.write_text(f'{start}"{layout}"', encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load("rte", instructions=own)
        assert problem in str(caught.value)


def test_sources_are_pinned_and_truthful() -> None:
    assert [source.path for source in glue.ENTRIES] == [
        "glue/MRPC/dev.tsv",
        "glue/MRPC/train.tsv",
        "glue/RTE/dev.tsv",
        "glue/QNLI/dev.tsv",
        "glue/QNLI/train_sample.tsv",
    ]
    for source in glue.ENTRIES:
        place, commit = source.url.split("/")[:5], source.url.split("/")[5]
        assert place[2] == "raw.githubusercontent.com"
        assert len(commit) == 40
        assert len(source.sha256) == 64
        assert source in sources.SOURCES
    assert len({source.sha256 for source in glue.ENTRIES}) == 5


# --- the real files ------------------------------------------------------------------------------


@pytest.fixture
def data_dir(bbq_data_dir: Path | None) -> Path:
    if bbq_data_dir is None or not (bbq_data_dir / "glue").is_dir():
        pytest.skip("no GLUE files: set EXCISE_DATA to a folder with glue/MRPC/dev.tsv and so on")
    return bbq_data_dir


@pytest.mark.real_data
@pytest.mark.parametrize("source", glue.ENTRIES, ids=lambda source: source.path)
def test_real_files_have_the_published_digest(source: Source, data_dir: Path) -> None:
    content = sources.fetch(source, data_dir=data_dir)
    assert hashlib.sha256(content).hexdigest() == source.sha256


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "gold", "templates"),
    [
        # labels and rows as published; templates: connected pairs, counted apart from the package
        ("mrpc", (279, 129), 399),
        ("rte", (146, 131), 262),
        ("qnli", (2702, 2761), 2686),
    ],
)
def test_real_counts(name: str, gold: tuple[int, int], templates: int, data_dir: Path) -> None:
    task = load(name, data_dir=data_dir)
    assert len(task.instances) == TASKS[name].rows == sum(gold)
    assert Counter(i.gold for i in task.instances) == dict(enumerate(gold))
    assert len({i.template for i in task.instances}) == templates


@pytest.mark.real_data
def test_real_quotes_are_kept(data_dir: Path) -> None:
    # As many double quotes as the file holds: a CSV reader would drop some of them.
    for name, source in zip(NAMES, (glue.MRPC_DEV, glue.RTE_DEV, glue.QNLI_DEV), strict=True):
        texts = [t for i in load(name, data_dir=data_dir).instances for t in i.fields.values()]
        content = sources.fetch(source, data_dir=data_dir)
        assert sum(text.count('"') for text in texts) == content.count(b'"')


@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_real_splits_share_no_text(name: str, seed: int, data_dir: Path) -> None:
    task = load(name, data_dir=data_dir)
    split = split_instances(task.instances, by="template", seed=seed)
    parts = (split.find, split.tune, split.test)
    assert sum(map(len, parts)) == len(task.instances)
    texts = [{t.casefold() for i in part for t in i.fields.values()} for part in parts]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]


@pytest.mark.real_data
def test_real_references_of_the_cards(data_dir: Path) -> None:
    """What a model that answers everything alike would get, as the cards say."""
    for name, answer, accuracy, f1 in (
        ("mrpc", 0, 68.4, 81.2),
        ("mrpc", 1, 31.6, 0.0),
        ("rte", 0, 52.7, 69.0),
        ("qnli", 1, 50.5, 0.0),
    ):
        instances = load(name, data_dir=data_dir).instances
        predictions = Predictions(
            instances, ("",), np.full((1, len(instances)), answer, dtype=np.int64)
        )
        values = [value(METRICS[metric], predictions) for metric in ("accuracy", "f1")]
        assert [round(100 * v, 1) for v in values if v is not None] == [accuracy, f1]
