"""Texts of data and models inside Markdown, and names on the Hub."""

from __future__ import annotations

import html
import re
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from excise.models.loading import TESTBED

_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, in one line, also inside a table."""
    line = " ".join(text.split())
    return _SPECIAL.sub(r"\\\1", html.escape(line, quote=False))


def code(text: str) -> str:
    """A text as a code span, in one line, also inside a table."""
    line = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{line}`"


def valid_repository(name: str) -> bool:
    """Whether a name can be that of a repository on the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def hub_id(name: str) -> bool:
    """Whether a name can be that of a model on the Hub, and is no place of this machine."""
    local = name in TESTBED or name.startswith((".", "~", "/")) or name.endswith(".gguf")
    return not local and valid_repository(name) and not Path(name).exists()
