"""From counted tokens to FLOPs, memory, disk and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.config import RunConfig
from excise.forecast.counting import NUMBERS, Stage
from excise.forecast.speed import Speed
from excise.models import LoadedModel
from excise.models.packed import MAX_BYTES

_SAVED = 1.9
"""Values that a forward pass with gradients keeps, per output of a linear map (measured on Llama
and T5: docs/scale.md); the outputs themselves are among them."""
_ROW = 150
"""Bytes of a row of items.parquet, measured."""


@dataclass(frozen=True)
class Forecast:
    """What a run costs."""

    parameters: int
    neurons: int
    stages: tuple[Stage, ...]
    flops: Mapping[str, float]
    """Stage -> floating-point operations."""
    weights_bytes: int
    memory_bytes: int
    """Peak: weights, packed copies on CPUs, and the larger of attribution and scoring."""
    disk_bytes: int
    seconds: Mapping[str, float] | None
    """Stage -> seconds; None where no speed is known."""

    def record(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "parameters": self.parameters,
            "neurons": self.neurons,
            "stages": {
                stage.name: {name: getattr(stage, name) for name in NUMBERS}
                | {"flops": self.flops[stage.name]}
                | ({"seconds": self.seconds[stage.name]} if self.seconds else {})
                for stage in self.stages
            },
            "flops": sum(self.flops.values()),
            "seconds": sum(self.seconds.values()) if self.seconds else None,
            "weights_bytes": self.weights_bytes,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
        }


def forecast(
    loaded: LoadedModel,
    counted: Sequence[Sequence[Stage]],
    config: RunConfig,
    speed: Speed | None = None,
    *,
    on_cpu: bool = True,
) -> Forecast:
    """What a run costs.

    FLOPs: 2 for each weight of a linear map and token that passes it, plus attention's products;
    attribution 3 times as many (a forward pass and two backward passes to activations).

    Args:
        loaded: the model; its weights may be on the meta device.
        counted: the stages of each task.
        config: the options of the run.
        speed: how fast the machine is.
        on_cpu: whether packed copies of float32 weights are made.
    """
    together: dict[str, Stage] = {}
    for stage in (stage for task in counted for stage in task):
        before = together.get(stage.name)
        together[stage.name] = stage if before is None else before.plus(stage)
    found = tuple(together.values())
    flops = {stage.name: _flops(loaded, stage) for stage in found}
    seconds = None
    if speed is not None:
        seconds = {
            stage.name: flops[stage.name]
            / (speed.attribution if stage.name == "find" else speed.scoring)
            for stage in found
        }
    model = loaded.model
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    each = model.dtype.itemsize
    weights = n_parameters * each
    linear = sum(map(_weights, _linears(loaded))) * each
    packs = on_cpu and each == 4 and linear <= MAX_BYTES
    memory = weights + max(
        2 * linear * packs + _attribution_bytes(loaded, found, config),
        linear * packs + min(config.scoring.max_memory_mib * 2**20, _scoring_bytes(loaded, config)),
    )
    rows = sum(s.prompts for s in found if s.name in ("original", "patched", "controls"))
    disk = rows * _ROW + 4 * loaded.n_neurons * config.trials * len(counted)
    return Forecast(
        n_parameters, loaded.n_neurons, found, flops, weights, int(memory), disk, seconds
    )


def _linears(loaded: LoadedModel) -> list[Any]:
    return [loaded.linear(site.module) for site in loaded.sites]


def _weights(linear: Any) -> int:
    count: int = linear.weight.numel()
    return count


def _flops(loaded: LoadedModel, stage: Stage) -> float:
    """Of all passes of a stage."""
    reading = sum(_weights(loaded.linear(s.module)) for s in loaded.sites if s.over_input)
    others = sum(_weights(loaded.linear(s.module)) for s in loaded.sites if not s.over_input)
    config = loaded.model.config
    head = config.hidden_size * config.vocab_size
    layers = len({site.layer for site in loaded.sites})
    width = stage.tokens / max(stage.prompts, 1)
    # Scores and weighted values: 2 products of 2 FLOPs, half of them masked in a decoder.
    attention = 2.0 * layers * config.hidden_size * width
    if loaded.encoder_decoder:
        total = stage.computed * (2 * reading + 2 * attention) + stage.decoded * 2 * (others + head)
    else:
        total = stage.computed * (2 * others + attention) + stage.predicted * 2 * head
    return float(total) * (3 if stage.name == "find" else 1)


def _attribution_bytes(loaded: LoadedModel, found: Sequence[Stage], config: RunConfig) -> float:
    find = next((stage for stage in found if stage.name == "find"), None)
    if find is None or not find.prompts:
        return 0.0
    each = loaded.model.dtype.itemsize
    per_prompt = (find.computed + find.decoded) / find.prompts
    outputs = loaded.n_neurons
    if loaded.encoder_decoder:
        reading = sum(site.size for site in loaded.sites if site.over_input)
        values = find.computed / find.prompts * reading
        values += find.decoded / find.prompts * (outputs - reading)
    else:
        values = per_prompt * outputs
    return float(config.attribution.batch_size * values * each * _SAVED)


def _scoring_bytes(loaded: LoadedModel, config: RunConfig) -> float:
    # As excise.scoring.memory counts a token: 12 hidden states and 4 feed-forward activations.
    settings = loaded.model.config
    inner = getattr(settings, "intermediate_size", None) or getattr(
        settings, "d_ff", 4 * settings.hidden_size
    )
    token = (12 * settings.hidden_size + 4 * inner) * loaded.model.dtype.itemsize
    return float(2 * config.scoring.max_tokens * token)
