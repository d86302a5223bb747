"""The intervals of a finished folder, computed again from its stored answers; no model is asked.

For folders of an earlier version, whose statistics were others. Prints original, patched,
difference and interval of every metric in per cent, where items.parquet holds all that the metric
needs.

    python studies/recompute.py runs/smollm2-bbq
"""

import sys
from pathlib import Path

from excise.auditing.rebuilding import metric_names, rebuilt
from excise.errors import NonFiniteError, RunFolderError
from excise.evidence import StoredRun, open_run, results_record
from excise.metrics import METRICS
from excise.statistics import Pair, pooled_difference


def estimates(stored: StoredRun):
    """(task, metric, original, patched, difference, low, high), all of them shares."""
    if stored.kind == "run":
        for task, rows in results_record(rebuilt(stored))["paired"].items():
            for row in rows:
                names = ("metric", "original", "patched", "difference", "low", "high")
                yield (task, *(row[name] for name in names))
        return
    for task in stored.tasks:
        try:
            before, after = (stored.predictions(task, s) for s in ("original", "patched"))
        except RunFolderError:
            continue  # texts
        for name in metric_names(stored, task):
            if name not in METRICS:
                continue
            try:
                found = pooled_difference(
                    METRICS[name].function,
                    [Pair(before, after, task)],
                    metric_name=name,
                    n_resamples=stored.config.resamples,
                    seed=stored.config.seed,
                )
            except NonFiniteError:
                continue
            yield task, name, found.original, found.patched, found.difference, found.low, found.high


if __name__ == "__main__":
    for task, name, *values in estimates(open_run(Path(sys.argv[1]), evaluation=True)):
        shown = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        before, after, difference, low, high = shown
        print(f"{task} {name}: {before} -> {after}, {difference} ({low} to {high})")
