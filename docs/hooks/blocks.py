"""Blocks that are files: the name behind the language becomes the block's title.

Pages write them as "```toml my-run.toml", which code hosts show as they are and the tests follow.
"""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_NAMED = re.compile(r"^```(\w+) ([^\s\"={}]+)$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write names of files as titles."""
    return _NAMED.sub(r'```\1 title="\2"', markdown)
