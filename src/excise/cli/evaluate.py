"""The verb `evaluate`: metrics of a model, or of original against patched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from excise import parallel
from excise.cli import options
from excise.cli.progress import watching
from excise.cli.resolving import resolve
from excise.errors import ConfigError

PatchFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--patch",
        "-p",
        metavar="DIR",
        help="Compare with this patch (a patch folder, or a run folder); several are joined.",
        show_default=False,
    ),
]


LogSamples = Annotated[
    bool,
    typer.Option(
        "--log-samples", help="Write every answer as samples_TASK_STATE.jsonl, as lm-eval does."
    ),
]
CompareDtype = Annotated[
    str | None,
    typer.Option(
        "--compare-dtype",
        metavar="float32|bfloat16|float16",
        help="Ask the same in this precision too, and count the choices that differ.",
        show_default=False,
    ),
]


def evaluate(
    context: typer.Context,
    model: options.Model = None,
    task: options.Task = None,
    patch: PatchFolders = None,
    out: options.Out = None,
    limit: options.Limit = None,
    instructions: options.Instructions = None,
    log_samples: LogSamples = False,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    compare_dtype: CompareDtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    data_dir: options.DataDir = None,
    config: options.Config = None,
    apply_chat_template: options.ChatTemplate = None,
    test_instructions: options.TestInstructions = None,
    normalisation: options.Normalisation = None,
    mode: options.Mode = None,
    continuations: options.Continuations = None,
    classifier: options.Classifier = None,
    revision: options.Revision = None,
    neurons: options.Neurons = None,
    no_neurons: options.NoNeurons = None,
    assignments: options.Set = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure a model on any task, also original against patched.

    No split is made: where the patch was found on the same data, the table says so. With --out,
    writes results.json, items.parquet and config.toml, and an interrupted evaluation goes on where
    it stopped when the same command is run again.
    """
    resolved = resolve(context)
    out = parallel.own(out) if out else None
    if log_samples and not out:
        raise ConfigError("--log-samples needs --out: samples are files.")
    with watching(context.obj, quiet=quiet) as progress:
        from excise.cli.patches import joined
        from excise.evidence import PartsFile, keeping, refuse_existing
        from excise.measuring import (
            Deviation,
            Measured,
            check_other_dtype,
            deviations,
            measure,
            record,
            write,
        )

        if compare_dtype:
            check_other_dtype(resolved, compare_dtype)

        def asked(
            parts: PartsFile | None = None,
        ) -> tuple[tuple[Measured, ...], tuple[Deviation, ...]]:
            measured = measure(resolved, patches, progress, force=force, journal=parts)
            if not compare_dtype:
                return measured, ()
            return measured, deviations(
                measured, resolved, compare_dtype, patches, progress, force=force, journal=parts
            )

        patches = joined(patch) if patch else None
        if out:
            refuse_existing(out)
            with keeping(out) as parts:
                context.obj.kept = parts
                if parts.found:
                    progress.stage(f"going on after {parts.found} finished parts")
                measured, precision = asked(parts)
                document = record(measured, resolved, precision)
                write(measured, document, resolved, out, samples=log_samples)
            context.obj.written = out
        else:
            measured, precision = asked()
            document = record(measured, resolved, precision)
    if as_json:
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    if not quiet:
        from excise.cli.evaluation import print_evaluation, print_precision

        print_evaluation(context.obj.out, measured, document)
        print_precision(context.obj.out, precision)
    if out:
        typer.echo(out if quiet else f"\nFolder: {out}")
