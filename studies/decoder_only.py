"""Which positions, which P, and which comparison of options suit decoder-only models.

Measured on tune splits only; no test item is read. Writes one JSON line for each measurement.

    python studies/decoder_only.py --out study.jsonl bbq-age bbq-ses bbq-disability
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from excise.attribution.layouts import BranchLayout
from excise.attribution.recorder import recording, reduce_tokens
from excise.config import AttributionConfig
from excise.models import load, packed_linears
from excise.patches.edit import scaled_outputs
from excise.scoring import EncodedPrompt, encode
from excise.scoring.prefix_tree import PrefixTreeScorer
from excise.selection import random_control, top
from excise.splits import sample, split_instances
from excise.tasks import load_task

POSITIONS = ("prompt", "both", "last")


def terms(loaded, task, instances, instructions):
    """Maxima over each choice of positions of h x dlogP/dh, for biased and gold options."""
    sites = loaded.sites
    size = loaded.n_neurons
    config = AttributionConfig()
    found = {name: [[], []] for name in POSITIONS}
    totals, lengths, chosen = [], [], []
    with (
        packed_linears(loaded.model, gradients=True),
        recording(loaded, sites, config) as recorder,
        torch.enable_grad(),
    ):
        for instruction in instructions:
            encoded = encode(loaded, task, instruction, instances, end_token=False)
            for instance, item in zip(instances, encoded, strict=True):
                layouts = {
                    name: BranchLayout(
                        loaded, [item], config.model_copy(update={"positions": name})
                    )
                    for name in POSITIONS
                }
                tokens = layouts["both"].log_likelihoods()[0]
                total = tokens.sum(-1)
                others = total.detach().clone()
                others[instance.gold] = -torch.inf
                biased = int(others.argmax())
                row = np.empty((2, len(POSITIONS), size), dtype=np.float32)
                for term, option in enumerate((biased, instance.gold)):
                    outputs = {}

                    def record(site, output, gradient, option=option, outputs=outputs):
                        outputs[site.module] = [
                            reduce_tokens(
                                output * gradient,
                                layouts[name].positions(site, [option]),
                                "max",
                            )[0]
                            for name in POSITIONS
                        ]

                    recorder.record = record
                    total[option].backward(retain_graph=term == 0)
                    for place in range(len(POSITIONS)):
                        row[term, place] = torch.cat(
                            [outputs[s.module][place] for s in sites]
                        ).numpy()
                for place, name in enumerate(POSITIONS):
                    found[name][0].append(row[0, place])
                    found[name][1].append(row[1, place])
                totals.append(total.detach().double().numpy())
                lengths.append([len(option) for option in item.options])
                chosen.append((biased, instance.gold))
    return (
        {name: [np.stack(t) for t in pair] for name, pair in found.items()},
        totals,
        lengths,
        chosen,
    )


def combine(pair, totals, lengths, chosen, p, weight, derivative, skill=1.0):
    """Bias scores of all neurons."""
    score = np.zeros(pair[0].shape[1])
    for j, (biased, gold) in enumerate(chosen):
        log_p = totals[j] / np.array(lengths[j]) if p == "geometric_mean" else totals[j]
        alpha = np.exp(log_p[biased]) if weight == "confusion" else 1.0
        first = np.exp(log_p[biased]) if derivative == "P" else 1.0
        second = np.exp(log_p[gold]) if derivative == "P" else 1.0
        if p == "geometric_mean":
            first, second = first / lengths[j][biased], second / lengths[j][gold]
        score += alpha * (first * pair[0][j] - skill * second * np.maximum(pair[1][j], 0))
    return score


def measure(loaded, scorer, prompts, instances):
    """Accuracy overall, ambiguous, disambiguated for every way to compare options."""
    with packed_linears(loaded.model):
        values = scorer.score(prompts)
    ambiguous = np.array(
        [i.condition == "ambiguous" for i in instances] * (len(prompts) // len(instances))
    )
    gold = np.array([i.gold for i in instances] * (len(prompts) // len(instances)))
    out = {}
    for end, how in product((False, True), ("total", "per_token", "per_byte")):
        right = []
        for k, (row, item) in enumerate(zip(values, prompts, strict=True)):
            half = len(row) // 2
            total = np.array(row[half:] if end else row[:half])
            options = item.options[half:] if end else item.options[:half]
            if how == "per_token":
                total = total / np.array([len(o) for o in options])
            if how == "per_byte":
                texts = instances[k % len(instances)].options
                total = total / np.array([len(t.encode()) for t in texts])
            right.append(total.argmax() == gold[k])
        right = np.array(right)
        out[f"{how}{'+end' if end else ''}"] = [
            round(float(right.mean()), 4),
            round(float(right[ambiguous].mean()), 4),
            round(float(right[~ambiguous].mean()), 4),
        ]
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trial", type=int, default=0)
    parser.add_argument("--find", type=int, default=20)
    parser.add_argument("--find-instructions", type=int, default=5)
    parser.add_argument("--tune", type=int, default=60)
    parser.add_argument("--n", type=int, nargs="+", default=[5, 20])
    args = parser.parse_args()
    loaded = load()
    scorer = PrefixTreeScorer(loaded, max_tokens=768)
    for name in args.tasks:
        task = load_task(name)
        split = split_instances(task.instances, by="template", seed=0, trial=args.trial)
        find = sample(split.find, args.find, seed=args.trial, unit="instance")
        tune = sample(split.tune, args.tune, seed=args.trial, unit="block")
        prompts = []
        for instruction in task.instructions[-2:]:
            bare = encode(loaded, task, instruction, tune, end_token=False)
            ended = encode(loaded, task, instruction, tune, end_token=True)
            prompts += [
                EncodedPrompt(a.prompt, a.options + b.options)
                for a, b in zip(bare, ended, strict=True)
            ]

        def write(**record):
            with args.out.open("a") as file:
                file.write(json.dumps({"task": name, "trial": args.trial, **record}) + "\n")

        write(variant="original", n=0, **measure(loaded, scorer, prompts, tune))
        start = time.time()
        found, *rest = terms(loaded, task, find, task.instructions[: args.find_instructions])
        print(name, "attributed", time.time() - start, flush=True)
        names = [s.module for s in loaded.sites]
        cuts = np.cumsum([s.size for s in loaded.sites])[:-1]
        seen = {}
        for positions, (p, weight, derivative) in product(
            POSITIONS,
            (
                ("product", "confusion", "P"),
                ("product", "uniform", "P"),
                ("geometric_mean", "confusion", "P"),
                ("product", "uniform", "log P"),
            ),
        ):
            score = combine(found[positions], *rest, p, weight, derivative)
            scores = dict(zip(names, np.split(score, cuts), strict=True))
            for n in args.n:
                neurons = tuple(r.neuron for r in top(scores, n))
                key = frozenset(neurons)
                if key not in seen:
                    with scaled_outputs(loaded.model, neurons):
                        seen[key] = measure(loaded, scorer, prompts, tune)
                write(
                    variant=f"{positions}/{p}/{weight}/{derivative}",
                    n=n,
                    **seen[key],
                    first=[f"{x.module}:{x.index}" for x in neurons[:5]],
                )
            print(name, positions, p, weight, derivative, time.time() - start, flush=True)
        sizes = {s.module: s.size for s in loaded.sites}
        for draw in range(2):
            neurons = random_control(sizes, neurons, seed=draw)
            with scaled_outputs(loaded.model, neurons):
                after = measure(loaded, scorer, prompts, tune)
                write(variant=f"random-{draw}", n=len(neurons), **after)


if __name__ == "__main__":
    main()
