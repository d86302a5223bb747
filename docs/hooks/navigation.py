"""No page is forgotten: those that `nav` does not name are listed behind those that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig

_SECTIONS = {"tasks": "Benchmarks", "results": "Results", "decisions": "Decisions"}
_OTHERS = "Concepts"
_NO_PAGES = ("hooks",)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages that nobody listed to the section of their folder."""
    sections: dict[str, list[Any]] = {
        name: list_ for part in config.nav for name, list_ in part.items()
    }
    listed = {
        page if isinstance(page, str) else next(iter(page.values()))
        for pages in sections.values()
        for page in pages
    }
    docs = Path(config.docs_dir)
    groups: dict[str, list[Any]] = {}
    for path in sorted(docs.rglob("*.md")):
        name = path.relative_to(docs)
        if name.as_posix() not in listed and name.parts[0] not in _NO_PAGES:
            section = sections[_SECTIONS.get(name.parts[0], _OTHERS)]
            if len(name.parts) > 2:  # a folder of its own: a group in the section
                group = name.parts[1]
                if group not in groups:
                    groups[group] = []
                    section.append({group: groups[group]})
                section = groups[group]
            section.append(name.as_posix())
    return config
