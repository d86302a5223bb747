"""The verbs `ls tasks`, `methods`, `metrics`, `presets`, `models` and `experiments`."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="List tasks, methods, metrics, presets, models or experiments.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("tasks")
def tasks(context: typer.Context) -> None:
    """The tasks known by name; a file of your own works too."""
    from excise.cli.tables import print_table
    from excise.tasks import TASKS

    print_table(
        context.obj.out,
        "Tasks (or your own .jsonl, .json or .csv file, or .txt to read: --task FILE)",
        ["task", "rows", "description"],
        [
            [entry.name, f"{entry.rows:,}", f"{entry.description} ({entry.licence})"]
            for entry in TASKS.values()
        ],
        left=True,
    )


@app.command("methods")
def methods(context: typer.Context) -> None:
    """The mitigation methods that `compare` knows."""
    from excise.cli.tables import print_table
    from excise.methods import METHODS

    print_table(
        context.obj.out,
        "Methods (excise compare --methods NAME,NAME)",
        ["method", "what it does"],
        [[method.name, method.description] for method in METHODS.values()],
        left=True,
    )


@app.command("metrics")
def metrics(context: typer.Context) -> None:
    """The metrics with their range and best value."""
    from excise.cli.tables import print_table
    from excise.metrics import METRICS

    print_table(
        context.obj.out,
        "Metrics; shares and scores are printed times 100",
        ["metric", "what it is"],
        [
            [
                entry.name,
                f"{entry.description} {entry.low:g} to {entry.high:g}, best: {entry.ideal}.",
            ]
            for entry in METRICS.values()
        ],
        left=True,
    )


@app.command("presets")
def presets(context: typer.Context) -> None:
    """The presets of the method."""
    from excise.cli.tables import print_table
    from excise.config import PRESET_NOTES, PRESETS

    print_table(
        context.obj.out,
        "Presets (v2 by default)",
        ["preset", "what it does"],
        [[name, PRESET_NOTES[name]] for name in PRESETS],
        left=True,
    )


@app.command("models")
def models(context: typer.Context) -> None:
    """The architectures whose neurons are known."""
    from excise.cli.tables import print_table
    from excise.models import ARCHITECTURES, DEFAULT_MODEL

    print_table(
        context.obj.out,
        "Architectures; any checkpoint of these model types works",
        ["architecture", "model types", "kind", "where its neurons are"],
        [[row.name, ", ".join(row.model_types), row.kind, row.note] for row in ARCHITECTURES],
        left=True,
    )
    typer.echo("\nAny other model: describe its linear maps with --neurons.")
    typer.echo(f"The embedded default is {DEFAULT_MODEL}.")


@app.command("experiments")
def experiments(context: typer.Context) -> None:
    """The experiments that `reproduce` carries out."""
    from excise.cli.tables import print_table
    from excise.experiments import groups, listed

    print_table(
        context.obj.out,
        "Experiments (excise reproduce NAME --model MODEL)",
        ["experiment", "kind", "what it asks"],
        [
            [name, entry.kind, f"{entry.question} ({entry.source})"]
            for name, entry in listed().items()
        ],
        left=True,
    )
    typer.echo(f"\nGroups of them: {', '.join(groups())}.")
