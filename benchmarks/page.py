"""The results as a page for people: a table, the machine, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tabulate import tabulate

WORDS = {
    "scoring_vs_lm_eval": ("Three options an item, decoder-only, speed over lm-eval's", 6.5),
    "scoring_vs_lm_eval_12": ("lm-eval's own twelve options an item, speed over lm-eval's", 20),
    "scoring_vs_floor": ("The same three options, speed over the floor's", 0.85),
    "seq2seq_vs_lm_eval": ("Three options an item, encoder-decoder, speed over lm-eval's", 2.5),
    "attribution_vs_forward": (
        "Attribution, time over that of one forward pass (floor 3)",
        "at most 3.5",
    ),
    "attribution_memory_ratio": (
        "The same, memory over one plain forward and backward's",
        "at most 1.35",
    ),
    "captum_vs_attribution": ("captum's gradient x activation, time over attribution's", None),
    "curve_cost": (
        "Choosing n out of ten by a race, in evaluations of the tune sample",
        "at most 5",
    ),
    "two_process_speedup": ("Two processes of one thread, speed over one's", 1.8),
    "peak_rss_mib": ("Most memory of the process while scoring, MiB, model included", None),
}
"""Key -> what it is, and the least (or most) it has to be; a new measurement adds its own."""

HEAD = """# Benchmarks

`make bench` measures this page on your machine and writes `benchmarks/latest.json`; a part of it
comes from `python -m benchmarks scoring`. Every ratio has both sides in one process (but for the
row of two), in turns, and is the median over rounds. A *speed* above 1 is this project's;
attribution's time and memory and the price of a race are costs, of which less is better.
Measurements on one thread are of processor time, which a busy machine disturbs less; the others of
wall time.
"""

SIDES = """## What is compared

- **Task**: the first items of BBQ-Age (400 unless told otherwise; the table says how many) under
  one instruction, in float32. Both sides get the same token ids. Attribution and captum take a few
  prompts spread over them, the race a tune sample.
- **lm-eval**: the `hf` backend of lm-evaluation-harness with the same model object, 16 pairs at
  once. It is timed on an even sample of the batches that it makes, its time scaled by tokens.
- **Twelve options**: the prompt and the options of lm-eval's own `bbq`, for both sides.
- **Floor**: dense causal passes over as many tokens as the prefix tree has nodes, without padding,
  with the same packed linear maps and the head at as many positions. Above 1 is possible: the
  model's own kernel copies the keys that several heads share, the tree's does not.
- **Encoder-decoder**: random weights in Flan-T5-small's shape.
"""


def write(results: dict[str, Any], folder: Path) -> None:
    """Write `benchmarks.md` and its plot into a folder."""
    details = results["details"]
    parts = [HEAD, _table(results), _machine(results), SIDES]
    if "tokens" in details:
        parts.append(_tokens(details))
    if "growth" in details:
        _plot(details["growth"], folder / "benchmarks-growth.svg")
        parts.append(_growth(details["growth"]))
    (folder / "benchmarks.md").write_text("\n".join(parts), encoding="utf-8")


def _table(results: dict[str, Any]) -> str:
    rows = []
    for key, value in results["keys"].items():
        words, least = WORDS.get(key, (key, None))
        found = results["details"].get(key, {})
        spread = f"{found['lowest']:.2f} to {found['highest']:.2f}" if "lowest" in found else ""
        how = ""
        if "clock" in found:
            items = f"{found['items']} items, " if "items" in found else ""
            how = f"{items}{found['clock']} time, rounds: {found['rounds']}"
        rows.append((words, f"`{key}`", value, spread, how, "" if least is None else least))
    head = ("what", "key", "median", "over rounds", "how", "wanted")
    return tabulate(rows, head, tablefmt="github", disable_numparse=True) + "\n"


def _machine(results: dict[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    return (
        f"Machine: {machine}. Versions: {versions}. The load is the number of processes that "
        "wanted a core when the last measurement began: above 0, other work took part of it.\n"
    )


def _tokens(details: dict[str, Any]) -> str:
    tokens, rough = details["tokens"], details["bfloat16"]
    return f"""## What the tree saves

{details["items"]} items are {tokens["pairs"]:,} tokens as pairs of prompt and option and
{tokens["distinct"]:,} distinct prefixes; {tokens["computed"]:,} are forwarded. The largest
difference from lm-eval's log-likelihoods is {details["largest_difference_nats"]:.1g} nats. In
bfloat16, {rough["choices_changed"]} of {rough["items"]} choices differ from those in float32.
"""


def _growth(rows: list[dict[str, Any]]) -> str:
    table = tabulate(
        [
            (r["items"], r["seconds"], r["processor_seconds"], r["mib_above_the_model"])
            for r in rows
        ],
        ("items", "seconds", "processor seconds", "MiB above the loaded model"),
        tablefmt="github",
    )
    return f"""## As a task grows

{table}

![Seconds and memory over the number of items](benchmarks-growth.svg)
"""


def _plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "excise"  # the same file for the same numbers
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    items = [row["items"] for row in rows]
    for axis, key, label in (
        (axes[0], "processor_seconds", "processor seconds"),
        (axes[1], "mib_above_the_model", "MiB above the loaded model"),
    ):
        axis.plot(items, [row[key] for row in rows], marker="o")
        axis.set(xlabel="items", ylabel=label, xlim=(0, None))
        axis.set_ylim(0, 1.2 * max(1, *(row[key] for row in rows)))
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
