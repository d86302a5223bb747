"""Errors that a user can cause and mend.

Every message says what is wrong, where, and what to do. The command line prints it as one line and
exits with code 2; anything that is not an `ExciseError` keeps its traceback.

    ExciseError
    ├── ConfigError                    an option or a configuration file makes no sense
    │   └── UnknownNameError           a task, preset or metric name that is not known
    ├── TaskFormatError                a data file is malformed (file, line, field)
    ├── DataUnavailableError           a file is neither on disk nor can it be fetched
    │   └── DigestMismatchError        a file's content is not the expected one
    ├── SplitError                     find, tune and test cannot be made disjoint
    ├── ModelError                     a model cannot be loaded
    │   └── UnsupportedArchitectureError
    ├── NonFiniteError                 NaN or infinity where a number must be
    ├── PatchError                     a patch is malformed or does not fit the model
    │   └── PatchMismatchError         a patch belongs to another model
    ├── OutputError                    an output folder is not ours, or cannot be written
    └── RunFolderError                 a folder to be read is no run folder, or is damaged
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ExciseError(Exception):
    """Base of all errors that a user can cause and mend."""


class ConfigError(ExciseError):
    """An option or a configuration file makes no sense."""


class UnknownNameError(ConfigError):
    """A name that is not known; lists the known ones and the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


class TaskFormatError(ExciseError):
    """A data file is malformed; names file, line and field."""


class DataUnavailableError(ExciseError):
    """A file is neither on disk nor can it be fetched."""


class DigestMismatchError(DataUnavailableError):
    """A file's content is not the expected one."""


class SplitError(ExciseError):
    """Find, tune and test cannot be made disjoint, or one of them would be empty."""


class ModelError(ExciseError):
    """A model cannot be loaded."""


class UnsupportedArchitectureError(ModelError):
    """A model whose neurons are not described in the table of architectures."""


class NonFiniteError(ExciseError):
    """NaN or infinity where a number must be; names module and instance."""


class PatchError(ExciseError):
    """A patch is malformed or does not fit the model."""


class PatchMismatchError(PatchError):
    """A patch belongs to another model."""


class OutputError(ExciseError):
    """An output folder exists and is not ours, or cannot be written."""


class RunFolderError(ExciseError):
    """A folder to be read is no run folder, is of a newer version, or is damaged."""
