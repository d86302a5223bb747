"""The page on adding an architecture, followed to the letter in a copy of the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from excise.models import ARCHITECTURES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "add-an-architecture.md"
COPIED = ("src/excise", "tests/tiny.py", "tests/test_families.py")
CHANGED = ["src/excise/models/architectures/decoders.py", "tests/tiny.py", "tests/test_families.py"]


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
    tests: str


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
    printed, expected, tests = [], [], ""
    for step in steps():
        if match := re.fullmatch(r"In `(.+)`, below the line `(.+)`, add:", step.lead):
            insert(root / match[1], match[2], step.text)
        elif step.lead == "Run:" and step.text.startswith("pytest"):
            tests = run(root, step)
        elif step.lead == "Run:":
            printed.append(run(root, step))
        elif step.lead == "It prints:":
            expected.append(step.text)
        else:
            raise AssertionError(f"no instruction: {step.lead!r}")
    return Followed(root, printed, expected, tests)


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
    elif step.text.startswith("excise "):
        # The expression stands without quotes, so that it is seen where it begins and ends.
        verb = step.text.split()[1:]
        assert shlex.join(verb).startswith("locate ")
        code = (
            f"import sys; sys.argv = {['excise', *verb]!r}; from excise.cli.app import main; main()"
        )
        command = [sys.executable, "-c", guard + code]
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


def test_the_page_adds_one_row_and_its_tests() -> None:
    leads = [step.lead for step in steps() if step.lead.startswith("In ")]
    assert list(dict.fromkeys(lead.split("`")[1] for lead in leads)) == CHANGED
    added = [step.text.strip() for step in steps() if step.lead.startswith("In ")]
    assert all("\n" not in text for text in added)
    assert "stablelm" not in {row.name for row in ARCHITECTURES}  # without the line


def test_every_step_prints_what_the_page_says(followed: Followed) -> None:
    assert followed.printed == followed.expected


def test_the_tests_over_all_families_cover_the_new_row(followed: Followed) -> None:
    match = re.search(r"(\d+) passed", followed.tests)
    assert match is not None
    assert int(match[1]) >= 10
    assert "failed" not in followed.tests


def test_the_code_of_the_page_passes_the_linter(followed: Followed) -> None:
    pytest.importorskip("ruff")
    shutil.copy(ROOT / "pyproject.toml", followed.root)
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *CHANGED],
            cwd=followed.root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
