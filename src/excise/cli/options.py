"""Options that several verbs share, and their way into a `RunConfig`.

Spellings follow lm-eval where the meaning is the same; `-` and `_` are the same in every flag.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.errors import ConfigError

if TYPE_CHECKING:
    from excise.config import RunConfig

DEFAULT = "default"
"""The name of the embedded model on the command line."""
TESTBED = "testbed-"
"""How the names of the test bed's models begin; their task is `testbed` by default."""

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Hub id, local folder or GGUF file; left out or `default`: the embedded model.",
        show_default=False,
    ),
]
Task = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "--tasks",
        "-t",
        metavar="NAME",
        help="A name of `excise ls tasks`, your own .jsonl, .json or .csv file, or a .txt file to "
        "read; repeat it, or separate names by commas.",
        show_default=False,
    ),
]
Presets = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="See `excise ls presets`; v2 by default.", show_default=False
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How neurons are found and chosen, see `excise ls methods`; crispr by default.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "--output-path", "-o", metavar="DIR", help="A new folder.", show_default=False
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        "-L",
        metavar="N",
        help="Instances asked of each task; all by default.",
        show_default=False,
    ),
]
Instructions = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Your instructions in place of the task's own.", show_default=False
    ),
]
N = Annotated[
    str | None,
    typer.Option(
        "--n",
        metavar="N|auto",
        help="Neurons to excise; auto chooses on the tune split.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Decides samples and controls.", show_default=False),
]
Trials = Annotated[
    int | None,
    typer.Option(metavar="N", help="Draws of the find and tune splits.", show_default=False),
]
Controls = Annotated[
    int | None, typer.Option(metavar="N", help="Draws of random neurons.", show_default=False)
]
Dtype = Annotated[str | None, typer.Option(metavar="float32|bfloat16|float16", show_default=False)]
Device = Annotated[
    str | None,
    typer.Option(metavar="auto|cpu|cuda", help="Any torch device.", show_default=False),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="auto|balanced|sequential",
        help="Spread a model that is too large for one GPU over all of them.",
        show_default=False,
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Folder with the benchmark files, for offline use.", show_default=False
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Options from a TOML file, such as config.toml of a run folder; the command line "
        "wins.",
        show_default=False,
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        "--apply-chat-template",
        metavar="auto|yes|no",
        help="auto: if the tokenizer has one and the model is decoder-only.",
        show_default=False,
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        metavar="template|example",
        help="example imitates the paper; it leaks near-copies of test items.",
        show_default=False,
    ),
]
TestInstructions = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Instructions under which instances are asked.", show_default=False
    ),
]
TuneInstances = Annotated[
    int | None,
    typer.Option(metavar="N", help="Instances that choose n.", show_default=False),
]
FindInstances = Annotated[
    int | None,
    typer.Option(metavar="N", help="Instances that locate neurons.", show_default=False),
]
FindInstructions = Annotated[
    int | None,
    typer.Option(metavar="N", help="Instructions that locate neurons.", show_default=False),
]
Normalisation = Annotated[
    str | None,
    typer.Option(
        metavar="auto|total|per_token|per_byte",
        help="Compare options by total log-likelihood or by its mean.",
        show_default=False,
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        metavar="scoring|generation",
        help="Take the likeliest option, or generate and match.",
        show_default=False,
    ),
]
MaxLoss = Annotated[
    list[str] | None,
    typer.Option(
        "--max-loss",
        metavar="NAME=LIMIT",
        help="What `guarded` may lose: disambiguated, gold_probability or the accuracy of another "
        "task, for example disambiguated=0.02,mrpc=0.01.",
        show_default=False,
    ),
]
Continuations = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Samples of each prompt (HONEST, toxicity, regard).",
        show_default=False,
    ),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What judges continuations: Hub id or folder of a classifier, or an offline scorer.",
        show_default=False,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="REV", help="Branch, tag or commit on the Hub.", show_default=False),
]
Neurons = Annotated[
    str | None,
    typer.Option(
        "--neurons",
        metavar="REGEX",
        help="For a model that `excise ls models` lacks: names of the linear maps that hold "
        "neurons, with a group (?P<layer>...).",
        show_default=False,
    ),
]
NoNeurons = Annotated[
    str | None,
    typer.Option(
        "--no-neurons",
        metavar="REGEX",
        help="With --neurons: names of the other maps; the language-model head is known.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other option of the configuration file, for example "
        "--set attribution.tokens=mean; repeatable.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the path of the output only.")]
Json = Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Accept a patch that was made on other weights."),
]

_PLACES: Mapping[str, tuple[str, ...]] = {
    "model": ("model",),
    "task": ("tasks",),
    "preset": ("preset",),
    "method": ("method",),
    "limit": ("limit",),
    "instructions": ("instructions",),
    "n": ("selection", "n"),
    "seed": ("seed",),
    "trials": ("trials",),
    "controls": ("controls",),
    "dtype": ("dtype",),
    "device": ("device",),
    "device_map": ("device_map",),
    "data_dir": ("data_dir",),
    "apply_chat_template": ("apply_chat_template",),
    "split_by": ("split_by",),
    "test_instructions": ("test_instructions",),
    "tune_instances": ("selection", "tune_instances"),
    "find_instances": ("attribution", "instances"),
    "find_instructions": ("attribution", "instructions"),
    "normalisation": ("scoring", "normalisation"),
    "mode": ("scoring", "mode"),
    "max_loss": ("guard", "max_loss"),
    "continuations": ("continuation", "continuations"),
    "classifier": ("continuation", "classifier"),
    "revision": ("revision",),
    "neurons": ("neurons",),
    "no_neurons": ("no_neurons",),
}
"""Parameter of a verb -> option of the configuration."""


def resolve(context: typer.Context) -> RunConfig:
    """The options of an invocation: preset, configuration file, then the command line.

    Args:
        context: the verb's context; its parameters are named as in the table above, those that were
            not given are None.

    Raises:
        ConfigError: see `excise.config.resolve`.
    """
    from excise import config

    resolved = config.resolve(given(context), file=context.params.get("config"))
    if (resolved.model or "").startswith(TESTBED) and "tasks" not in resolved.model_fields_set:
        # Models with a vocabulary of their own, which reads no other task.
        resolved = resolved.model_copy(update={"tasks": ("testbed",)})
    _refuse_same_names(resolved.tasks)
    # `default` must also override a model that the file names.
    return resolved.model_copy(update={"model": None}) if resolved.model == DEFAULT else resolved


def given(context: typer.Context) -> dict[str, Any]:
    """What the command line says, as options of the configuration, nested by section.

    Args:
        context: as in `resolve`.

    Raises:
        ConfigError: an option that cannot be read.
    """
    parameters = dict(context.params)
    overrides: dict[str, Any] = {}
    for name, place in _PLACES.items():
        value = parameters.get(name)
        if name == "task":
            value = names_of(value, "--task")
        elif name == "n" and value is not None:
            value = _number_of_neurons(value)
        elif name == "max_loss":
            value = assigned_numbers(value, "--max-loss")
        if value is not None:
            _put(overrides, place, value)
    for assignment in parameters.get("assignments") or ():
        _put(overrides, *_assigned(assignment))
    return overrides


def _refuse_same_names(tasks: Iterable[str]) -> None:
    """Results are kept by task name, and a user's file is named by its stem."""
    seen: set[str] = set()
    for name in (Path(task).stem for task in tasks):
        if name in seen:
            raise ConfigError(f"two tasks are called {name!r}; rename a file, or give it once.")
        seen.add(name)


def names_of(given: Iterable[str] | None, option: str) -> list[str] | None:
    """The names of a repeatable option that also takes commas; None where it was not given.

    Raises:
        ConfigError: a name is empty.
    """
    names: list[str] = []
    for value in given or ():
        # The path of a file may hold a comma.
        names += [value] if Path(value).exists() else [n.strip() for n in value.split(",")]
    if "" in names:
        raise ConfigError(f"{option} got an empty name.")
    return names or None


def assigned_numbers(given: Iterable[str] | None, option: str) -> dict[str, float] | None:
    """`NAME=NUMBER`, several of them separated by commas, as a mapping; None where none is given.

    Raises:
        ConfigError: something else.
    """
    limits: dict[str, float] = {}
    for assignment in (part for value in given or () for part in value.split(",")):
        name, _, limit = (part.strip() for part in assignment.rpartition("="))
        try:
            limits[name] = float(limit)
        except ValueError:
            name = ""
        if not name:
            raise ConfigError(
                f"{option} needs NAME=LIMIT, for example disambiguated=0.02, not {assignment!r}."
            )
    return limits or None


def _number_of_neurons(given: str) -> int | str:
    if given == "auto":
        return given
    try:
        return int(given)
    except ValueError:
        raise ConfigError(f"--n must be a number or auto, not {given!r}.") from None


def _assigned(assignment: str) -> tuple[tuple[str, ...], Any]:
    """`section.key=value` as place and value; a value that is no TOML is taken as a text."""
    key, equals, value = (part.strip() for part in assignment.partition("="))
    place = tuple(key.split("."))
    if not equals or not all(part.isidentifier() for part in place):
        raise ConfigError(f"--set needs section.key=value, not {assignment!r}.")
    try:
        return place, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return place, value


def _put(overrides: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    inner = overrides
    for name in place[:-1]:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"option {'.'.join(place)} is given beside its whole section.")
    inner[place[-1]] = value
