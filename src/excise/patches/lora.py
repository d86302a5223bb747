"""The patch as an exact LoRA that PEFT loads, switches on and off, and merges.

Multiplying output feature i of a linear map by f changes its weights by the rank-one matrix
e_i (f w_i - w_i)', where w_i is the feature's weight row and e_i the i-th unit vector. k features
of a map are a LoRA of rank k (Hu et al. 2021, section 4.1) with the rows f w_i - w_i as A, the unit
vectors as B, and a scaling of 1.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from excise.errors import NonFiniteError, PatchError, PatchMismatchError
from excise.models import LinearMap, LoadedModel, output_rows
from excise.patches.adapter import Adapter
from excise.patches.edit import by_module
from excise.patches.patch import Patch
from excise.types import Neuron

log = logging.getLogger(__name__)

_TASK_TYPES = {"decoder-only": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}
_PREFIX = "base_model.model."
"""What PEFT puts before the names of the base model's modules."""


@torch.no_grad()
def lora_of(loaded: LoadedModel, patch: Patch, *, force: bool = False) -> Adapter:
    """The patch as a LoRA of this model.

    A and B are kept in float32. Added to float32 weights they give what `Patch.apply` gives: the
    same values where f is 0, -1 or between 0.5 and 2, elsewhere within 2^-22 of the larger of the
    original and the scaled weight. Added to bfloat16 or float16 weights in float32, as PEFT does,
    they give the same values where f is 0 or its size is between 2^-12 and 2^12.

    PEFT has LoRA biases in all maps of an adapter or in none, and merges none into a map without a
    bias of its own. Where a patch scales biases of some maps, and other maps have none, the former
    are stored as whole maps (`modules_to_save`) instead. A patch without neurons becomes an adapter
    of zeros on the first map, since PEFT loads no adapter without maps.

    Args:
        loaded: the model that the patch was made on, unpatched.
        patch: what to excise.
        force: accept other weights than the patch was made on.

    Raises:
        PatchMismatchError: the weights differ from those that the patch was made on.
        PatchError: a missing module or index, or weights that two modules share.
        NonFiniteError: NaN or infinity in the weights of a neuron.
    """
    patch.check(loaded, force=force)
    factors = patch.by_neuron
    changes = {
        module: _change(loaded.model, module, {i: factors[Neuron(module, i)] for i in indices})
        for module, indices in by_module(patch.neurons).items()
    }
    if not changes:
        first = loaded.sites[0].module
        changes = {first: _change(loaded.model, first, {0: 1.0})}
    _refuse_shared(loaded.model, changes)
    biased = {name for name, change in changes.items() if change.bias is not None}
    mixed = any(change.layer.bias is None for change in changes.values())
    whole = sorted(biased) if mixed else []
    lora_bias = bool(biased) and not mixed
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    for name, change in changes.items():
        if name in whole:
            tensors |= {f"{_PREFIX}{name}.{part}": v for part, v in change.scaled().items()}
            continue
        ranks[name] = len(change.rows)
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = change.rows
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = change.unit_vectors()
        if lora_bias:
            tensors[f"{_PREFIX}{name}.lora_B.bias"] = change.bias_or_zeros()
    transposed = any(isinstance(changes[name].layer, Conv1D) for name in ranks)
    return Adapter(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        _config(loaded, patch.base_model, ranks, whole, bias=lora_bias, transposed=transposed),
    )


def lora_if_possible(loaded: LoadedModel, patch: Patch, *, force: bool = False) -> Adapter | None:
    """`lora_of`; None with a note in the log where the model allows none, since a patch needs none.

    Raises:
        PatchMismatchError: the weights differ from those that the patch was made on.
    """
    try:
        return lora_of(loaded, patch, force=force)
    except PatchMismatchError:
        raise
    except (PatchError, NonFiniteError) as error:
        log.warning("the patch is written without a LoRA adapter: %s", error)
        return None


@dataclass(frozen=True)
class _Change:
    """What a patch does to one linear map."""

    layer: LinearMap
    factors: Mapping[int, float]
    """Output feature -> what it is multiplied by."""
    rows: torch.Tensor
    """[k, inputs] what is added to the weight rows of these features, in float32."""
    bias: torch.Tensor | None
    """[outputs] what is added to the bias, in float32; None where nothing is."""

    @property
    def outputs(self) -> int:
        return output_rows(self.layer).shape[0]

    def unit_vectors(self) -> torch.Tensor:
        """[outputs, k] one column for each feature."""
        vectors = torch.zeros(self.outputs, len(self.factors))
        for column, index in enumerate(self.factors):
            vectors[index, column] = 1.0
        return vectors

    def bias_or_zeros(self) -> torch.Tensor:
        return torch.zeros(self.outputs) if self.bias is None else self.bias

    def scaled(self) -> dict[str, torch.Tensor]:
        """The whole map as the patch leaves it."""
        scaled = copy.deepcopy(self.layer)
        for index, factor in self.factors.items():
            for values in (output_rows(scaled), scaled.bias):
                values[index] = _times(values[index], factor)
        return {name: values.detach() for name, values in scaled.named_parameters()}


def _change(model: nn.Module, module: str, factors: Mapping[int, float]) -> _Change:
    layer: Any = model.get_submodule(module)
    weight = output_rows(layer)
    rows = torch.stack([_added(weight[index], factor) for index, factor in factors.items()])
    bias = None
    if layer.bias is not None:
        bias = torch.zeros(len(layer.bias))
        for index, factor in factors.items():
            bias[index] = _added(layer.bias[index], factor)
    if not rows.isfinite().all() or (bias is not None and not bias.isfinite().all()):
        raise NonFiniteError(
            f"module {module!r} has NaN or infinity in a weight that the patch scales, so no LoRA "
            "can undo it; load a checkpoint with finite weights."
        )
    return _Change(layer, factors, rows, bias if bias is not None and bias.any() else None)


def _added(values: torch.Tensor, factor: float) -> torch.Tensor:
    """What has to be added to `values` to have them multiplied by `factor`, in float32."""
    # The product is rounded as the edit of the weights rounds it, in their own type.
    return (_times(values, factor).float() - values.float()).cpu()


def _times(values: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.zeros_like(values) if factor == 0.0 else values * factor


def _refuse_shared(model: nn.Module, changes: Mapping[str, _Change]) -> None:
    """Two modules with one weight: the edit reaches both, a LoRA on one module does not."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            owners.setdefault(id(weight), []).append(name)
    for change in changes.values():
        names = owners[id(change.layer.weight)]
        if len(names) > 1:
            raise PatchError(
                f"modules {names[0]!r} and {names[1]!r} share their weights, so a LoRA on one of "
                "them is not the patch; write a checkpoint with `excise apply` instead."
            )


def _config(
    loaded: LoadedModel,
    base_model: str,
    ranks: Mapping[str, int],
    whole: list[str],
    *,
    bias: bool,
    transposed: bool,
) -> dict[str, Any]:
    highest = max(ranks.values())
    # Anchored and escaped: PEFT takes a plain name for any module that ends with it.
    pattern = {f"^{re.escape(name)}": r for name, r in ranks.items() if r != highest}
    return {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES.get(loaded.architecture.kind),
        "base_model_name_or_path": base_model,
        "target_modules": "|".join(re.escape(name) for name in ranks),
        "modules_to_save": whole or None,
        "r": highest,
        "lora_alpha": highest,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": bias,
        "fan_in_fan_out": transposed,
        "inference_mode": True,
    }
