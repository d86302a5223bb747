"""Guarded CRISPR beside plain CRISPR: what is gained, what it costs, and what the search costs.

Fits on find and tune of each trial, then asks the test split of a run of plain CRISPR, whose
neuron scores and answers are taken from its run folder. Writes one JSON line for each trial.

    excise run --config docs/results/smollm2-bbq.toml --out runs/smollm2-bbq
    python studies/guarded.py --run runs/smollm2-bbq --out guarded.jsonl --trials 3 \
        bbq-disability bbq-ses bbq-age

`--set guard.KEY=VALUE` changes an option of the method; `--instances` asks a part of the test
items, and `--instances 0` none of them.
"""

import argparse
import json
import time
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet
from safetensors.numpy import load_file

import excise
from excise.attribution import NeuronScores
from excise.evaluation import predict
from excise.methods import Fitting
from excise.methods.guarded import Guarded
from excise.models import load
from excise.patches import Patch
from excise.splits import sample, split_instances
from excise.tasks import load_task


class Stages:
    """Prints what is being done."""

    def plan(self, total):
        pass

    def advance(self, amount):
        pass

    def stage(self, title):
        print(time.strftime("%H:%M:%S"), title, flush=True)


def measured(rows):
    """Accuracy and P(gold) in per cent over (condition, correct, log-likelihood of gold)."""
    shown = {"answers": len(rows)}
    for name, kinds in (
        ("accuracy", ("ambiguous", "disambiguated")),
        ("ambiguous", ("ambiguous",)),
        ("disambiguated", ("disambiguated",)),
    ):
        kept = [(correct, gold) for condition, correct, gold in rows if condition in kinds]
        if kept:
            correct, gold = np.array(kept, dtype=float).T
            shown[name] = round(100 * float(correct.mean()), 2)
            shown[f"p_gold_{name}"] = round(100 * float(np.exp(gold).mean()), 2)
    return shown


def of_predictions(said):
    n = np.arange(len(said.gold))
    return [
        (instance.condition, choice[k] == instance.gold, likelihood[n[k], instance.gold])
        for choice, likelihood in zip(said.choice, said.log_likelihood, strict=True)
        for k, instance in enumerate(said.instances)
    ]


def of_run(table, task, state, trial, ids, instructions):
    return [
        (row["condition"], row["choice"] == row["gold"], row["log_likelihood"][row["gold"]])
        for row in table
        if (row["task"], row["state"]) == (task, state)
        and row["trial"] == trial
        and row["instance"] in ids
        and row["instruction"] < instructions
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--run", type=Path, required=True, help="run folder of plain CRISPR")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--first-trial", type=int, default=0)
    parser.add_argument("--instances", type=int, default=200, help="test instances")
    parser.add_argument("--instructions", type=int, default=3, help="test instructions, up to 3")
    parser.add_argument("--set", action="append", default=[], metavar="guard.KEY=VALUE")
    given = parser.parse_args()
    options = tomllib.loads("\n".join(given.set))
    config = excise.resolve(options, file=given.run / "config.toml")
    scores = load_file(given.run / "scores.safetensors")
    table = pyarrow.parquet.read_table(given.run / "items.parquet").to_pylist()
    loaded = load()
    for trial in range(given.first_trial, given.first_trial + given.trials):
        for name in given.tasks:
            task = load_task(name)
            split = split_instances(task.instances, by="template", seed=0, trial=trial)
            prefix = f"{name}/{trial}/"
            known = {site.module: scores[prefix + site.module] for site in loaded.sites}
            method = Guarded(scores=NeuronScores(known, 0))
            began = time.monotonic()
            fitting = Fitting(loaded, task, split, config, seed=trial, progress=Stages())
            fitted = method.excise(fitting)
            line = {
                "task": name,
                "trial": trial,
                "options": given.set,
                "seconds": round(time.monotonic() - began),
                "guarded": fitted.describe(),
                "patch": json.loads(fitted.patch.to_json())["neurons"],
            }
            if given.instances:
                # The items of the run come first: a smaller sample is a part of a larger one.
                whole = sample(split.test, config.limit, seed=config.split_seed, unit="block")
                test = sample(whole, given.instances, seed=config.split_seed, unit="block")
                told = task.instructions[: given.instructions]
                with fitted.applied(loaded):
                    said = predict(loaded, task, test, config.scoring, instructions=told)
                ids = {instance.id for instance in test}
                line["test"] = {
                    "original": measured(of_run(table, name, "original", None, ids, len(told))),
                    "plain": measured(of_run(table, name, "patched", trial, ids, len(told))),
                    "guarded": measured(of_predictions(said)),
                }
                plain = Patch.load(given.run / "patches" / f"{name}-trial-{trial}")
                line["plain_neurons"] = len(plain)
            with given.out.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(name, trial, line.get("test"), fitted.describe()["cost"], flush=True)


if __name__ == "__main__":
    main()
