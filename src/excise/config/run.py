"""All options of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from excise.config.presets import Preset

Dtype = Literal["float32", "bfloat16", "float16"]
"""Precision of weights."""


class RunConfig(Preset):
    """Everything that decides a run's result; saved with it."""

    preset: str = "v2"
    """What all options start from; see `excise ls presets`."""
    model: str | None = None
    """Hub id, local folder or GGUF file; None is the embedded default."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    neurons: str | None = None
    """Models that the table of architectures lacks: regular expression over the names of linear
    maps that hold neurons, with a group `layer` (docs/add-an-architecture.md)."""
    no_neurons: str | None = None
    """The same for those that hold none, besides the language-model head."""
    tasks: tuple[str, ...] = ("bbq-age",)
    """Names of `excise ls tasks`, or files of your own."""
    method: str = "crispr"
    """How `run` finds its patch: a method of `excise ls methods` that excises neurons."""
    instructions: str | None = None
    """File with instructions that replace the task's own."""
    data_dir: str | None = None
    """Folder with the benchmark files; unset, the download cache."""
    dtype: Dtype = "float32"
    """Precision of the weights."""
    device: str = "auto"
    """Any torch device; `auto` takes a GPU where there is one."""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """Spreads a model that is too large for one device over all of them (docs/scale.md)."""
    apply_chat_template: Literal["auto", "yes", "no"] = "auto"
    """Whether prompts are wrapped as chat messages; `auto`: decoder-only models with a template."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of question templates."""

    @model_validator(mode="after")
    def _check_placement(self) -> RunConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(
                f"device = {self.device!r} and device_map = {self.device_map!r} exclude each "
                "other, as the map chooses the devices; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_sublayers(self) -> RunConfig:
        described = self.neurons is not None and not any(
            f"(?P<{group}>" in self.neurons
            for group in ("self_attention", "cross_attention", "feed_forward")
        )
        if described and self.attribution.modules != "all":
            raise ValueError(
                "attribution.modules needs groups self_attention and feed_forward in neurons"
            )
        return self
