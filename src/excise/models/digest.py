"""A digest of a model's weights, so that a patch knows the model it belongs to."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from excise.models.placement import weights


def weights_digest(model: nn.Module) -> str:
    """sha256 over names, shapes and values of all parameters.

    Values enter in float32, so that a checkpoint stored in bfloat16 has one digest whether it was
    loaded in bfloat16 or in float32. Tied parameters count once.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, values_of in sorted(weights(model).items()):
        parameter = values_of()
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        values = parameter.to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(values.view(-1).numpy().tobytes())
    return digest.hexdigest()
