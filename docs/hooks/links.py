"""Links that leave docs/: files of the repository become pages of the site.

On a code host these links lead to the file. Here a script becomes a page that shows it, and a page
in Markdown becomes a page. A link to a folder becomes a list of what lies in it. What does not
exist is left alone, and breaks the build as every broken link does.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
_PREFIX = "repository"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(?=[)#])")
_FENCED = re.compile(r"^(```.*\n(?s:.*?)^```$)", re.MULTILINE)
_LANGUAGES = {".py": "py", ".toml": "toml", ".ipynb": "json", ".jsonl": "jsonl", ".cff": "yaml"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for every file outside docs/ that a page links to, and those that it links to."""
    docs = Path(config.docs_dir).resolve()
    waiting = [path for path in docs.rglob("*.md") if "hooks" not in path.relative_to(docs).parts]
    seen: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for target in _targets(page):
            if _is_page(target, docs) or target in seen:
                continue
            seen.add(target)
            files.append(File.generated(config, _generated(target), content=_content(target)))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to the pages made for them."""
    docs = Path(config.docs_dir).resolve()
    uri = page.file.src_uri
    source = docs / uri
    if uri.startswith(f"{_PREFIX}/"):
        # It stands elsewhere than its source, from which its links were written.
        source = ROOT / uri.removeprefix(f"{_PREFIX}/")

    def led(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[1]
        inside = _is_page(target, docs)
        wanted = target.relative_to(docs).as_posix() if inside else _generated(target)
        return posixpath.relpath(wanted, posixpath.dirname(uri))

    return _outside_code(markdown, led)


def _outside_code(markdown: str, led: object) -> str:
    parts = _FENCED.split(markdown)
    return "".join(
        part if number % 2 else _LINK.sub(led, part)  # type: ignore[arg-type]
        for number, part in enumerate(parts)
    )


def _targets(page: Path) -> list[Path]:
    """Existing files and folders of the repository that a page links to."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    found = [(page.parent / link).resolve() for link in _LINK.findall(text)]
    return [target for target in found if target.exists() and target.is_relative_to(ROOT)]


def _is_page(target: Path, docs: Path) -> bool:
    """Whether the site has it already."""
    return target.is_relative_to(docs) and target.suffix == ".md"


def _generated(target: Path) -> str:
    """Where its page stands in the sources of the site."""
    name = target.relative_to(ROOT).as_posix()
    return f"{_PREFIX}/{name}" if target.suffix == ".md" else f"{_PREFIX}/{name}.md"


def _content(target: Path) -> str:
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir():
        inside = sorted(path.name for path in target.iterdir() if path.suffix in (".md", ".py"))
        return f"# {name}\n\n" + "".join(f"- [{file}]({target.name}/{file})\n" for file in inside)
    text = target.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return text
    return f"# {name}\n\n```{_LANGUAGES.get(target.suffix, 'text')}\n{text.rstrip()}\n```\n"
