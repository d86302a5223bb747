"""A model with its tokenizer and its row in the table of architectures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from excise.errors import ModelError
from excise.models.architectures import Architecture, Site, architecture_of, sites
from excise.models.digest import weights_digest


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model in eval mode, ready to be scored, attributed and patched."""

    model: Any
    tokenizer: Any
    name: str
    """Hub id or path, as the user gave it."""
    architecture: Architecture
    chat_template: bool
    """Whether prompts are wrapped in the tokenizer's chat template."""
    digest: str
    """sha256 of the unpatched weights."""

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All linear maps that hold neurons."""
        return sites(self.model, self.architecture)

    @property
    def n_neurons(self) -> int:
        """Number of neurons over all sites."""
        return sum(site.size for site in self.sites)

    @property
    def encoder_decoder(self) -> bool:
        """Whether answers come from a decoder that reads an encoder."""
        return self.architecture.kind == "encoder-decoder"

    @property
    def masked(self) -> bool:
        """Whether it fills gaps in texts and continues none."""
        return self.architecture.kind == "masked"

    def refuse_masked(self, purpose: str) -> None:
        """Refuse a masked language model where a model must read a prompt and go on from it.

        Args:
            purpose: what was asked for, as the beginning of the message.

        Raises:
            ModelError: the model is a masked one.
        """
        if self.masked:
            raise ModelError(
                f"{purpose} needs a model that continues a text, and {self.name!r} is a masked "
                "language model; ask it tasks that compare sentences, such as crows-pairs, or "
                "take another model."
            )

    @property
    def branches(self) -> bool:
        """Whether options may branch off one shared prompt: free attention masks and positions.

        Not with ALiBi, sliding windows or attention kernels that take no boolean mask: flash takes
        none at all, eager adds what it is given, so that a boolean mask would forbid nothing.
        """
        config = self.model.config
        windows = getattr(config, "sliding_window", None) is not None and getattr(
            config, "use_sliding_window", True
        )
        kernel = getattr(config, "_attn_implementation", "eager")
        return self.architecture.explicit_positions and not windows and kernel == "sdpa"

    @property
    def device(self) -> torch.device:
        """Where the input embeddings live."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def linear(self, module: str) -> nn.Linear:
        """The linear map of that name."""
        found = self.model.get_submodule(module)
        if not isinstance(found, nn.Linear):
            raise ModelError(f"module {module!r} is a {type(found).__name__}, not a linear map.")
        return found


def wrap(
    model: Any, tokenizer: Any, *, name: str | None = None, apply_chat_template: str = "auto"
) -> LoadedModel:
    """Take an already loaded `PreTrainedModel` with its tokenizer.

    The model is put into eval mode; its weights are not changed.

    Args:
        model: a transformers model with a language-model head.
        tokenizer: its tokenizer.
        name: what to call it in results; by default its `name_or_path`.
        apply_chat_template: `auto` (if the tokenizer has one and the model is decoder-only), `yes`
            or `no`.

    Raises:
        ModelError: quantised weights, `yes` where there is no template to apply, or a masked
            language model without its head.
        UnsupportedArchitectureError: a layout that the table does not describe.
    """
    refuse_quantised(getattr(model, "config", None))
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise ModelError(
            f"{type(model).__name__} is not a transformers model: it has no config.model_type."
        )
    architecture = architecture_of(config.model_type)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if architecture.kind == "masked" and not type(model).__name__.endswith("ForMaskedLM"):
        raise ModelError(
            f"{type(model).__name__} is no masked language model; load the checkpoint with "
            "AutoModelForMaskedLM."
        )
    if apply_chat_template == "yes" and architecture.kind != "decoder-only":
        raise ModelError(
            f"{architecture.kind} models are asked without a chat template; "
            "use --apply-chat-template no."
        )
    if apply_chat_template == "yes" and not has_template:
        raise ModelError("the tokenizer has no chat template; use --apply-chat-template no.")
    chat = apply_chat_template == "yes" or (
        apply_chat_template == "auto" and has_template and architecture.kind == "decoder-only"
    )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError(
            "some weights are not in memory (meta or offloaded); load the model onto one device."
        )
    model.eval()
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name or str(getattr(config, "name_or_path", "") or type(model).__name__),
        architecture=architecture,
        chat_template=chat,
        digest=weights_digest(model),
    )
    _ = loaded.sites  # an unknown layout is refused here, not after an hour
    return loaded


def refuse_quantised(config: Any) -> None:
    """Refuse 4-bit and 8-bit weights: rows cannot be zeroed exactly, gradients are not defined.

    Raises:
        ModelError: the configuration names a quantisation method.
    """
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None:
        method = getattr(quantisation, "quant_method", None)
        if method is None and isinstance(quantisation, dict):
            method = quantisation.get("quant_method")
        raise ModelError(
            f"the model's weights are quantised ({method or 'unknown method'}); neurons are "
            "located and excised in full precision. Load the unquantised checkpoint or a GGUF file."
        )
