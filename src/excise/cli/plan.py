"""The verb `plan`: what a run will cost, before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from excise.cli import options
from excise.cli.progress import watching
from excise.cli.resolving import resolve
from excise.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from excise.config import RunConfig
    from excise.forecast import Forecast, Speed
    from excise.models import LoadedModel
    from excise.types import Task

Measure = Annotated[
    bool,
    typer.Option("--measure", help="Measure this machine for a few seconds, to say how long."),
]
Flops = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Say how long at this many FLOPs per second, for another machine.",
        min=1.0,
        show_default=False,
    ),
]


def plan(
    context: typer.Context,
    model: options.Model = None,
    task: options.Task = None,
    preset: options.Presets = None,
    measure: Measure = False,
    flops: Flops = None,
    limit: options.Limit = None,
    instructions: options.Instructions = None,
    n: options.N = None,
    trials: options.Trials = None,
    controls: options.Controls = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    data_dir: options.DataDir = None,
    config: options.Config = None,
    apply_chat_template: options.ChatTemplate = None,
    split_by: options.SplitBy = None,
    test_instructions: options.TestInstructions = None,
    tune_instances: options.TuneInstances = None,
    find_instances: options.FindInstances = None,
    find_instructions: options.FindInstructions = None,
    revision: options.Revision = None,
    neurons: options.Neurons = None,
    no_neurons: options.NoNeurons = None,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Say what `excise run` with the same options will cost: prompts, tokens, FLOPs, memory, time.

    Weights are not needed: of a Hub id or a folder only the configuration and the tokenizer are
    read. `shape:flan-t5-xl`, `shape:llama-8b` and `shape:llama-70b` need nothing at all.
    """
    resolved = resolve(context)
    if measure and flops:
        raise ConfigError("--measure and --flops exclude each other.")
    with watching(context.obj, quiet=True):
        from excise import pipeline
        from excise.forecast import Speed, forecast, shaped, stages

        tasks = pipeline.choice_tasks(resolved)
        loaded = pipeline.load_model(resolved) if _loads(resolved, measure) else shaped(resolved)
        speed = Speed(flops, flops) if flops else None
        if measure:
            speed = _measured(loaded, tasks[0], resolved)
        counted = [stages(loaded, entry, resolved) for entry in tasks]
        cpu = loaded.device.type == "cpu" or resolved.device == "cpu"
        found = forecast(loaded, counted, resolved, speed, on_cpu=cpu)
    if as_json:
        document = {"model": loaded.name, "tasks": [t.name for t in tasks], **found.record()}
        typer.echo(json.dumps(document, indent=1))
        return
    _print(context.obj.out, loaded, tasks, found)


def _loads(config: RunConfig, measure: bool) -> bool:
    """Whether the weights themselves are read: small ones, or measured ones."""
    name = config.model
    if name is None or name.startswith(options.TESTBED) or name.lower().endswith(".gguf"):
        return True
    if not measure or name.startswith("shape:"):
        return False
    folder = Path(name)
    # A folder with a configuration alone is measured by matrix products.
    return not folder.is_dir() or any(
        list(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")
    )


def _measured(loaded: LoadedModel, task: Task, config: RunConfig) -> Speed:
    from dataclasses import replace

    from excise.forecast import forecast, measured_speed
    from excise.forecast.counting import asked

    def flops(instances: int, kind: str) -> float:
        some = replace(task, instances=task.instances[:instances])
        return sum(forecast(loaded, [[asked(loaded, some, config, kind)]], config).flops.values())

    return measured_speed(loaded, task, config, flops)


def _print(console: Console, loaded: LoadedModel, tasks: list[Task], found: Forecast) -> None:
    from excise.cli.tables import Row, print_table

    rows: list[Row] = []
    for stage in found.stages:
        row = [
            stage.name,
            f"{stage.prompts:,}",
            f"{stage.tokens:,}",
            f"{stage.computed + stage.decoded:,}",
            f"{stage.forwards:,}",
            f"{stage.backwards:,}",
            f"{found.flops[stage.name]:.2g}",
        ]
        rows.append(row + ([duration(found.seconds[stage.name])] if found.seconds else []))
    header = ["stage", "prompts", "tokens", "computed", "forwards", "backwards", "FLOPs"]
    print_table(
        console,
        f"{loaded.name} on {', '.join(task.name for task in tasks)}: "
        f"{found.parameters:,} parameters, {found.neurons:,} neurons",
        [*header, *(["time"] if found.seconds else [])],
        rows,
    )
    console.print()
    total = f"{sum(found.flops.values()):.2g} FLOPs"
    if found.seconds:
        total += f", about {duration(sum(found.seconds.values()))}"
    console.print(
        f"Together: {total}; {size(found.memory_bytes)} of memory "
        f"({size(found.weights_bytes)} of weights), {size(found.disk_bytes)} of disk.",
        soft_wrap=True,
    )
    if not found.seconds:
        console.print("--measure says how long it takes on this machine.")


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size(count: float) -> str:
    """Bytes in the unit that a person would use."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
