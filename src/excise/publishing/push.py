"""Uploads to the Hugging Face Hub: what would go there, and the upload itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from excise.errors import ConfigError, OutputError, PatchError
from excise.evidence import RUN_FILE, open_run
from excise.patches import ADAPTER_CONFIG_FILE, NEURONS_FILE, Adapter
from excise.publishing.card import card_of
from excise.publishing.text import hub_id, valid_repository

CARD_FILE = "README.md"


@dataclass(frozen=True)
class Staged:
    """A folder as it would be on the Hub."""

    folder: Path
    repository: str
    """NAMESPACE/NAME."""
    kind: str
    """`adapter`, the patch of a run, or `checkpoint`."""
    notes: tuple[str, ...]
    """What to know before uploading."""

    @property
    def files(self) -> dict[str, int]:
        """File -> bytes; hidden files stay here."""
        return {
            str(path.relative_to(self.folder)): path.stat().st_size
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not _hidden(path.relative_to(self.folder))
        }

    @property
    def card(self) -> str:
        """The model card."""
        return (self.folder / CARD_FILE).read_text(encoding="utf-8")

    @property
    def url(self) -> str:
        """Where it will be."""
        return f"{constants.ENDPOINT}/{self.repository}"


@contextmanager
def staged(source: Path, repository: str, *, base_model: str | None = None) -> Iterator[Staged]:
    """Prepare an upload; nothing leaves this machine, and `source` is not changed.

    Of a run folder only the patch goes, as an adapter with a model card: the answers, which hold
    the texts of the data, and the records, which hold paths of this machine, stay. A checkpoint of
    `excise apply` goes as it is.

    Args:
        source: a run folder, or a checkpoint folder.
        repository: NAMESPACE/NAME on the Hub.
        base_model: Hub id of the base model, where the run was made on a local folder; of run
            folders only.

    Raises:
        ConfigError: no name for a repository, or a folder of another kind.
        PatchError: the run's patch is damaged, or has no adapter.
        RunFolderError: the run folder is damaged.
    """
    _check_names(repository, base_model)
    if (source / RUN_FILE).is_file():
        with tempfile.TemporaryDirectory(prefix="excise-push-") as scratch:
            yield _staged_run(source, Path(scratch), repository, base_model)
        return
    if not all((source / name).is_file() for name in ("config.json", f"patch/{NEURONS_FILE}")):
        raise ConfigError(
            f"{source} is neither a run folder nor a checkpoint of `excise apply`; give one of "
            "them."
        )
    if not (source / CARD_FILE).is_file():
        raise ConfigError(f"{source} has no model card ({CARD_FILE}); write it again with apply.")
    if base_model is not None:
        raise ConfigError("--base-model is for run folders; a checkpoint goes up as it is.")
    yield Staged(source, repository, "checkpoint", ())


def upload(ready: Staged, *, public: bool = False) -> str:
    """Make the repository if there is none, and upload the folder as one commit.

    Args:
        ready: what to upload.
        public: whether a new repository can be read by everyone; one that exists keeps its
            visibility.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: nobody is logged in.
        OutputError: the Hub refused, or cannot be reached.
    """
    check_login()
    api = HfApi()
    try:
        api.create_repo(ready.repository, private=not public, repo_type="model", exist_ok=True)
        api.upload_folder(
            repo_id=ready.repository,
            folder_path=ready.folder,
            repo_type="model",
            commit_message=f"Upload {ready.kind} with excise",
            ignore_patterns=[".*", "**/.*"],
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OutputError(f"cannot upload to {ready.repository}: {reason}") from error
    return ready.url


def check_login() -> None:
    """Refuse where no token for the Hub is at hand.

    Raises:
        ConfigError: nobody is logged in.
    """
    if get_token() is None:
        raise ConfigError(
            "not logged in to the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN."
        )


def _staged_run(run: Path, folder: Path, repository: str, base_model: str | None) -> Staged:
    stored = open_run(run)
    patch = stored.patch
    if not (run / "patch" / ADAPTER_CONFIG_FILE).is_file():
        raise PatchError(
            f"the patch of {run} has no adapter (an older version wrote it); write a checkpoint "
            "with `excise apply` and push that."
        )
    adapter = Adapter.load(run / "patch")
    notes = []
    base = base_model or patch.base_model
    if hub_id(base):
        patch, adapter = replace(patch, base_model=base), adapter.for_base(base)
    else:
        # A path of this machine is nobody else's business.
        name = Path(base).name
        patch, adapter = replace(patch, base_model=name), adapter.for_base(name)
        notes.append(
            f"the base model is {name!r}, no repository on the Hub; --base-model ID names one, so "
            "that others can load the patch."
        )
    patch.save(folder, adapter)
    card = card_of(stored, kind="adapter", repository=repository, base_model=base_model)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return Staged(folder, repository, "adapter", tuple(notes))


def _check_names(repository: str, base_model: str | None) -> None:
    if not valid_repository(repository) or repository.count("/") != 1:
        raise ConfigError(f"{repository!r} names no repository; give NAMESPACE/NAME.")
    if base_model is not None and not hub_id(base_model):
        raise ConfigError(f"--base-model {base_model!r} is no Hub id; give NAMESPACE/NAME.")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
