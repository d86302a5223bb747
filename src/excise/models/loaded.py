"""A model with its tokenizer and its row in the table of architectures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from excise.errors import ModelError
from excise.models.architectures import DESCRIBED, Architecture, Site, layout_of, sites
from excise.models.digest import weights_digest
from excise.models.linear import LinearMap, is_linear
from excise.models.placement import input_device, nowhere, offloaded
from excise.models.probe import probe


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
        """Whether all prompts may be scored as one prefix tree (`excise.scoring.tree_attention`).

        Positions must be free, so not with ALiBi, and the attention one that transformers lets be
        replaced. Windows are followed; capped logits and chunks are not. Rotary positions that are
        scaled by the length of what is read would differ with the company of a prompt.
        """
        config = self.model.config
        layers = set(getattr(config, "layer_types", None) or ())
        scaled = {
            name
            for rope in _dictionaries(getattr(config, "rope_parameters", None))
            if (name := rope.get("rope_type", "default")) in ("dynamic", "longrope")
        }
        return (
            self.architecture.explicit_positions
            and bool(getattr(self.model, "_supports_attention_backend", False))
            and getattr(config, "attn_logit_softcapping", None) is None
            and layers <= {"full_attention", "sliding_attention"}
            and not scaled
        )

    def positions_for(self, prompt: int, answer: int) -> int:
        """Positions that a prompt and its answer take: one after the other, or side by side.

        Args:
            prompt: tokens of the prompt.
            answer: tokens of the answer; the decoder's own where there are two stacks.
        """
        return max(prompt, answer) if self.encoder_decoder else prompt + answer

    @property
    def device(self) -> torch.device:
        """Where the input embeddings compute: what is asked goes there."""
        return input_device(self.model)

    def refuse_spread(self, purpose: str) -> None:
        """Refuse a model on several devices where all of it must be on one.

        Args:
            purpose: what was asked for, as the beginning of the message.

        Raises:
            ModelError: its weights are on several devices, or offloaded.
        """
        self.refuse_offloaded(purpose)
        devices = sorted({str(parameter.device) for parameter in self.model.parameters()})
        if len(devices) > 1:
            raise ModelError(
                f"{purpose} needs all of {self.name!r} on one device, and it is spread over "
                f"{', '.join(devices)}; leave out --device-map."
            )

    def refuse_offloaded(self, purpose: str) -> None:
        """Refuse weights that are in the model during a forward pass only.

        Args:
            purpose: what was asked for, as the beginning of the message.

        Raises:
            ModelError: some weights are kept in the main memory or on disk meanwhile.
        """
        if offloaded(self.model):
            raise ModelError(
                f"{purpose} needs all weights of {self.name!r} in place, and some are offloaded to "
                "the main memory or to disk; take devices with more memory, --dtype bfloat16, or "
                "a smaller model."
            )

    def linear(self, module: str) -> LinearMap:
        """The linear map of that name."""
        found: LinearMap = self.model.get_submodule(module)
        if not is_linear(found):
            raise ModelError(f"module {module!r} is a {type(found).__name__}, not a linear map.")
        return found


def wrap(
    model: Any,
    tokenizer: Any,
    *,
    name: str | None = None,
    apply_chat_template: str = "auto",
    neurons: str | None = None,
    no_neurons: str | None = None,
) -> LoadedModel:
    """Take an already loaded `PreTrainedModel` with its tokenizer.

    The model is put into eval mode; its weights are not changed.

    Args:
        model: a transformers model with a language-model head.
        tokenizer: its tokenizer.
        name: what to call it in results; by default its `name_or_path`.
        apply_chat_template: `auto` (if the tokenizer has one and the model is decoder-only), `yes`
            or `no`.
        neurons: describes a layout that the table does not have, or replaces the table's; see
            `excise.models.architectures.layout_of`.
        no_neurons: which linear maps hold none, beside `neurons`.

    Raises:
        ModelError: quantised weights or weights without values, `yes` where there is no template to
            apply, a masked language model without its head, or an encoder-decoder model without a
            token that its decoder starts from.
        UnsupportedArchitectureError: a layout that nobody describes, or otherwise than it is.
        ConfigError: `neurons` or `no_neurons` is no regular expression, or lacks a group.
    """
    refuse_quantised(getattr(model, "config", None))
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise ModelError(
            f"{type(model).__name__} is not a transformers model: it has no config.model_type."
        )
    architecture = layout_of(config, neurons, no_neurons)
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
    if (empty := nowhere(model)) is not None:
        raise ModelError(
            f"weight {empty!r} is not in memory (on the meta device), and nothing brings it there; "
            "load the checkpoint with from_pretrained."
        )
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        raise ModelError(
            "some weights are whole numbers, as quantised ones are; neurons are located and "
            "excised in full precision. Load the unquantised checkpoint."
        )
    start = getattr(config, "decoder_start_token_id", None)
    if architecture.kind == "encoder-decoder" and start is None:
        raise ModelError(
            "the model's config names no decoder_start_token_id, so no answer has a beginning; "
            "set it to the token that the model was trained with."
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
    found = loaded.sites  # an unknown layout is refused here, not after an hour
    if architecture.name == DESCRIBED:
        probe(model, found, encoder_decoder=loaded.encoder_decoder)
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


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    """The innermost dictionaries: rotary positions may be described layer type by layer type."""
    if not isinstance(value, dict):
        return []
    inner = [found for item in value.values() for found in _dictionaries(item)]
    return inner or [value]
