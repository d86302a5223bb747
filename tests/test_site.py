"""The documentation as a site: it builds, loads nothing from elsewhere, and is whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import browser
import excise as package
from excise.config import RunConfig
from excise.metrics import METRICS
from test_docs import verbs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS) for p in DOCS.rglob("*.md") if "hooks" not in p.parts)
needs_browser = pytest.mark.skipif(
    browser.found() is None, reason="no Chromium: apt-get install chromium"
)


def built(configuration: Path, site: Path) -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "1", "EXCISE_OFFLINE": "1", "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", configuration, "-d", site],
        capture_output=True,
        text=True,
        env=os.environ | offline,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = built(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@dataclass
class Read(HTMLParser):
    """What a page holds that leads somewhere."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    """Scripts, styles, pictures and frames."""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.ids |= {named[key] for key in ("id", "name") if key in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag == "link" and named.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(named["href"])
        elif "src" in named:
            self.loaded.append(named["src"])


@cache
def read(page: Path) -> Read:
    found = Read()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def text_of(site: Path, page: str) -> str:
    html = (site / page).read_text(encoding="utf-8")
    article = html.split("<article")[1].split("</article>")[0]
    return unescape(re.sub(r"<[^>]+>", "", article))


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    listed = {(site / link.split("#")[0]).resolve() for link in read(site / "index.html").links}
    pages = [(site / page).with_suffix(".html").resolve() for page in PAGES]
    assert len(pages) > 30
    assert [page for page in pages if not page.is_file()] == []
    assert [page for page in pages if page not in listed] == []


def test_links_lead_to_pages_and_headings_that_exist(site: Path) -> None:
    broken, followed = [], 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue  # its links start at the address of the site
        for link in [*read(page).links, *read(page).loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            followed += 1
            if not target.is_file():
                broken.append(f"{page.relative_to(site)}: {link}")
            elif parts.fragment and target.suffix == ".html":
                anchor = unquote(parts.fragment)
                if anchor not in read(target).ids and not anchor.startswith("__"):
                    broken.append(f"{page.relative_to(site)}: {link}")
    assert followed > 1000
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        away = [url for url in read(page).loaded if re.match(r"(?!data:)([a-z]+:)?//", url)]
        assert away == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


def test_the_reference_names_everything_there_is(site: Path) -> None:
    shown = text_of(site, "reference/command-line.html")
    parts = re.split(r"^excise ([a-z ]+)¶$", shown, flags=re.MULTILINE)[1:]
    described = dict(zip(parts[::2], parts[1::2], strict=True))
    for verb, flags in verbs().items():
        found = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", described[verb]))
        wanted = {flag for flag in flags if flag.startswith("-")} - {"--help", "-h"}
        assert wanted <= found, verb
    shown = text_of(site, "reference/configuration.html")
    sections = {name for name in RunConfig.model_fields if f"[{name}]" in shown}
    assert {"attribution", "selection", "statistics"} <= sections
    for name, option in RunConfig.model_fields.items():
        inner = getattr(option.annotation, "model_fields", {name: option})
        assert [key for key in inner if not re.search(rf"\b{key}\b", shown)] == []
    anchors = read(site / "reference" / "python.html").ids
    shown = text_of(site, "reference/python.html")
    offered = set(package.__all__) - {"__version__", "ExciseError"}
    assert [name for name in offered if f"excise.{name}" not in anchors] == []
    assert [name for name in METRICS if name not in shown] == []
    assert "excise.errors.PatchMismatchError" in read(site / "reference" / "errors.html").ids


def test_the_gallery_shows_figures_of_both_runs(site: Path) -> None:
    html = (site / "gallery.html").read_text(encoding="utf-8")
    assert "<!-- figure" not in html
    assert html.count('<div class="excise-figure">') == 5
    assert html.count('role="img"') == 3
    assert len(re.findall(r'<td class="q[1-5]"', html)) >= 6
    for name in ("testbed-t5", "testbed-causal", "comparison"):
        assert f"{name}.html" in html
        assert (site / "gallery" / f"{name}.html").stat().st_size > 30_000
    style = (site / "styles" / "figures.css").read_text(encoding="utf-8")
    assert {"--s1", "--q5", "--panel"} <= set(re.findall(r"--\w+", style))
    used = set(re.findall(r"var\((--[\w-]+)\)", style))
    for scheme in ("default", "slate"):
        (rule,) = re.findall(rf'scheme="{scheme}"\] \.excise-figure {{(.*?)}}', style, re.S)
        assert used <= set(re.findall(r"(--[\w-]+):", rule)), scheme


SMALL = """
INHERIT: {inherited}
docs_dir: {docs}
nav: [index.md]
plugins: []
theme: {{name: mkdocs, highlightjs: false}}
extra_css: []
hooks: [{hook}]
"""


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("other.md#here", None),
        ("missing.md", "missing.md"),
        ("other.md#nowhere", "nowhere"),
        ("../nothing.py", "nothing.py"),
        ("/other.md", "absolute"),
    ],
)
def test_a_broken_link_breaks_the_build(tmp_path: Path, link: str, complaint: str | None) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Start\n\n[a link]({link})\n")
    (docs / "other.md").write_text("# Other\n\n## Here\n")
    written = SMALL.format(
        inherited=ROOT / "mkdocs.yml", docs=docs, hook=DOCS / "hooks" / "links.py"
    )
    (tmp_path / "small.yml").write_text(written.replace("[index.md]", "[index.md, other.md]"))
    done = built(tmp_path / "small.yml", tmp_path / "site")
    assert (done.returncode != 0) == (complaint is not None), done.stderr
    assert complaint is None or complaint in done.stderr


@needs_browser
def test_in_a_browser(site: Path, tmp_path: Path) -> None:
    """From the disk: no request, no complaint, no sideways scrolling, a search that finds."""
    with browser.browser(tmp_path) as page:
        for name in ("index", "gallery"):
            for width, dark in ((1280, False), (390, True)):
                page.open(site / f"{name}.html", width=width, dark=dark)
                assert page.complaints() == [], (name, width)
                wide = page.run("document.documentElement.scrollWidth")
                assert wide <= width, (name, width)
                shade = "getComputedStyle(document.body).getPropertyValue('background-color')"
                channels = [int(c) for c in re.findall(r"\d+", page.run(shade))[:3]]
                assert (sum(channels) < 200) is dark, (name, channels)
        page.open(site / "index.html")
        page.run("document.querySelector('#__search').click()")
        query = "document.querySelector('.md-search__input')"
        page.run(f"{query}.focus(); {query}.value = 'bootstrap'")
        page.run(f"{query}.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}}))")
        hits = "document.querySelectorAll('.md-search-result__item').length"
        end = time.monotonic() + 20
        while not page.run(hits) and time.monotonic() < end:
            time.sleep(0.1)
        assert page.run(hits) > 1
        assert page.complaints() == []
