"""Linear maps in the two layouts that transformers stores them in."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

LinearMap: TypeAlias = nn.Linear | Conv1D
"""y = x W' + b with W as [outputs, inputs], or GPT-2's Conv1D with W as [inputs, outputs]."""


def is_linear(module: object) -> bool:
    """Whether a module is a linear map whose weights can be read."""
    return isinstance(module, nn.Linear | Conv1D)


def output_rows(linear: LinearMap) -> torch.Tensor:
    """The weights as [outputs, inputs]: a neuron is a row, in Conv1D a column of what is stored.

    Always a view: writing to it changes the model.
    """
    weight: torch.Tensor = linear.weight
    return weight.t() if isinstance(linear, Conv1D) else weight
