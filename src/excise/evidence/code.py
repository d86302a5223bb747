"""A digest of this package's own files, so that numbers know the code that they came from."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[1]


@cache
def code_digest() -> str:
    """sha256 over names and contents of all files of the package, in hexadecimal.

    Compiled files do not count, so that a fresh installation and one that has run agree.
    """
    digest = hashlib.sha256()
    for path in sorted(_ROOT.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(_ROOT).as_posix()} {content}\n".encode())
    return digest.hexdigest()
