"""The two files of a LoRA adapter as a value: tensors and configuration, in PEFT's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from excise.errors import PatchError

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that is not on disk yet; writing it needs no PEFT."""

    tensors: Mapping[str, torch.Tensor]
    """PEFT's name -> values."""
    config: Mapping[str, Any]
    """`adapter_config.json`."""

    def for_base(self, base_model: str) -> Adapter:
        """The same adapter, naming another place of its base model."""
        return replace(self, config={**self.config, "base_model_name_or_path": base_model})

    def files(self) -> dict[str, bytes]:
        """File name -> content; the same bytes for the same adapter."""
        text = json.dumps(dict(self.config), indent=1, ensure_ascii=False) + "\n"
        return {
            ADAPTER_CONFIG_FILE: text.encode(),
            ADAPTER_FILE: save(dict(self.tensors), metadata={"format": "pt"}),
        }

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read the two files back.

        Raises:
            PatchError: one is missing or damaged.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
            tensors = load((folder / ADAPTER_FILE).read_bytes())
        except OSError as error:
            raise PatchError(f"cannot read the adapter in {folder}: {error.strerror}.") from error
        except (ValueError, SafetensorError) as error:
            raise PatchError(f"the adapter in {folder} is damaged: {error}.") from error
        return cls(tensors, config)


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """File name -> sha256 of its content."""
    return {name: sha256(content).hexdigest() for name, content in files.items()}


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Refuse adapter files that are not those written with the patch.

    None at all are accepted: the neurons are the whole patch, and may be passed on alone.

    Args:
        folder: the patch folder.
        expected: file name -> sha256, as `neurons.json` holds it.

    Raises:
        PatchError: one is missing beside another, or its content is another; the message names it.
    """
    if not any((folder / name).exists() for name in expected):
        return
    for name, digest in expected.items():
        path = folder / name
        try:
            found = sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise PatchError(
                f"the patch's {path} cannot be read ({error.strerror}); write the patch again, or "
                "name neurons.json itself to go on without the adapter."
            ) from error
        if found != digest:
            raise PatchError(
                f"{path} is not the file that was written with the patch (sha256 {found[:12]}, "
                f"expected {digest[:12]}); write the patch again, or name neurons.json itself to "
                "go on without the adapter."
            )
