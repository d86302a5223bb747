"""The tutorial as a notebook: the same cells, without their outputs.

    python docs/hooks/notebook.py

writes examples/tutorial.ipynb out of docs/tutorial.md. The tests say when it has to be run again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
_BLOCK = re.compile(r"^```(\w+)\n((?s:.*?))^```$", re.MULTILINE)


def cells(page: str) -> list[tuple[str, str]]:
    """The cells of a page: (`markdown` or `code`, text); printed outputs are left out."""
    found: list[tuple[str, str]] = []
    prose, last = "", 0
    for block in _BLOCK.finditer(page):
        prose += page[last : block.start()]
        last = block.end()
        if block[1] == "py":
            found += [("markdown", prose.strip()), ("code", block[2].strip())]
            prose = ""
        elif block[1] != "text":
            prose += block[0]
    found.append(("markdown", (prose + page[last:]).strip()))
    return [(kind, text) for kind, text in found if text]


def outputs(page: str) -> list[str]:
    """What each code cell prints according to the page; empty where it shows nothing."""
    found: list[str] = []
    for block in _BLOCK.finditer(page):
        if block[1] == "py":
            found.append("")
        elif block[1] == "text":
            found[-1] = block[2].strip("\n")
    return found


def notebook(page: str) -> str:
    """The notebook of a page, as JSON. Links to other pages lead to docs/."""
    written = []
    for number, (kind, text) in enumerate(cells(page), 1):
        if kind == "markdown":
            text = re.sub(r"\]\((?![a-z]+:|#|\.\./)", "](../docs/", text)
            text = text.replace("](../examples/", "](")
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = text.splitlines(keepends=True)
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        written.append(cell)
    document = {
        "cells": written,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
