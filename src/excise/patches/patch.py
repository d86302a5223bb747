"""A patch: the excised neurons with the digest of the model they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from excise.config import PatchConfig
from excise.errors import PatchError, PatchMismatchError
from excise.models import LoadedModel, weights_digest
from excise.patches.adapter import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    Adapter,
    check_files,
    digests,
)
from excise.patches.edit import Changes, changes_of, scale_outputs, scaled_outputs
from excise.patches.edit import check as check_neurons
from excise.types import Neuron

SCHEMA_VERSION = 1
NEURONS_FILE = "neurons.json"


@dataclass(frozen=True)
class Patch:
    """A set of neurons to excise from one model; a value that changes nothing by itself."""

    neurons: tuple[Neuron, ...]
    """In the order of their rank."""
    scores: tuple[float, ...]
    """Bias score of each neuron."""
    base_model: str
    """Hub id or path of the model that the patch was made on."""
    base_digest: str
    """sha256 of that model's weights."""
    factor: float = 0.0
    """What the neurons' outputs are multiplied by; 0 excises them."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How it was found: preset, seed, split digests, metrics. JSON values."""
    factors: tuple[float, ...] = ()
    """A factor for each neuron in place of `factor`; empty where all have the same."""

    def __post_init__(self) -> None:
        if len(self.neurons) != len(self.scores):
            raise PatchError(f"{len(self.neurons)} neurons, but {len(self.scores)} scores.")
        if len(set(self.neurons)) != len(self.neurons):
            raise PatchError("a neuron is listed twice.")
        if self.factors and len(self.factors) != len(self.neurons):
            raise PatchError(f"{len(self.neurons)} neurons, but {len(self.factors)} factors.")

    def __len__(self) -> int:
        return len(self.neurons)

    @property
    def by_neuron(self) -> Mapping[Neuron, float]:
        """Neuron -> what its output is multiplied by, in the order of the neurons."""
        factors = self.factors or (self.factor,) * len(self)
        return dict(zip(self.neurons, factors, strict=True))

    def __or__(self, other: Patch) -> Patch:
        """The union of two patches of the same model; a common neuron keeps its higher score.

        Raises:
            PatchMismatchError: the patches belong to different models, or scale differently; those
                with a factor for each neuron may, except in a common neuron.
        """
        if self.base_digest != other.base_digest:
            raise PatchMismatchError(
                f"patches of different models cannot be joined: {self.base_model} and "
                f"{other.base_model} have different weights."
            )
        own = bool(self.factors or other.factors)
        factors = {**self.by_neuron, **other.by_neuron}
        clash = any(self.by_neuron.get(n, f) != f for n, f in other.by_neuron.items())
        if clash or (not own and self.factor != other.factor):
            raise PatchMismatchError(
                "patches with different factors cannot be joined: "
                f"{self.factor} and {other.factor}."
            )
        best = dict(zip(self.neurons, self.scores, strict=True))
        for neuron, score in zip(other.neurons, other.scores, strict=True):
            best[neuron] = max(score, best.get(neuron, score))
        return replace(
            self,
            neurons=tuple(best),
            scores=tuple(best.values()),
            factors=tuple(factors[neuron] for neuron in best) if own else (),
            provenance={"union_of": [dict(self.provenance), dict(other.provenance)]},
        )

    def check(self, model: LoadedModel | Any, *, force: bool = False) -> None:
        """Refuse a model that the patch does not belong to; nothing is changed.

        Args:
            model: a `LoadedModel` or a transformers model.
            force: accept other weights, as long as modules and indices exist.

        Raises:
            PatchMismatchError: the weights differ from those that the patch was made on.
            PatchError: a missing module or an index out of range.
        """
        digest = model.digest if isinstance(model, LoadedModel) else weights_digest(model)
        if digest != self.base_digest and not force:
            raise PatchMismatchError(
                f"the patch was made on {self.base_model} (weights {self.base_digest[:12]}), not "
                f"on this model (weights {digest[:12]}). Use the model it was made on, or --force."
            )
        check_neurons(_module(model), self.neurons)

    @contextmanager
    def applied(self, model: LoadedModel | Any, *, force: bool = False) -> Iterator[None]:
        """Excise for the length of a `with` block.

        **The model is changed in place meanwhile**; its weights come back bit for bit, also after
        an error inside.

        Args:
            model: a `LoadedModel` or a transformers model.
            force: accept other weights than the patch was made on.
        """
        self.check(model, force=force)
        with scaled_outputs(_module(model), self.neurons, self.factors or self.factor):
            yield

    @property
    def changes(self) -> Changes:
        """Every neuron with its factor."""
        return changes_of(self.neurons, self.factors or self.factor)

    def apply(self, model: LoadedModel | Any, *, force: bool = False) -> None:
        """Excise for good: **the model is changed in place**.

        A `LoadedModel` keeps the digest of the weights that it was loaded with.
        """
        self.check(model, force=force)
        scale_outputs(_module(model), self.neurons, self.factors or self.factor)

    def save(self, folder: str | Path, adapter: Adapter | None = None) -> None:
        """Write `neurons.json` into a folder, which is made if needed.

        Args:
            folder: where to; an adapter that lies there is replaced or removed.
            adapter: this patch as a LoRA, of `lora_of`; its files are written beside.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = adapter.files() if adapter else {}
        for name in (ADAPTER_CONFIG_FILE, ADAPTER_FILE):
            (folder / name).unlink(missing_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / NEURONS_FILE).write_text(self.to_json(digests(files)), encoding="utf-8")

    def to_json(self, adapter_sha256: Mapping[str, str] | None = None) -> str:
        """The text of `neurons.json`.

        Args:
            adapter_sha256: adapter file -> sha256, where such files lie beside it.
        """
        own = self.by_neuron if self.factors else {}
        document = {
            "schema_version": SCHEMA_VERSION,
            "base_model": self.base_model,
            "base_digest": self.base_digest,
            "factor": self.factor,
            "neurons": [
                {"module": neuron.module, "index": neuron.index, "score": score}
                | ({"factor": own[neuron]} if own else {})
                for neuron, score in zip(self.neurons, self.scores, strict=True)
            ],
            "provenance": dict(self.provenance),
        }
        if adapter_sha256:
            document["adapter_sha256"] = dict(adapter_sha256)
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> Patch:
        """Read a patch folder, or its `neurons.json`.

        The adapter in a folder is not read, but if there is one, it must be the one written with
        the patch; of a `neurons.json` that is named itself, nothing beside it is looked at.

        Raises:
            PatchError: no such file, cut off, of another schema version, or malformed; or the
                adapter is damaged, in part missing, or another one.
        """
        path = Path(folder)
        beside = path if path.is_dir() else None
        path = path / NEURONS_FILE if beside else path
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PatchError(f"cannot read patch {path}: {error.strerror}.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PatchError(f"patch {path} is cut off or no JSON: {error}.") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise PatchError(
                f"patch {path} has schema version {version!r}; this excise reads {SCHEMA_VERSION}."
            )
        try:
            read = _Document.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise PatchError(f"patch {path}, field {where}: {first['msg']}.") from error
        if beside:
            check_files(beside, read.adapter_sha256)
        factors = tuple(n.factor for n in read.neurons if n.factor is not None)
        if 0 < len(factors) < len(read.neurons):
            raise PatchError(f"patch {path}: some neurons have a factor of their own, others none.")
        try:
            return cls(
                neurons=tuple(Neuron(n.module, n.index) for n in read.neurons),
                scores=tuple(n.score for n in read.neurons),
                base_model=read.base_model,
                base_digest=read.base_digest,
                factor=read.factor,
                provenance=read.provenance,
                factors=factors,
            )
        except PatchError as error:
            raise PatchError(f"patch {path}: {error}") from error


_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_AdapterFile = Annotated[str, Field(pattern=r"^adapter_(config\.json|model\.safetensors)$")]


class _Neuron(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    module: str = Field(min_length=1)
    index: int = Field(ge=0)
    score: float = Field(allow_inf_nan=False)
    factor: float | None = Field(default=None, allow_inf_nan=False)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    schema_version: int
    base_model: str
    base_digest: _Sha256
    factor: float = Field(default=0.0, allow_inf_nan=False)
    neurons: list[_Neuron]
    provenance: dict[str, Any]
    adapter_sha256: dict[_AdapterFile, _Sha256] = Field(default_factory=dict)


def factor_of(config: PatchConfig) -> float:
    """What the options multiply an output feature by."""
    return config.scale if config.removal == "scale" else 0.0


def _module(model: LoadedModel | Any) -> Any:
    return model.model if isinstance(model, LoadedModel) else model
