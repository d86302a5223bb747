"""WinoBias' files: eight of sentences, two of occupations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from excise.sources.files import Source

Version = Literal["pro", "anti"]
Kind = Literal[1, 2]
Part = Literal["dev", "test"]

_FOLDER = (
    "https://raw.githubusercontent.com/uclanlp/corefBias/"
    "0bce984dd081bbc10b0622f326727a024c607895/WinoBias/wino/data/"
)
_SHA256: Mapping[tuple[Version, Kind, Part], str] = {
    ("pro", 1, "dev"): "dd55a0d220fe4c0ceb63dd4648223fb4fe1a58d5ad95c116a002ad24b0e292a5",
    ("pro", 1, "test"): "db7838907238a758eeb5779e48f38c013b892910d6fe864456c59f04245c6689",
    ("pro", 2, "dev"): "8f0250de723cea9328e3eaf7169e07936f01aa5909ce7aa580db66eb803f4e86",
    ("pro", 2, "test"): "ea1c1fd94fa612e3cc44d7fa3cc4cb76021bb63fdf94f9826f430051e9052438",
    ("anti", 1, "dev"): "a4e0ebae344e78b56f657a42e8ae684b9db7747d177c5e7149c0907ebb7f3bf6",
    ("anti", 1, "test"): "331db5bd74bfefebf146a60b67645152a4a1991570d2a56f57154103ac361dd2",
    ("anti", 2, "dev"): "763ad829ad724f9a85ead689ba8ca69072020cb1238def6210f0fc6a47b97e59",
    ("anti", 2, "test"): "336571ac1ea8c06cd2aba8e5dd2bd98e00acc0c48da3e4ec5ec7e54eb2633a8f",
}


def _source(name: str, file: str, sha256: str) -> Source:
    return Source(
        name=name,
        path=f"winobias/{file}",
        url=f"{_FOLDER}{file}",
        sha256=sha256,
        licence="MIT",
        citation=(
            "Zhao et al. (2018), Gender Bias in Coreference Resolution: Evaluation and Debiasing "
            "Methods, NAACL 2018"
        ),
    )


SENTENCES: Mapping[tuple[Version, Kind, Part], Source] = MappingProxyType(
    {
        (version, kind, part): _source(
            f"WinoBias {version}-stereotyped, type {kind}, {part}",
            f"{version}_stereotyped_type{kind}.txt.{part}",
            sha256,
        )
        for (version, kind, part), sha256 in _SHA256.items()
    }
)
"""396 numbered sentences each; line n of the pro and of the anti file belong together."""

FEMALE_OCCUPATIONS = _source(
    "WinoBias occupations, female",
    "female_occupations.txt",
    "693bff12286c2c1d46c7d4d45a44a631574710c30b39c1a3001bb7bdebb44ed8",
)
"""The 20 occupations that the stereotype gives to women."""

MALE_OCCUPATIONS = _source(
    "WinoBias occupations, male",
    "male_occupations.txt",
    "6b82d88847b69d56d207a0c396e9830b031890de585e916e6b4e9bc50672657e",
)
"""The 20 occupations that the stereotype gives to men."""

ENTRIES: tuple[Source, ...] = (*SENTENCES.values(), FEMALE_OCCUPATIONS, MALE_OCCUPATIONS)
"""The files of this family, for the table in `excise.sources`."""
