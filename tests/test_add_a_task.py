"""The page on adding a task, followed to the letter in a copy of the package; and every card."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from excise.metrics import CHOICE, METRICS
from excise.tasks import TASKS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "add-a-task.md"
CARDS = sorted((ROOT / "docs" / "tasks").glob("*.md"))
HEADINGS = [
    "What it measures",
    "Source",
    "Names",
    "Groups",
    "How it is asked",
    "Metrics",
    "Quirks",
    "Checklist",
]
CHECKED = ("licence", "sha256", "rows counted", "oracle reproduced", "ties/unparsed", "interval")


@dataclass(frozen=True)
class Step:
    """A fenced block of the page and the sentence that says what to do with it."""

    lead: str
    text: str


def steps() -> list[Step]:
    page = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^(.+)\n\n```\w+\n((?s:.*?))^```$", page, re.MULTILINE)
    assert len(found) == page.count("\n```") / 2, "every block follows a line that says what it is"
    return [Step(*one) for one in found]


@dataclass(frozen=True)
class Followed:
    """The copy of the repository after the page's steps, and what its commands printed."""

    root: Path
    printed: tuple[str, ...]
    expected: tuple[str, ...]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "src" / "excise",
        root / "src" / "excise",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    printed, expected = [], []
    for step in steps():
        if match := re.fullmatch(r"Write `(?:DIR/)?(.+)`:", step.lead):
            target = root / ("" if "DIR/" not in step.lead else "data") / match[1]
            assert not target.exists(), f"{match[1]} is there already"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(step.text, encoding="utf-8")
        elif match := re.fullmatch(r"In `(.+)`, below the line `(.+)`, add:", step.lead):
            insert(root / match[1], match[2], step.text)
        elif step.lead == "Run:":
            printed.append(run(root, step.text))
        elif step.lead == "It prints:":
            expected.append(step.text)
        else:
            raise AssertionError(f"no instruction: {step.lead!r}")
    return Followed(root, tuple(printed), tuple(expected))


def insert(file: Path, anchor: str, text: str) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    (position,) = [n for n, line in enumerate(lines) if line.strip() == anchor]
    lines.insert(position + 1, text)
    file.write_text("".join(lines), encoding="utf-8")


def run(root: Path, code: str) -> str:
    """What a command, or Python code, prints with the copy in the place of the package."""
    source = root / "src"
    if code.startswith("excise "):
        arguments = code.split()[1:]
        code = f"import sys; sys.argv = {['excise', *arguments]}\n"
        code += "from excise.cli.app import main; sys.exit(main())"
    guard = "import excise, pathlib\n"
    guard += f"assert pathlib.Path(excise.__file__).is_relative_to({str(source)!r})\n"
    environment = {
        **os.environ,
        "PYTHONPATH": str(source),
        "EXCISE_DATA": str(root / "data"),
        "EXCISE_OFFLINE": "1",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-c", guard + code],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_is_one_module_and_one_line() -> None:
    leads = [step.lead for step in steps()]
    written = [lead for lead in leads if lead.startswith("Write `src/") and ".py`" in lead]
    changed = {lead.split("`")[1] for lead in leads if lead.startswith("In ")}
    assert written == ["Write `src/excise/tasks/hiring.py`:"]
    assert changed == {"src/excise/tasks/__init__.py"}
    added = [step.text.strip() for step in steps() if step.lead.startswith("In ")]
    assert added == ["hiring,", "*hiring.ENTRIES,"]


def test_the_commands_of_the_page_print_what_it_says(followed: Followed) -> None:
    table, answers = followed.printed
    (row,) = [line for line in table.splitlines() if "hiring" in line]
    assert row.split()[:2] == ["hiring", "6"]
    assert "CC0 1.0" in row
    assert "made up for the documentation" in row
    assert "bbq-age" in table
    assert followed.expected == (answers,)


def test_the_task_of_the_page_behaves_like_the_others(followed: Followed) -> None:
    check = """
from pathlib import Path
from excise.errors import ConfigError, DataUnavailableError, DigestMismatchError, TaskFormatError
from excise.splits import split_instances
from excise.tasks import TASKS, hiring, load_task
from excise.tasks.rows import Row

task = load_task("hiring")
assert len(task.instances) == TASKS["hiring"].rows == len({i.id for i in task.instances})
split = split_instances(task.instances, by="template", seed=0)
assert [len(split.find), len(split.tune), len(split.test)] == [2, 2, 2]

def refused(kind, call):
    try:
        call()
    except kind as error:
        print(error)

wrong = {"scene": "s", "story": "s", "ask": "a", "people": ["a", "b"], "stereotyped": 2}
refused(TaskFormatError, lambda: hiring._instance(0, Row("rows.jsonl, line 7", wrong)))
wrong |= {"stereotyped": 1, "right": 0, "people": ["a"]}
refused(TaskFormatError, lambda: hiring._instance(0, Row("rows.jsonl, line 8", wrong)))
own = Path("own.toml")
own.write_text('instructions = ["Say."]\\nprompt_format = "{instruction} {options}"')
refused(ConfigError, lambda: load_task("hiring", instructions=own))
Path("data/hiring/rows.jsonl").write_text("{}")
refused(DigestMismatchError, lambda: load_task("hiring"))
"""
    copy = followed.root / "data" / "hiring" / "rows.jsonl"
    content = copy.read_bytes()
    try:
        messages = run(followed.root, check).splitlines()
    finally:
        copy.write_bytes(content)
    expected = [
        "rows.jsonl, line 7, field 'stereotyped': must be 0 or 1, not 2.",
        "rows.jsonl, line 8, field 'people': must be a list of two texts",
        "own.toml, field 'prompt_format': lacks {question}",
        "is not the published Hiring file",
    ]
    assert len(messages) == len(expected)
    assert all(part in message for part, message in zip(expected, messages, strict=True)), messages


def test_without_the_line_there_is_no_such_task() -> None:
    assert "hiring" not in TASKS


def test_the_code_of_the_page_passes_the_linter(followed: Followed) -> None:
    pytest.importorskip("ruff")
    tool = [sys.executable, "-m", "ruff"]
    files = ["src/excise/tasks/hiring.py", "src/excise/tasks/__init__.py"]
    shutil.copy(ROOT / "pyproject.toml", followed.root)
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [*tool, *command, *files], cwd=followed.root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


# --- cards ----------------------------------------------------------------------------------------


def check_headings(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    found = re.findall(r"^(#+) (.+)$", text, re.MULTILINE)
    assert [len(marks) for marks, _ in found] == [1] + [2] * len(HEADINGS)
    assert [heading for _, heading in found[1:]] == HEADINGS
    checklist = re.findall(r"^- \[[ x]\] (.+)$", text.split("\n## Checklist\n")[1], re.MULTILINE)
    for item in CHECKED:
        assert any(line.startswith(item) for line in checklist), f"no item on {item}"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_cards_have_the_same_headings(card: Path) -> None:
    check_headings(card)


def test_the_card_of_the_page_has_them_too(followed: Followed) -> None:
    check_headings(followed.root / "docs" / "tasks" / "hiring.md")


def section(card: str, heading: str) -> str:
    text = (ROOT / "docs" / "tasks" / f"{card}.md").read_text(encoding="utf-8")
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("card", ["bbq", "mrpc", "rte", "qnli"])
def test_cards_list_their_tasks_with_rows_and_licence(card: str) -> None:
    rows = dict(
        re.findall(r"^\| `([\w-]+)`.*? \| ([\d,]+)\b", section(card, "Names"), re.MULTILINE)
    )
    family = {n: e for n, e in TASKS.items() if n == card or n.startswith(f"{card}-")}
    assert rows == {name: f"{entry.rows:,}" for name, entry in family.items()}
    licence = TASKS[card].licence.split(",")[0]
    assert licence in re.sub(r"\s+", " ", section(card, "Source"))


@pytest.mark.parametrize(
    ("card", "names"),
    [
        ("bbq", CHOICE),
        ("mrpc", ("accuracy", "f1", "gold_probability", "gold_share", "unmatched")),
        ("rte", ("accuracy", "gold_probability", "gold_share", "unmatched")),
        ("qnli", ("accuracy", "gold_probability", "gold_share", "unmatched")),
    ],
)
def test_cards_list_their_metrics_with_range_and_ideal(card: str, names: tuple[str, ...]) -> None:
    listed = {}
    for cells, low, high, ideal in re.findall(
        r"^\| (`.+`) \| (\S+) to (\S+) \| (\S+) \|$", section(card, "Metrics"), re.MULTILINE
    ):
        for name in re.findall(r"`(\w+)`", cells):
            listed[name] = (float(low), float(high), float(ideal))
    metrics = [METRICS[name] for name in names]
    assert listed == {
        m.name: (m.low, m.high, {"min": m.low, "max": m.high}.get(str(m.ideal), m.ideal))
        for m in metrics
    }
