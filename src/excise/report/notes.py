"""What a reader must know to judge the numbers of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from excise.report.numbers import Row, counted, percent

POOLED = "(all tasks)"
"""The entry of the `paired` block that pools several tasks."""
FEW_TEMPLATES = 10
COLLAPSED = 0.1
"""Share of its original value below which the probability of correct answers has collapsed."""

Document = Mapping[str, Any]


def notes(run: Document, results: Document, *, n_excised: int | None = None) -> list[str]:
    """Caveats of a run, one sentence each, the gravest first.

    Args:
        run: its run.json.
        results: its results.json.
        n_excised: number of neurons of the joined patch, if known.
    """
    config = run["config"]
    found = []
    if run.get("weights_unchanged") and n_excised:
        found.append("the patch changes no weight, so original and patched are the same model.")
    if config["split_by"] == "example":
        found.append(
            "--split-by example leaks: near-copies of test items were used to find neurons and to "
            "choose n, so the difference is too optimistic. Use --split-by template."
        )
    for per_task in (_damages, _few_templates, _limits, _none_better, _means):
        found += per_task(run, results)
    if config["controls"] == 0:
        found.append("no random controls were drawn, so chance is not ruled out.")
    if len(run["tasks"]) > 1:
        found.append(_union(run, results, n_excised))
    return found


def damage(label: str, paired: Mapping[str, Row]) -> str | None:
    """A warning where the correct answers' own probability collapsed, which choices do not show.

    Args:
        label: the task's name.
        paired: metric -> estimate.
    """
    fall = _collapse(paired)
    if fall is None:
        return None
    return (
        f"{label}: the probability of the correct answer's text fell from {fall[0]} to {fall[1]} % "
        "in disambiguated contexts; the model is damaged, although the likeliest option can still "
        "be chosen."
    )


def best_trial(trials: Sequence[Document]) -> int:
    """Which trial's patch is kept: the one that gained most on its tune split."""
    return max(range(len(trials)), key=lambda number: _gain(trials[number].get("curve") or ()))


def _damages(run: Document, results: Document) -> list[str]:
    falls = {name: _collapse(_paired(results, name)) for name in run["tasks"]}
    found = {name: fall for name, fall in falls.items() if fall}
    if len(found) == 1:
        ((name, _),) = found.items()
        return [damage(name, _paired(results, name)) or ""]
    if not found:
        return []
    each = ", ".join(f"{name} {before} to {after} %" for name, (before, after) in found.items())
    return [
        f"the probability of the correct answer's text fell in disambiguated contexts ({each}); "
        "the model is damaged, although the likeliest option can still be chosen."
    ]


def _collapse(paired: Mapping[str, Row]) -> tuple[str, str] | None:
    """Values before and after, in per cent, where the probability of right answers collapsed."""
    estimate = paired.get("gold_probability_disambiguated")
    if not estimate or not estimate["original"] or estimate["patched"] is None:
        return None
    if estimate["patched"] >= COLLAPSED * estimate["original"]:
        return None
    return percent(estimate["original"]), percent(estimate["patched"])


def _few_templates(run: Document, results: Document) -> list[str]:
    sizes = {
        name: max((row["n_clusters"] for row in _paired(results, name).values()), default=0)
        for name in run["tasks"]
    }
    return [
        f"{name}: the intervals rest on {counted(size, 'question template')} only; they tell "
        "little about other questions."
        for name, size in sizes.items()
        if 0 < size < FEW_TEMPLATES
    ]


def _limits(run: Document, results: Document) -> list[str]:
    found = [
        (name, sizes)
        for name in run["tasks"]
        if (sizes := results.get("n-samples", {}).get(name))
        and sizes["effective"] < sizes["original"]
    ]
    if not found:
        return []
    told = [f"{sizes['effective']} of {sizes['original']}" for _, sizes in found]
    if len(found) == 1:
        return [f"{found[0][0]}: {told[0]} test instances were asked (--limit)."]
    each = ", ".join(f"{name} {text}" for (name, _), text in zip(found, told, strict=True))
    return [f"not all test instances were asked (--limit): {each}."]


def _none_better(run: Document, _results: Document) -> list[str]:
    if run["config"]["selection"]["n"] != "auto":
        return []
    found = []
    for name, task in run["tasks"].items():
        empty = [trial["n"] == 0 for trial in task["trials"]]
        if any(empty):
            found.append(
                f"{name}: on the tune split no number of neurons did better than none"
                + ("." if all(empty) else ", in some trials.")
            )
    return found


def _means(run: Document, _results: Document) -> list[str]:
    several = {name: t["trials"] for name, t in run["tasks"].items() if len(t["trials"]) > 1}
    if not several:
        return []
    kept = {name: best_trial(trials) + 1 for name, trials in several.items()}
    number = max(map(len, several.values()))
    if len(kept) == 1:
        ((name, trial),) = kept.items()
        return [
            f"{name}: values are means over {number} trials; the patch kept is that of trial "
            f"{trial}, best on its tune split."
        ]
    each = ", ".join(f"{trial} ({name})" for name, trial in kept.items())
    return [
        f"values are means over {number} trials; the patches kept are those of trials {each}, "
        "best on their tune splits."
    ]


def _paired(results: Document, name: str) -> dict[str, Row]:
    return {row["metric"]: row for row in results["paired"].get(name, ())}


def _union(run: Document, results: Document, n_excised: int | None) -> str:
    parts = []
    for name in run["tasks"]:
        row = results["results"].get(name, {})
        values = [row.get(f"{key},union") for key in ("accuracy", "accuracy_disambiguated")]
        parts.append(f"{name} {percent(values[0])} (disambiguated {percent(values[1])})")
    size = f" ({n_excised} neurons)" if n_excised is not None else ""
    return f"patch/ joins the tasks' patches{size}; accuracy under this union: {', '.join(parts)}."


def _gain(curve: Sequence[Document]) -> float:
    """Best objective on tune minus that of n = 0; 0 without a curve."""
    original = next((point["objective"] for point in curve if point["n"] == 0), 0.0)
    return float(max((point["objective"] for point in curve), default=0.0) - original)
