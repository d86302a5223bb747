"""Options that several verbs share; `resolving` takes them into a `RunConfig`.

Spellings follow lm-eval where the meaning is the same; `-` and `_` are the same in every flag.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
MaxMemory = Annotated[
    int | None,
    typer.Option(
        "--max-memory",
        metavar="MIB",
        help="Memory for activations and logits beside the weights, in MiB; decides nothing else.",
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
        help="What `guarded` and `gated` may lose: disambiguated, gold_probability, the accuracy "
        "of another task or the perplexity of a text, for example disambiguated=0.02,mrpc=0.01.",
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
