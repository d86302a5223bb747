"""What methods reach on the test bed, beside the twin that never learned the shortcut.

Fits on find and tune, measures on 160 test items and 160 items of the second task, two instructions
each. Prints the rows of the table in docs/testbed.md.

    python studies/testbed_methods.py crispr guarded gated
"""

import sys

import numpy as np
import torch

from excise.config import resolve
from excise.evaluation import predict
from excise.methods import METHODS, Fitting, random_patch
from excise.models import load
from excise.splits import sample, split_instances
from excise.tasks import load_task

MAIN, SECOND = load_task("testbed"), load_task("testbed-second")
SPLIT = split_instances(MAIN.instances, by="template", seed=0)
ASKED = {
    MAIN.name: sample(SPLIT.test, 160, seed=0, unit="block"),
    SECOND.name: sample(SECOND.instances, 160, seed=0, unit="block"),
}
GUARD = {
    "max_loss": {"disambiguated": 0.01, "gold_probability": 0.1, "testbed-second": 0.01},
    "rounds": 3,
    "neurons": 40,
}
CONFIG = resolve({"preset": "v2", "guard": GUARD})


def shares(loaded):
    """Right in ambiguous, in disambiguated contexts, in the second task; fallen for it."""
    said, other = (
        predict(loaded, task, ASKED[task.name], CONFIG.scoring, instructions=task.instructions[:2])
        for task in (MAIN, SECOND)
    )
    right, fell = said.choice == said.gold, said.choice == said.stereotyped
    return [
        right[:, said.ambiguous].mean(),
        fell[:, said.ambiguous].mean(),
        right[:, said.disambiguated].mean(),
        (other.choice == other.gold).mean(),
    ]


def row(kind, state, neurons, values):
    """A row of the table."""
    cells = " | ".join(f"{100 * value:.1f}" for value in values)
    print(f"| `testbed-{kind}` | {state} | {neurons} | {cells} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in ("t5", "causal"):
        loaded = load(f"testbed-{kind}")
        row(kind, "original", 0, shares(loaded))
        row(kind, "its twin", 0, shares(load(f"testbed-{kind}-twin")))
        for name in sys.argv[1:]:
            fitted = METHODS[name].fit(Fitting(loaded, MAIN, SPLIT, CONFIG, seed=0))
            with fitted.applied(loaded):
                row(kind, f"`{name}`", fitted.describe()["neurons"], shares(loaded))
            if name == "crispr":
                draws = []
                for seed in range(5):
                    with random_patch(loaded, fitted.patch, seed=seed).applied(loaded):
                        draws.append(shares(loaded))
                means = np.mean(draws, axis=0)
                row(kind, "random, mean of 5", len(fitted.patch), means)
