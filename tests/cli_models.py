"""Tiny models on disk, and the command line in this process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

import tiny
from excise.cli.app import app

WORKPLACE = Path(__file__).parents[1] / "src" / "excise" / "tasks" / "examples" / "workplace.jsonl"


def save(folder: Path, name: str = "llama", **overrides: Any) -> Path:
    """A tiny random model with its tokenizer as a plain transformers folder."""
    tiny.model(name, **overrides).save_pretrained(folder)
    tiny.tokenizer("eos" if name in tiny.SEQ2SEQ else "bos").save_pretrained(folder)
    return folder


def excise(*arguments: object, columns: int = 100) -> Result:
    """What the command line answers."""
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": str(columns)})


def digests(folder: Path) -> dict[str, str]:
    """File -> sha256 of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
