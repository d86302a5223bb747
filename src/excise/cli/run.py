"""The verb `run`: the whole line, from the model to the run folder."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from excise.cli import options
from excise.cli.options import DEFAULT, resolve
from excise.cli.progress import watching

if TYPE_CHECKING:
    from excise.config import RunConfig

_LONGEST_NAME = 80


def run(
    context: typer.Context,
    model: options.Model = None,
    task: options.Task = None,
    method: options.Method = None,
    preset: options.Presets = None,
    out: options.Out = None,
    limit: options.Limit = None,
    instructions: options.Instructions = None,
    n: options.N = None,
    max_loss: options.MaxLoss = None,
    seed: options.Seed = None,
    trials: options.Trials = None,
    controls: options.Controls = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    config: options.Config = None,
    apply_chat_template: options.ChatTemplate = None,
    split_by: options.SplitBy = None,
    test_instructions: options.TestInstructions = None,
    tune_instances: options.TuneInstances = None,
    find_instances: options.FindInstances = None,
    find_instructions: options.FindInstructions = None,
    normalisation: options.Normalisation = None,
    mode: options.Mode = None,
    revision: options.Revision = None,
    assignments: options.Set = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Locate bias neurons, excise them, and compare with the original and random controls.

    Writes a run folder; runs/MODEL-TASKS-TIME unless --out names another.
    """
    resolved = resolve(context)
    folder = out or Path("runs") / folder_name(resolved)
    with watching(context.obj, quiet=quiet) as progress:
        from excise import pipeline

        result = pipeline.run(resolved, out=folder, progress=progress)
    context.obj.written = folder
    text = (folder / "results.json").read_text(encoding="utf-8")
    if as_json:
        typer.echo(text, nl=False)
    elif quiet:
        typer.echo(folder)
    else:
        from excise.cli.summary import print_run

        record: dict[str, Any] = json.loads(text)
        print_run(context.obj.out, result, record)
        typer.echo(f"\nRun folder: {folder}")


def folder_name(config: RunConfig) -> str:
    """A name for what a verb writes: model, tasks, and the time."""
    model = Path(config.model).name if config.model else DEFAULT
    tasks = "+".join(Path(task).stem for task in config.tasks)
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{f'{model}-{tasks}'[:_LONGEST_NAME]}-{moment}"
