"""StereoSet's file."""

from __future__ import annotations

from excise.sources.files import Source

ENTRIES: tuple[Source, ...] = ()
"""The files of this family, for the table in `excise.sources`."""
