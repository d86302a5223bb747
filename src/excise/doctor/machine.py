"""What this machine has: versions, the default model, benchmark files, judges.

Nothing is loaded, downloaded or checked for its content; that happens when something is used.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from excise.judges.choose import CLASSIFIERS
from excise.models.loading import DEFAULT_FILE, DEFAULT_MODEL, DEFAULT_PACKAGE
from excise.sources import SOURCES, Source, find

_PACKAGES = ("excise", "torch", "transformers")
_SCORERS = {"vader": "vaderSentiment", "profanity-check": "profanity_check"}
"""Offline scorer -> the module that it needs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about this machine."""

    name: str
    state: str
    present: bool
    """Whether it is on this machine; what is not may still be downloaded when it is used."""


def environment(data_dir: Path | None = None) -> tuple[Finding, ...]:
    """What is on this machine.

    Args:
        data_dir: folder with the benchmark files; see `excise.sources.fetch`.

    Raises:
        ConfigError: the data folder does not exist.
    """
    families = groupby(SOURCES, key=lambda source: source.path.split("/")[0])
    return (
        Finding("Python", platform.python_version(), True),
        *(_package(name) for name in _PACKAGES),
        _default_model(),
        *(_data(family, list(files), data_dir) for family, files in families),
        *(_on_the_hub(f"{task} classifier", name) for task, name in CLASSIFIERS.items()),
        *(_scorer(name, module) for name, module in _SCORERS.items()),
    )


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name), True)
    except PackageNotFoundError:
        return Finding(name, "not installed as a package", False)


def _default_model() -> Finding:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for root in (spec.submodule_search_locations if spec else None) or ():
        if (Path(root) / DEFAULT_FILE).is_file():
            return Finding("default model", f"{DEFAULT_MODEL}, in package {DEFAULT_PACKAGE}", True)
    return _on_the_hub("default model", DEFAULT_MODEL)


def _on_the_hub(what: str, name: str) -> Finding:
    # A cached file is a path; what is known to be missing, or not known, is not.
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return Finding(what, f"{name}, in the Hub cache", True)
    return Finding(what, f"{name}, not on this machine: loaded from the Hub", False)


def _data(family: str, files: Sequence[Source], data_dir: Path | None) -> Finding:
    paths = [find(source, data_dir=data_dir) for source in files]
    here = [path for path in paths if path is not None]
    state = f"{len(here)} of {len(files)} files"
    if here:
        state += f", the first is {here[0]}"
    if len(here) < len(files):
        state += "; the rest is downloaded when it is used"
    return Finding(f"data: {family}", state, len(here) == len(files))


def _scorer(name: str, module: str) -> Finding:
    present = importlib.util.find_spec(module) is not None
    return Finding(f"offline scorer: {name}", "installed" if present else "not installed", present)
