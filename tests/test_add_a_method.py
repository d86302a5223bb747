"""The page on adding a method, followed to the letter in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from excise.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "add-a-method.md"
COPIED = ("src/excise", "tests/tiny.py", "tests/cli_models.py", "tests/test_methods.py")


@dataclass(frozen=True)
class Step:
    """A fenced block of the page and the line above it, which says what to do with it."""

    lead: str
    language: str
    text: str


def steps() -> list[Step]:
    page = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^(.+)\n\n```(\w+)\n((?s:.*?))^```$", page, re.MULTILINE)
    assert len(found) == page.count("\n```") / 2, "every block follows a line that says what it is"
    return [Step(*one) for one in found]


@dataclass(frozen=True)
class Followed:
    """The copy after the page's steps, and what its commands printed."""

    root: Path
    printed: list[str]
    expected: list[str]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    root = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, root / name)
    printed, expected = [], []
    for step in steps():
        if match := re.fullmatch(r"Write `(.+)`:", step.lead):
            target = root / match[1]
            assert not target.exists(), f"{match[1]} is there already"
            target.write_text(step.text, encoding="utf-8")
        elif match := re.fullmatch(r"In `(.+)`, below the line `(.+)`, add:", step.lead):
            insert(root / match[1], match[2], step.text)
        elif step.lead == "Run:":
            printed.append(run(root, step))
        elif step.lead == "It prints:":
            expected.append(step.text)
        else:
            # An example with the real model, which takes minutes.
            assert step.text.startswith("excise compare "), f"no instruction: {step.lead!r}"
    return Followed(root, printed, expected)


def insert(file: Path, anchor: str, text: str) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    (position,) = [n for n, line in enumerate(lines) if line.strip() == anchor]
    lines.insert(position + 1, text)
    file.write_text("".join(lines), encoding="utf-8")


def run(root: Path, step: Step) -> str:
    """What Python code, or a command, prints with the copy in the place of the package."""
    source = root / "src"
    guard = "import excise, pathlib\n"
    guard += f"assert pathlib.Path(excise.__file__).is_relative_to({str(source)!r})\n"
    if step.language == "py":
        command = [sys.executable, "-c", guard + step.text]
    else:
        (root / "tests" / "conftest.py").write_text(guard, encoding="utf-8")
        command = [sys.executable, "-m", *step.text.split(), "-p", "no:cacheprovider"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (source, root / "tests"))),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        command,
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of_language(*languages: str) -> Iterator[Step]:
    return (step for step in steps() if step.language in languages)


def test_the_page_is_one_file_and_one_line() -> None:
    leads = [step.lead for step in steps()]
    assert [lead for lead in leads if lead.startswith("Write ")] == [
        "Write `src/excise/methods/abstain.py`:"
    ]
    assert {lead.split("`")[1] for lead in leads if lead.startswith("In ")} == {
        "src/excise/methods/table.py"
    }
    added = [step.text.strip() for step in steps() if step.lead.startswith("In ")]
    assert added == ["from excise.methods.abstain import Abstain", "Abstain(),"]
    assert "abstain" not in METHODS  # without the line


def test_the_method_does_what_the_page_says(followed: Followed) -> None:
    assert followed.expected == followed.printed[:1]


def test_what_holds_for_all_methods_holds_for_it(followed: Followed) -> None:
    (summary,) = followed.printed[1:]
    match = re.search(r"(\d+) passed", summary)
    assert match is not None
    assert int(match[1]) >= 5  # the promises, and an encoder-decoder model
    assert "failed" not in summary


def test_the_commands_of_the_page_name_known_methods() -> None:
    (command,) = [s.text for s in of_language("sh") if s.text.startswith("excise ")]
    (names,) = re.findall(r"--methods (\S+)", command)
    assert set(names.split(",")) <= {*METHODS, "abstain"}


def test_the_code_of_the_page_passes_the_linter(followed: Followed) -> None:
    pytest.importorskip("ruff")
    files = ["src/excise/methods/abstain.py", "src/excise/methods/table.py"]
    shutil.copy(ROOT / "pyproject.toml", followed.root)
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *files],
            cwd=followed.root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
