"""The gallery: figures and reports of runs on the test bed, made when the site is built.

A page holds `<!-- figure: NAME -->` where a figure belongs. The runs take seconds; they are kept in
build/gallery under the digest of the package's sources, so that an unchanged program runs once.
Figures take their colours from the report's style sheet, and follow the site from light to dark.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "excise"
STYLES = PACKAGE / "report" / "templates" / "report.css"
_KEPT = ROOT / "build" / "gallery"
_MARKER = re.compile(r"<!-- figure: ([a-z0-9-]+) -->")
_STYLE_URI = "styles/figures.css"
log = get_plugin_logger("gallery")

RUNS: dict[str, dict[str, Any]] = {
    "testbed-t5": {"model": "testbed-t5", "tasks": ["testbed"], "preset": "quick"},
    "testbed-causal": {"model": "testbed-causal", "tasks": ["testbed"], "preset": "quick"},
}
"""Name of a report -> options of its run."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the reports of the runs, and the style sheet of the figures."""
    from excise.report.writing import write_comparison

    for name in RUNS:
        page = (_run(name) / "report.html").read_bytes()
        files.append(File.generated(config, f"gallery/{name}.html", content=page))
    with tempfile.TemporaryDirectory() as folder:
        target = write_comparison([_run(name) for name in RUNS], Path(folder) / "comparison.html")
        both = target.read_bytes()
    files.append(File.generated(config, "gallery/comparison.html", content=both))
    files.append(File.generated(config, _STYLE_URI, content=style()))
    config.extra_css.append(_STYLE_URI)
    return files


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the figures where a page asks for them; an unknown name is an error."""
    return _MARKER.sub(lambda match: figure(match[1]), html)


def figure(name: str) -> str:
    """A figure as HTML.

    Args:
        name: `reports`, a list of links; or `curve`, `pareto`, `forest` or `places`, and the run
            behind a hyphen.
    """
    from excise.evidence import open_run
    from excise.report.curve import tune_curve
    from excise.report.forest import forest
    from excise.report.pareto import pareto
    from excise.report.places import places_map

    if name == "reports":
        return _reports()
    kind, _, run = name.partition("-")
    stored = open_run(_run(run))
    rows = stored.results["paired"]["testbed"]
    if kind == "places":
        return _framed(_map(places_map(stored.patch, stored.scores)), "")
    drawn = {
        "curve": lambda: tune_curve(
            stored.run["tasks"]["testbed"]["trials"], stored.best_trial("testbed")
        ),
        "pareto": lambda: pareto({row["metric"]: row for row in rows}, {}),
        "forest": lambda: forest(rows),
    }[kind]()
    assert drawn is not None, f"{name}: the run has nothing to draw"
    return _framed(str(drawn.picture), drawn.caption)


def style() -> str:
    """The report's colours and rules of plots, for figures of the site alone."""
    text = STYLES.read_text(encoding="utf-8")
    light = re.search(r"^:root \{([^}]*)\}", text, re.MULTILINE)
    dark = re.search(r':root\[data-theme="dark"\] \{([^}]*)\}', text)
    assert light is not None, "the report's style sheet has changed: name its colours here"
    assert dark is not None, "the report's style sheet has changed: name its colours here"
    rules = [
        f'[data-md-color-scheme="default"] .excise-figure {{{light[1]}}}',
        f'[data-md-color-scheme="slate"] .excise-figure {{{dark[1]}}}',
    ]
    for line in text.splitlines():
        if line.startswith(("svg", ".map")):
            for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", line):
                inside = ", ".join(f".excise-figure {s.strip()}" for s in selectors.split(","))
                rules.append(f"{inside} {{{body}}}")
    return "\n".join(rules) + "\n"


@cache
def _run(name: str) -> Path:
    """The folder of a run; it is made where these sources have not made it yet."""
    folder = _KEPT / _sources() / name
    if not (folder / "report.html").is_file():
        import excise

        log.info(f"running {name} for the gallery")
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            excise.run(excise.resolve(RUNS[name]), out=scratch / name)
            try:
                (scratch / name).rename(folder)
            except OSError:  # another build was faster
                if not (folder / "report.html").is_file():
                    raise
        finally:
            shutil.rmtree(scratch)
    return folder


@cache
def _sources() -> str:
    """The digest of all files of the package that can change what a run writes."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _framed(picture: str, caption: str) -> str:
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<div class="excise-figure"><figure>{picture}{shown}</figure></div>'


def _map(places: Any) -> str:
    """Layers against modules, as the report draws them."""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in places.columns)
    body = ""
    for label, cells in places.rows:
        body += f'<tr><th scope="row">{escape(label)}</th>'
        for cell in cells:
            klass = f"q{cell.level}" if cell.level else "" if cell.tip else "absent"
            title = f' title="{escape(cell.tip)}"' if cell.tip else ""
            body += f'<td class="{klass}"{title}>{cell.count or ""}</td>'
        body += "</tr>"
    return (
        '<div class="excise-scroll" tabindex="0"><table class="map"><thead><tr><th>layer</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<figcaption>{escape(places.caption)}</figcaption>"
    )


def _reports() -> str:
    links = [(name, f"The run on {name}") for name in RUNS]
    links.append(("comparison", "Both runs side by side"))
    items = "".join(f'<li><a href="gallery/{name}.html">{text}</a></li>' for name, text in links)
    return f"<ul>{items}</ul>"
