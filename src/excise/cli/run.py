"""The verb `run`: the whole line, from the model to the run folder."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from excise import parallel
from excise.cli import options
from excise.cli.dissect import Dissect, dissect_finished
from excise.cli.options import DEFAULT
from excise.cli.progress import watching
from excise.cli.resolving import resolve
from excise.errors import ExciseError

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
    normalisation: options.Normalisation = None,
    mode: options.Mode = None,
    revision: options.Revision = None,
    dissect: Dissect = False,
    neurons: options.Neurons = None,
    no_neurons: options.NoNeurons = None,
    assignments: options.Set = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Locate bias neurons, excise them, and compare with the original and random controls.

    Writes a run folder; runs/MODEL-TASKS-TIME unless --out names another. Interrupted, it goes on
    where it stopped when the same command, with the same --out, is run again.
    """
    resolved = resolve(context)
    folder = parallel.own(out or Path("runs") / folder_name(resolved))
    with watching(context.obj, quiet=quiet) as progress:
        from excise import pipeline

        try:
            result = pipeline.run(resolved, out=folder, progress=progress)
        except (ExciseError, KeyboardInterrupt) as error:
            _say_how_to_go_on(context, folder, named=out is not None, error=error)
            raise
        context.obj.written = folder
        # An empty patch is a result, too: there is nothing to examine then.
        examine = dissect and len(result.patch) > 0
        dissected = dissect_finished(folder, resolved, progress) if examine else None
    text = (folder / "results.json").read_text(encoding="utf-8")
    if as_json:
        typer.echo(text, nl=False)
    elif quiet:
        typer.echo(folder)
    else:
        from excise.cli.summary import print_run

        record: dict[str, Any] = json.loads(text)
        print_run(context.obj.out, result, record)
        if dissected is not None:
            from excise.cli.dissection import print_dissection

            typer.echo()
            print_dissection(context.obj.out, dissected)
        if result.weights_unchanged:
            typer.echo("Note: weights unchanged: original and patched are the same model.")
        typer.echo(f"\nReport: {folder / 'report.html'}\nRun folder: {folder}")


def _say_how_to_go_on(
    context: typer.Context, folder: Path, *, named: bool, error: BaseException
) -> None:
    """Where parts are kept but --out was not given, the same command would not find them."""
    from excise.evidence import parts_path

    if not parts_path(folder).exists():
        return
    context.obj.kept = folder
    if not named and isinstance(error, ExciseError):
        error.args = (f"{error} Go on with --out {folder}.",)


def folder_name(config: RunConfig) -> str:
    """A name for what a verb writes: model, tasks, and the time."""
    model = Path(config.model).name if config.model else DEFAULT
    tasks = "+".join(Path(task).stem for task in config.tasks)
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{f'{model}-{tasks}'[:_LONGEST_NAME]}-{moment}"
