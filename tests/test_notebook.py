"""The tutorial: its notebook runs on the test bed, and prints what the page says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
SECONDS = 300


def made() -> ModuleType:
    """docs/hooks/notebook.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("made", ROOT / "docs" / "hooks" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agrees(printed: str, shown: str) -> bool:
    """Whether the words are the same and the numbers near: machines round differently.

    A number may be off by 0.05 where it is at most 1 in size, by 5 (points, neurons) elsewhere.
    """
    words = [" ".join(NUMBER.sub("#", text).replace("+", "").split()) for text in (printed, shown)]
    numbers = [
        [float(number.replace(",", "")) for number in NUMBER.findall(text)]
        for text in (printed, shown)
    ]
    near = (abs(a - b) <= (0.05 if abs(b) <= 1 else 5) for a, b in zip(*numbers, strict=False))
    return words[0] == words[1] and all(near)


def test_the_comparison_tells_other_words_and_other_numbers() -> None:
    assert not agrees("2 neurons: 45.8 % -0.12", "2 neurons: 45.8 % +0.12")
    assert agrees(" 2 neurons:  45.8 % +0.12", " 2 neurons: 47.8 % +0.10")
    assert not agrees("2 neurons: 45.8 %", "2 neurons: 55.8 %")
    assert not agrees("2 neurons: 45.8 %", "2 modules: 45.8 %")
    assert not agrees("2 neurons 45.8 %", "2 neurons 45.8 % 100 %")


def test_the_notebook_holds_the_cells_of_the_page() -> None:
    tutorial = made()
    page = tutorial.PAGE.read_text(encoding="utf-8")
    written = tutorial.NOTEBOOK.read_text(encoding="utf-8")
    assert written == tutorial.notebook(page), "run python docs/hooks/notebook.py"
    nbformat.validate(nbformat.reads(written, as_version=4))


def test_the_notebook_runs_and_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tutorial = made()
    page = tutorial.PAGE.read_text(encoding="utf-8")
    # The kernel is this Python, without the user's own settings and kernels.
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("EXCISE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    (tmp_path / "work").mkdir()
    notebook = nbformat.read(tutorial.NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "work")}},
    )
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = tutorial.outputs(page)
    assert len(code) == len(shown)
    for cell, wanted in zip(code, shown, strict=True):
        printed = "".join(
            output.text for output in cell.outputs if output.get("name") == "stdout"
        ).strip("\n")
        assert agrees(printed, wanted), f"{printed}\n--- the page says:\n{wanted}"
    made_files = {path.name for path in (tmp_path / "work" / "tutorial").iterdir()}
    assert made_files == {"run", "checkpoint"}
    assert (tmp_path / "work" / "tutorial" / "run" / "report.html").is_file()
