"""One Pareto plot of several comparisons: the means of their methods.

Refuses comparisons of other models, items, instructions or splits, or with other originals.

    python studies/pareto.py plot.svg comparisons/all comparisons/gated:gated="gated, keeping bbq"

A folder's methods are drawn under their names; after a colon, one of them under another name. Of
methods with the same name the first is drawn.
"""

import argparse
import json
from pathlib import Path

from excise.comparing.plot import draw_points

METRICS = ("accuracy_disambiguated", "accuracy_ambiguous")
OPTIONS = ("tasks", "limit", "test_instructions", "split_by", "split_seed", "scoring", "dtype")


def read(folder):
    """What was asked, and task -> method -> the two accuracies, in per cent."""
    document = json.loads((Path(folder) / "comparison.json").read_text(encoding="utf-8"))
    rows = {(r["task"], r["method"], r["metric"]): 100 * r["value"] for r in document["metrics"]}
    tasks = document["tasks"]
    missing = [task for task in tasks if (task, "original", METRICS[1]) not in rows]
    if missing:
        raise SystemExit(f"{folder}: {', '.join(missing)} has no contexts of both kinds")
    found = {
        task: {m: tuple(rows[task, m, metric] for metric in METRICS) for m in document["methods"]}
        for task in tasks
    }
    answered = {key: value for key, value in rows.items() if key[0] in tasks and "original" in key}
    options = [document["config"][name] for name in OPTIONS]
    return (document["model_digest"], options, answered), found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("plot", type=Path)
    parser.add_argument("comparisons", nargs="+", metavar="FOLDER[:METHOD=NAME]")
    given = parser.parse_args()
    panels, first = {}, None
    for comparison in given.comparisons:
        folder, colon, renamed = comparison.partition(":")
        method, _, name = renamed.partition("=")
        asked, found = read(folder)
        first = first or asked
        if asked != first:
            raise SystemExit(
                f"{folder}: not the same questions, or the original answered otherwise"
            )
        for task, methods in found.items():
            if colon and method not in methods:
                raise SystemExit(f"{folder}: no method {method!r}; it has {', '.join(methods)}")
            for each, point in methods.items():
                panels.setdefault(task, {}).setdefault(name if each == method else each, [point])
    draw_points(panels, given.plot)
