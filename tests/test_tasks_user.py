"""The user's own files: what is read, and that every mistake gets one clear line."""

from __future__ import annotations

import csv
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from excise.errors import ConfigError, TaskFormatError, UnknownNameError
from excise.splits import split_instances
from excise.tasks import load_task

EXAMPLE = Path(str(files("excise.tasks") / "examples" / "workplace.jsonl"))

PLAIN: dict[str, Any] = {
    "context": "A baker and a florist waited for the tram.",
    "question": "Who missed it?",
    "options": ["The baker", "The florist", "No telling"],
    "gold": 2,
    "template": "tram",
    "condition": "ambiguous",
    "unknown": 2,
    "stereotyped": 0,
    "block": "tram-1",
    "group": "trades",
    "id": "first",
}


def save(folder: Path, *rows: Any, name: str = "own.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in PLAIN.items() if name not in names}


def message_of(path: Path, **arguments: Any) -> str:
    with pytest.raises((TaskFormatError, ConfigError)) as caught:
        load_task(str(path), **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_example_file_can_be_split_and_balances() -> None:
    task = load_task(str(EXAMPLE))
    assert task.name == "workplace"
    assert len(task.instances) == 48
    assert len({i.template for i in task.instances}) == 12
    assert Counter(i.condition for i in task.instances) == {"ambiguous": 24, "disambiguated": 24}
    for instance in task.instances:
        assert (instance.gold == instance.unknown) == (instance.condition == "ambiguous")
        assert instance.stereotyped not in (None, instance.unknown)
    # The facts agree with the stereotype in half of the decided rows: a perfect model scores 0.
    decided = [i for i in task.instances if i.condition == "disambiguated"]
    assert sum(i.gold == i.stereotyped for i in decided) == len(decided) / 2
    split = split_instances(task.instances, by="template", seed=0)
    assert (len(split.find), len(split.tune), len(split.test)) == (12, 12, 24)


def test_all_plain_fields(tmp_path: Path) -> None:
    (instance,) = load_task(str(save(tmp_path, PLAIN))).instances
    assert instance.id == "first"
    assert instance.fields == {"context": PLAIN["context"], "question": PLAIN["question"]}
    assert instance.options == ("The baker", "The florist", "No telling")
    assert (instance.gold, instance.unknown, instance.stereotyped) == (2, 2, 0)
    assert (instance.template, instance.block, instance.group) == ("tram", "tram-1", "trades")
    assert instance.condition == "ambiguous"


def test_defaults_and_gold_as_text(tmp_path: Path) -> None:
    row = {"question": "Who sang?", "options": [" Ada", "Bo "], "gold": "Bo"}
    task = load_task(str(save(tmp_path, "", row, row)))
    first, second = task.instances
    assert first.options == ("Ada", "Bo")
    assert first.gold == 1
    assert first.template == second.template == "Who sang?"
    assert first.id != second.id
    assert first.block != second.block
    assert (first.condition, first.unknown, first.stereotyped, first.group) == (
        None,
        None,
        None,
        "",
    )
    # no context: the prompt does not speak of one
    assert task.prompt(task.instructions[0], first).endswith(
        "Question: Who sang?  Answer options: Ada, Bo  Your answer:"
    )
    assert len(task.instructions) == 10
    assert not any("context" in instruction.lower() for instruction in task.instructions)


def test_byte_order_mark_and_unicode_line_separator(tmp_path: Path) -> None:
    row = json.dumps(PLAIN | {"context": "one\u2028two"}, ensure_ascii=False)
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n")
    assert load_task(str(path)).instances[0].fields["context"] == "one\u2028two"


def test_json_list_and_csv_give_the_same_instances(tmp_path: Path) -> None:
    rows = [PLAIN, PLAIN | {"id": "second", "gold": 1, "condition": "disambiguated"}]
    expected = load_task(str(save(tmp_path, *rows))).instances
    as_list = save(tmp_path, json.dumps(rows, indent=1), name="own.json")
    assert load_task(str(as_list)).instances == expected
    table = tmp_path / "own.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(PLAIN))
        writer.writeheader()
        writer.writerows(row | {"options": "|".join(row["options"])} for row in rows)
    assert load_task(str(table)).instances == expected


def test_csv_gold_as_text_and_empty_cells(tmp_path: Path) -> None:
    path = save(
        tmp_path, "question,options,gold,unknown", "Who?,Ada|Bo,Bo,", "Who?,7|8,8,", name="own.csv"
    )
    assert [i.gold for i in load_task(str(path)).instances] == [1, 1]
    assert load_task(str(path)).instances[0].unknown is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{broken", "line 2: not valid JSON"),
        ("[1]", "line 2: must be a JSON object"),
        (without("question"), "line 2, field 'question': missing"),
        (without("options"), "line 2, field 'options': missing"),
        (without("gold"), "line 2, field 'gold': missing"),
        (without("context"), "line 2, field 'context': give a context in every row"),
        (PLAIN | {"question": 7}, "line 2, field 'question': must be a text that is not empty"),
        (PLAIN | {"question": "  "}, "line 2, field 'question': must be a text that is not empty"),
        (PLAIN | {"context": ""}, "line 2, field 'context': must be a text that is not empty"),
        (PLAIN | {"options": "a, b"}, "line 2, field 'options': must be a list of at least two"),
        (PLAIN | {"options": ["a"]}, "line 2, field 'options': must be a list of at least two"),
        (PLAIN | {"options": ["a", 1]}, "line 2, field 'options': must be a list of at least two"),
        (PLAIN | {"options": ["a", " "]}, "line 2, field 'options': must be a list"),
        (PLAIN | {"options": ["a", "b", "a "]}, "line 2, field 'options': 'a' stands there twice"),
        (PLAIN | {"gold": 3}, "line 2, field 'gold': 3 is out of range; the options are numbered"),
        (PLAIN | {"gold": -1}, "line 2, field 'gold': must be an option's number"),
        (PLAIN | {"gold": True}, "line 2, field 'gold': must be an option's number"),
        (PLAIN | {"gold": 1.5}, "line 2, field 'gold': must be an option's number"),
        (PLAIN | {"gold": "the baker"}, "line 2, field 'gold': 'the baker' is none of the options"),
        (PLAIN | {"unknown": 9}, "line 2, field 'unknown': 9 is out of range"),
        (PLAIN | {"stereotyped": "0"}, "line 2, field 'stereotyped': must be an option's number"),
        (PLAIN | {"stereotyped": 2}, "line 2, field 'stereotyped': is also the unknown option"),
        (PLAIN | {"condition": "ambig"}, "line 2, field 'condition': must be \"ambiguous\" or"),
        (PLAIN | {"questoin": "x"}, "line 2, field 'questoin': unknown; did you mean 'question'?"),
        (PLAIN | {"zzz": "x"}, "line 2, field 'zzz': unknown; known: context, question"),
        (PLAIN | {"id": "zero"}, "line 2, field 'id': 'zero' was used before ("),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, row: Any, expected: str) -> None:
    path = save(tmp_path, PLAIN | {"id": "zero"}, row)
    message = message_of(path)
    assert message.startswith(f"{path}, ")
    assert expected in message


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"", "own.jsonl", "holds no rows"),
        (b"\n\n", "own.jsonl", "holds no rows"),
        (b"", "own.csv", "holds no rows"),
        (b"[]", "own.json", "holds no rows"),
        (b"[{]", "own.json", "not valid JSON"),
        (b"[1]", "own.json", "item 1: must be a JSON object"),
        (b'{"question": "\n\xff"}', "own.jsonl", "line 2: not UTF-8"),
        (b"question,question\na,b\n", "own.csv", "line 1, field 'question': the column appears"),
        (b"question,gold\na\n", "own.csv", "line 2: has 1 cells but the header has 2"),
        (b'question,gold\n"a\nb",0\n"a,0\n', "own.csv", "line 4: not valid CSV"),
        (b"question,options,gold\nwho,1|0,1\n", "own.csv", "line 2, field 'gold': 1 is one option"),
        (b"question,options,gold\nwho,a|b,c\n", "own.csv", "field 'gold': 'c' is none of the"),
        (b"ans0,ans1\na,b\n", "own.csv", "field 'ans0': BBQ's format nests lists"),
        (b"x", "own.tsv", "a task file must end in .jsonl, .json, .csv"),
    ],
)
def test_malformed_files_are_named(
    tmp_path: Path, content: bytes, name: str, expected: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert expected in message_of(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "absent.jsonl: cannot be read" in message_of(tmp_path / "absent.jsonl")
    assert "a task file must end in" in message_of(tmp_path)
    with pytest.raises(UnknownNameError):
        load_task("absent")


BBQ_LIKE: dict[str, Any] = {
    "example_id": 0,
    "question_index": "1",
    "question_polarity": "nonneg",
    "context_condition": "ambig",
    "category": "Trades",
    "answer_info": {
        "ans0": ["baker", "Baker"],
        "ans1": ["florist", "Florist"],
        "ans2": ["No telling", "unknown"],
    },
    "additional_metadata": {"stereotyped_groups": ["Baker"]},
    "context": "A baker and a florist waited for the tram.",
    "question": "Who caught it?",
    "ans0": "The baker",
    "ans1": "The florist",
    "ans2": "No telling",
    "label": 2,
    "some_prediction": "the baker",
}


def test_bbq_format_is_recognised(tmp_path: Path) -> None:
    task = load_task(str(save(tmp_path, BBQ_LIKE)))
    (instance,) = task.instances
    assert instance.id == "Trades/0"
    assert (instance.gold, instance.unknown, instance.stereotyped) == (2, 2, 1)
    assert instance.condition == "ambiguous"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label": 3}, "line 2, field 'label': must be the correct option's number, 0 to 2, not 3"),
        ({"question_index": "x"}, "line 2, field 'question_index': must be a whole number"),
        ({"context_condition": "amb"}, "line 2, field 'context_condition': must be"),
        ({"ans1": "The baker "}, "line 2, field 'ans2': two options are the same text"),
        ({"answer_info": {"ans0": ["a", "b"]}}, "line 2, field 'answer_info': must be an object"),
        (
            {"answer_info": {f"ans{i}": ["a", "b"] for i in range(3)}},
            "line 2, field 'answer_info': 0 options carry the group \"unknown\"",
        ),
        ({"example_id": 0}, "line 2, field 'example_id': 'Trades/0' was used before"),
    ],
)
def test_malformed_bbq_rows_are_named(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    path = save(tmp_path, BBQ_LIKE, BBQ_LIKE | {"example_id": 1} | changes)
    assert expected in message_of(path)


# --- instructions --------------------------------------------------------------------------------


def test_own_instructions_from_text_and_toml(tmp_path: Path) -> None:
    data = str(save(tmp_path, PLAIN))
    text = tmp_path / "own.txt"
    text.write_text("Pick one.\n\n  Choose.  \n", encoding="utf-8")
    task = load_task(data, instructions=text)
    assert task.instructions == ("Pick one.", "Choose.")
    assert task.prompt_format == load_task(data).prompt_format
    toml = tmp_path / "own.toml"
    toml.write_text(
        'prompt_format = "{question} {options} {{?}} {instruction}"\ninstructions = ["Pick."]',
        encoding="utf-8",
    )
    task = load_task(data, instructions=toml)
    assert task.prompt("Pick.", task.instances[0]) == (
        "Who missed it? The baker, The florist, No telling {?} Pick."
    )


LAYOUT = 'instructions = ["Pick."]\nprompt_format = '


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("own.txt", b"", "holds no instructions"),
        ("own.txt", b"Pick.\n\nPick. \n", "line 3: repeats line 1"),
        ("own.txt", b"Pick.\n\xff\n", "line 2: not UTF-8"),
        ("own.md", b"Pick.", "must be a .toml file, or .txt"),
        ("own.toml", b"instructions = [", "not valid TOML"),
        ("own.toml", b"", "field 'instructions': must be a list of texts"),
        ("own.toml", b"instructions = [1]", "field 'instructions': must be a list of texts"),
        ("own.toml", b"instructions = []", "holds no instructions"),
        ("own.toml", b'instructions = ["a", " "]', "instruction 2: is empty"),
        ("own.toml", b'instruction = ["a"]', "'instruction': unknown; did you mean 'instructions'"),
        ("own.toml", f"{LAYOUT}1".encode(), "field 'prompt_format': must be a text"),
        (
            "own.toml",
            f"{LAYOUT}'{{instruction}} {{question}}'".encode(),
            "field 'prompt_format': lacks {options}",
        ),
        (
            "own.toml",
            f"{LAYOUT}'{{instruction}} {{question}} {{options}} {{contxt}}'".encode(),
            "field 'prompt_format': cannot fill {contxt}; this task has {context}",
        ),
        (
            "own.toml",
            f"{LAYOUT}'{{instruction}} {{question}} {{options}}: '".encode(),
            "field 'prompt_format': ends in white space",
        ),
        ("own.toml", f"{LAYOUT}'{{instruction'".encode(), "field 'prompt_format': expected"),
    ],
)
def test_malformed_instructions_are_named(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = message_of(save(tmp_path, PLAIN), instructions=path)
    assert message.startswith(str(path))
    assert expected in message


def test_missing_instructions(tmp_path: Path) -> None:
    message = message_of(save(tmp_path, PLAIN), instructions=tmp_path / "absent.txt")
    assert "absent.txt: the instructions cannot be read" in message
