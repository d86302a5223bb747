"""The verb `dissect`: what the excised neurons are, and how sure that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options
from excise.cli.progress import watching
from excise.cli.resolving import resolve
from excise.errors import ConfigError

if TYPE_CHECKING:
    from excise.config import RunConfig
    from excise.dissection import Subject
    from excise.patches import Patch
    from excise.progress import Progress

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run folder, or the patch folder that `excise locate` wrote."
    ),
]
Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Hub id, local folder or GGUF file; left out: the run's own model.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print evidence.json instead of tables.")]
Dissect = Annotated[
    bool,
    typer.Option(
        "--dissect", help="Also examine the excised neurons (`excise dissect`): evidence.json."
    ),
]
_CONFIG = "config.toml"


def dissect(
    context: typer.Context,
    run: Folder,
    model: Model = None,
    task: options.Task = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    data_dir: options.DataDir = None,
    assignments: options.Set = None,
    quiet: options.Quiet = False,
    as_json: Json = False,
) -> None:
    """How stable the excised neurons are, which of them matter, where they lie, what drives them.

    Decides by the find and tune splits; of test items, it looks up which tokens drive the neurons.
    Writes evidence.json and minimal-patch/ into the folder. A patch folder needs its MODEL and
    --task; a run folder knows its own.
    """
    from excise.evidence.writing import RUN_FILE

    of_run = (run / RUN_FILE).is_file()
    if of_run and task:
        raise ConfigError("a run folder knows its tasks; leave --task out.")
    with watching(context.obj, quiet=quiet) as progress:
        record = (
            _dissect_run(context, run, progress)
            if of_run
            else _dissect_patch(context, run, task, progress)
        )
    context.obj.written = run
    if as_json:
        typer.echo(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False))
    elif quiet:
        typer.echo(run)
    else:
        from excise.cli.dissection import print_dissection
        from excise.dissection import EVIDENCE_FILE, MINIMAL_FOLDER

        print_dissection(context.obj.out, record)
        typer.echo(f"\nWritten: {run / EVIDENCE_FILE}, {run / MINIMAL_FOLDER}")


def dissect_finished(folder: Path, config: RunConfig, progress: Progress) -> dict[str, Any]:
    """Dissect the run that has just been written into a folder.

    Args:
        folder: the run folder.
        config: its options.
        progress: who watches.

    Returns:
        evidence.json.
    """
    from excise import pipeline
    from excise.dissection import of_run
    from excise.evidence import open_run

    stored = open_run(folder)
    subjects = of_run(stored, pipeline.choice_tasks(config), config)
    return _dissected(folder, subjects, stored.patch, config, progress)


def _dissect_run(context: typer.Context, folder: Path, progress: Progress) -> dict[str, Any]:
    # The run's own options; the command line may say where things are, and how to dissect.
    context.params["config"] = folder / _CONFIG
    return dissect_finished(folder, resolve(context), progress)


def _dissect_patch(
    context: typer.Context, folder: Path, tasks: list[str] | None, progress: Progress
) -> dict[str, Any]:
    from excise import pipeline
    from excise.dissection import of_patch
    from excise.errors import RunFolderError
    from excise.patches import NEURONS_FILE, Patch

    if not (folder / NEURONS_FILE).is_file():
        raise RunFolderError(
            f"{folder} is neither a run folder nor a patch folder; give what `excise run` or "
            "`excise locate` wrote."
        )
    patch = Patch.load(folder)
    resolved = resolve(context)
    if not tasks or len(resolved.tasks) != 1:
        raise ConfigError("a patch folder needs the task that it was found on: --task NAME.")
    (task,) = pipeline.choice_tasks(resolved)
    subjects = (of_patch(patch, task, resolved, place=str(folder)),)
    return _dissected(folder, subjects, patch, resolved, progress)


def _dissected(
    folder: Path,
    subjects: tuple[Subject, ...],
    patch: Patch,
    config: RunConfig,
    progress: Progress,
) -> dict[str, Any]:
    from excise import pipeline
    from excise.dissection import dissect as examine
    from excise.dissection import write_evidence
    from excise.dissection.subjects import refuse_empty
    from excise.patches import lora_if_possible
    from excise.report.writing import REPORT_FILE, write_report

    refuse_empty(subjects)  # before the model is loaded
    progress.stage("loading the model")
    loaded = pipeline.load_model(config)
    loaded.refuse_offloaded("a dissection")
    found = examine(loaded, subjects, patch, progress=progress)
    adapter = lora_if_possible(loaded, found.minimal) if found.minimal else None
    write_evidence(found, folder, adapter)
    if (folder / REPORT_FILE).is_file():
        write_report(folder)
    return dict(found.record)
