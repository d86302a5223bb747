"""One self-contained HTML file out of templates, styles, a script and data.

Texts of data and models reach the page in two ways only: escaped by the templates, or as JSON that
the script writes as text. A content security policy allows this style and this script, and no
network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from excise import __version__
from excise.report.numbers import (
    controls,
    level,
    shown,
    shown_change,
    shown_interval,
    title,
    unit,
)
from excise.report.story import LABELS, SYMBOLS, kind_of


def page(template: str, **values: Any) -> str:
    """A page with its style and its script inside.

    Args:
        template: name of a template of this package.
        values: what the template names; texts are escaped there.
    """
    style, script = (_resource(f"report.{ending}") for ending in ("css", "js"))
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            version=__version__,
            **values,
        )
    )


def embedded(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # Half a surrogate pair cannot be written as UTF-8.
    return Markup(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    """The hash of an inline element as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return (files("excise.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("excise.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "controls": controls,
        "interval": shown_interval,
        "kind": kind_of,
        "level": level,
        "metric_title": title,
        "together": lambda text: text.replace(" %", "\u00a0%").replace(" to -", " to\u00a0-"),
        "unit": unit,
    }
    environment.globals |= {
        "shown": shown,
        "shown_change": shown_change,
        "symbols": SYMBOLS,
        "labels": LABELS,
    }
    return environment
