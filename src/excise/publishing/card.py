"""The model card of a patch: what was done, what it did, what it cost, and how to check it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from huggingface_hub import ModelCardData

from excise.evidence import StoredRun
from excise.patches import Patch
from excise.publishing.measured import eval_results, results_table
from excise.publishing.text import code, escaped, hub_id
from excise.report.notes import notes

Kind = Literal["adapter", "checkpoint"]

LIMITS = (
    "This names an operation, not a promise: the numbers above hold for these questions, asked of "
    "this model in these words. A patch found on one benchmark may do nothing, or harm, on another "
    "one.",
    "An accuracy that rises in ambiguous contexts can mean that the model says “unknown” more "
    "often, also where the context gives the answer: read both contexts together.",
    "Nothing is known about uses, languages and groups that the data does not cover. Measure your "
    "own tasks before you rely on it.",
)
_LOCAL = ("data_dir", "instructions", "device")
"""Options that name places of one machine."""


def card_of(
    run: StoredRun, *, kind: Kind, repository: str | None = None, base_model: str | None = None
) -> str:
    """The model card of a run's patch, as Markdown with metadata.

    The metadata follow the Hub's model index; its values are those of the patch itself on the test
    split, as `neurons.json` holds them. Where a run has several trials or tasks, the table's values
    are means over trials, and those of the patch stand beside.

    Args:
        run: the run folder.
        kind: what lies beside the card: the patch as an adapter, or a checkpoint.
        repository: where it will be on the Hub, for the lines that load it.
        base_model: Hub id of the base model, where the run names another place.

    Raises:
        PatchError: the run's patch is damaged.
    """
    patch = run.patch
    base = base_model or patch.base_model
    on_hub = hub_id(base)
    name = base if on_hub else Path(base).name
    parts = [
        f"# {escaped(name)}, patched",
        _operation(run, patch, kind),
        "## Use",
        _use(kind, name, repository),
        "## What it did",
        results_table(run, patch),
        "## Limits",
        "\n".join(f"- {text}" for text in (*LIMITS, *map(escaped, _notes(run, patch)))),
        "## Check it",
        _reproduce(run, patch),
        "## Data and licences",
        _licences(run),
    ]
    metadata = _metadata(patch, kind, name, repository, on_hub=on_hub)
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(parts) + "\n"


def _metadata(patch: Patch, kind: Kind, base: str, repository: str | None, *, on_hub: bool) -> str:
    results = eval_results(patch)
    data = ModelCardData(
        base_model=base if on_hub else None,
        library_name="peft" if kind == "adapter" else "transformers",
        tags=["bias-neurons-pruned", *(["lora"] if kind == "adapter" else [])],
        model_name=(repository or f"{base}-patched").rpartition("/")[2],
        eval_results=results or None,
    )
    if on_hub:
        data["base_model_relation"] = "adapter" if kind == "adapter" else "finetune"
    if not results:
        # Without results the Hub takes no model index either.
        data.model_name = None
    return data.to_yaml(line_break="\n")


def _operation(run: StoredRun, patch: Patch, kind: Kind) -> str:
    modules = len({neuron.module for neuron in patch.neurons})
    factors = " or ".join(f"{f:g}" for f in sorted(set(patch.by_neuron.values()))) or "0"
    neurons = run.run["model"].get("neurons")
    total = f" of {neurons:,}" if isinstance(neurons, int) else ""
    config, tasks = run.run["config"], ", ".join(code(task) for task in run.tasks)
    stated = (
        f"{len(patch)}{total} neurons (output features of {modules} linear maps) of the base model "
        f"are multiplied by {factors}. Shapes, tokenizer and chat template are those of the "
        f"original. The neurons were found by `excise` {escaped(str(run.run.get('excise')))} on "
        f"{tasks} (method {code(str(config.get('method', 'crispr')))}, preset "
        f"{code(str(config.get('preset')))})"
    )
    where = "neurons.json" if kind == "adapter" else "patch/neurons.json"
    return f"{stated}; each stands with its score in `{where}`."


def _use(kind: Kind, base: str, repository: str | None) -> str:
    place = repository or "."
    if kind == "checkpoint":
        lines = [
            "from transformers import pipeline",
            "",
            f"generate = pipeline(model={place!r})",
        ]
        after = (
            "The weights are already patched: the adapter in `patch/` belongs to the base model, "
            "not to this checkpoint."
        )
    else:
        lines = [
            "from peft import PeftModel",
            "",
            f"# model: {base}, loaded with transformers",
            f"model = PeftModel.from_pretrained(model, {place!r})",
            "with model.disable_adapter():",
            "    ...  # the original",
            "model = model.merge_and_unload()  # for good",
        ]
        after = "The adapter is exact: merged, the weights are those of the patched model."
    return "```python\n" + "\n".join(lines) + f"\n```\n\n{after}"


def _notes(run: StoredRun, patch: Patch) -> list[str]:
    return notes(run.run, run.results, n_excised=len(patch))


def _reproduce(run: StoredRun, patch: Patch) -> str:
    model = run.run["model"]
    rows = [("weights of the base model", model.get("digest"))]
    rows += [(f"data of {task}", run.run["tasks"][task].get("data_digest")) for task in run.tasks]
    for task in run.tasks:
        # The same in every trial; find and tune stand in neurons.json.
        for trial in (run.run["tasks"][task].get("trials") or ())[:1]:
            rows.append((f"test split of {task}", (trial.get("split") or {}).get("test")))
    digests = [f"| {escaped(what)} | {code(str(digest))} |" for what, digest in rows if digest]
    versions = ", ".join(f"{k} {v}" for k, v in run.run.get("environment", {}).items())
    return (
        "Run it again with the options below in `config.toml`:\n\n"
        "```sh\nexcise run --config config.toml --out runs/again\n```\n\n"
        f"<details><summary>config.toml</summary>\n\n```toml\n{_options(run, patch)}```\n\n"
        "</details>\n\n"
        "| sha256 of | |\n| --- | --- |\n" + "\n".join(digests) + "\n\n"
        f"Made with {escaped(versions)}."
    )


def _options(run: StoredRun, patch: Patch) -> str:
    """The run's options without places of the machine that it ran on."""
    written = tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8"))
    kept = {name: value for name, value in written.items() if name not in _LOCAL}
    if "model" in kept:
        kept["model"] = kept["model"] if hub_id(kept["model"]) else Path(patch.base_model).name
    kept["tasks"] = [Path(task).name for task in kept.get("tasks", run.tasks)]
    limits = kept.get("guard", {}).get("max_loss", {})
    if limits:
        named = {Path(name).name: limit for name, limit in limits.items()}
        kept["guard"] = {**kept["guard"], "max_loss": named}
    if kept.get("gate", {}).get("keep"):
        beside = [Path(name).name for name in kept["gate"]["keep"]]
        kept["gate"] = {**kept["gate"], "keep": beside}
    return tomli_w.dumps(kept).replace("```", "` ` `")


def _licences(run: StoredRun) -> str:
    lines = []
    for task in run.tasks:
        entry: dict[str, Any] = run.run["tasks"][task]
        licence = entry.get("licence") or "licence not stated"
        citation = entry.get("citation") or "no citation given"
        lines.append(f"- {code(task)}: {escaped(str(licence))}. {escaped(str(citation))}")
    return (
        "\n".join(lines) + "\n\nNo item of the data is part of this repository. "
        "The weights are under the licence of the base model.\n\n"
        "The method is that of Yang et al., *Mitigating Biases for Instruction-following Language "
        "Models via Bias Neurons Elimination*, ACL 2024 (arXiv 2311.09627)."
    )
