"""The story of a run in the terminal: narrow, without colour, in plain encodings."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from excise.cli.summary import print_story
from excise.cli.tables import Cell, print_table
from excise.report.story import Story, tell
from test_report import row

STORY = tell(
    "t",
    [
        row("accuracy_ambiguous", 0.17, 0.85, 0.5, 0.846),
        row("accuracy_disambiguated", 0.98, 0.5, -0.7, -0.2),
        row("s_dis", 0.0, -0.04, -0.125, 0.0),
        row("nonalignment_cost", 0.0, 0.0, 0.0, 0.0, verdict="not worse by more than 2 points"),
    ],
)


def printed(width: int, story: Story = STORY, *, terminal: bool = False, **more: object) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        markup=False,
        highlight=False,
        force_terminal=terminal,
        legacy_windows=False,
        **more,  # type: ignore[arg-type]
    )
    print_story(console, story, "t: 100 test instances")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_story_fits_and_keeps_its_numbers(width: int) -> None:
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("17.0", "85.0", "+68.0", "(+50.0 to +84.6)", "▲", "▼", "○", "="):
        assert part in text
    assert "\x1b" not in text


def test_one_line_a_metric_at_80_columns_with_controls() -> None:
    (line,) = [line for line in printed(80).splitlines() if "Accuracy, ambiguous" in line]
    assert line.split() == [
        *("▲", "Accuracy,", "ambiguous", "17.0", "85.0", "17.5"),
        *("+68.0", "(+50.0", "to", "+84.6)"),
    ]
    assert "random" in printed(80)
    assert "random" not in printed(60)


def test_colour_only_repeats_what_signs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = printed(80, terminal=True, color_system="standard")
    assert "\x1b[1;36m" in coloured
    # Neither red nor green: the two that readers mix up most.
    assert not re.search(r"\x1b\[[0-9;]*3[12]m", coloured)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == printed(80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(
        r"\x1b\[[0-9;]*3[0-9]m", printed(80, terminal=True, color_system="standard")
    )


def test_metrics_without_a_value_are_named() -> None:
    assert "Undefined for these answers: Accuracy; Bias score, ambiguous;" in " ".join(
        printed(80).split()
    )


def test_an_encoding_without_the_signs() -> None:
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from rich.console import Console\n"
        "from test_report_terminal import STORY, print_story\n"
        "print_story(Console(width=80), STORY, 't')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        cwd=os.path.dirname(os.path.dirname(__file__)),
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "+ Accuracy, ambiguous" in text
    assert "- Accuracy, disambiguated" in text
    assert "? Bias score, disambiguated" in text


def test_texts_of_a_dataset_do_not_steer_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, markup=False)
    print_table(
        console, "t", ["group", "items"], [["\x1b]0;title\x07old\x1b[31m", Cell("1", "\x9b2J")]]
    )
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert not set(text) & set("\x1b\x07\x9b")
    assert "\\x1b]0;title\\x07old" in text
