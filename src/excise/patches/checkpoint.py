"""Write a patched checkpoint: a plain transformers folder that needs no excise to load."""

from __future__ import annotations

from pathlib import Path

from excise.models import LoadedModel
from excise.patches.lora import lora_if_possible
from excise.patches.patch import Patch


def save_checkpoint(
    loaded: LoadedModel,
    patch: Patch,
    folder: Path,
    *,
    force: bool = False,
    card: str | None = None,
) -> None:
    """Save the patched weights, the tokenizer, the patch and a model card into an empty folder.

    Shapes are unchanged; weights are safetensors. The model in memory comes back unchanged.

    Args:
        loaded: the original model.
        patch: what to excise.
        folder: an existing folder to fill.
        force: accept other weights than the patch was made on.
        card: the model card; by default a short one, without measured values.
    """
    adapter = lora_if_possible(loaded, patch, force=force)
    with patch.applied(loaded, force=force):
        loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    patch.save(folder / "patch", adapter)
    (folder / "README.md").write_text(card or _card(loaded, patch), encoding="utf-8")


def _card(loaded: LoadedModel, patch: Patch) -> str:
    base = loaded.name.replace("\n", " ")
    modules = sorted({neuron.module for neuron in patch.neurons})
    return (
        f"---\nbase_model: {base!r}\nlibrary_name: transformers\n"
        "tags:\n- bias-neurons-pruned\n---\n\n"
        f"# {base}, patched\n\n"
        f"{len(patch)} of {loaded.n_neurons:,} neurons (output features of {len(modules)} linear "
        f"maps) are multiplied by {_factors(patch)}. Shapes, tokenizer and chat template are "
        "those of the original. The neurons and how they were found stand in "
        "`patch/neurons.json`.\n\n"
        "This names an operation, not a promise: what changed, and what it cost, has to be "
        "measured on your own tasks, for example with `excise evaluate`.\n"
    )


def _factors(patch: Patch) -> str:
    return " or ".join(f"{factor:g}" for factor in sorted(set(patch.factors or (patch.factor,))))
