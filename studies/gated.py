"""What `gated` learns on a BBQ category: every state that it tried, on the deciding and test items.

Prints, for every strength, the accuracy (all, ambiguous, disambiguated) and P(gold) per token in
disambiguated contexts, first on the templates that decide, then on those of the test split. The
method itself sees no test answer; whoever changes its options after reading this output has used
them. `--test 0` asks none, to choose options by.

    python studies/gated.py bbq-disability --trial 1 --test 240
    python studies/gated.py bbq-disability --trial 1 --test 0 --gate '{"epochs": 7}'
"""

import argparse
import json
import math

from excise.config import resolve
from excise.methods import Fitting, method_named
from excise.methods.gated import deciding
from excise.methods.guarded.panel import Panel, questions
from excise.models import load, packed_linears
from excise.patches import scaled_outputs
from excise.splits import split_instances
from excise.tasks import load_task


def shown(reading):
    """Accuracy (ambiguous / disambiguated), P(gold) in disambiguated contexts, in per cent."""
    values = reading.summary()
    accuracies = [values[f"accuracy{kind}"] for kind in ("", "_ambiguous", "_disambiguated")]
    gold = math.exp(reading.gold[reading.decided].mean())
    whole, ambiguous, decided = (f"{100 * value:.1f}" for value in accuracies)
    return f"{whole} ({ambiguous} / {decided}), P(gold) {100 * gold:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("--trial", type=int, default=0)
    parser.add_argument("--test", type=int, default=240)
    parser.add_argument("--gate", type=json.loads, default={}, help="options of [gate], as JSON")
    given = parser.parse_args()
    loaded, task = load(), load_task(given.task)
    config = resolve({"tasks": [given.task], "gate": given.gate})
    split = split_instances(task.instances, by="template", seed=0, trial=given.trial)
    panel = None
    if given.test:
        asked, _ = questions(task, split.test, sizes=(given.test,), instructions=2, seed=7)
        panel = Panel(loaded, task, asked, config.scoring, lambda prompts: None)
        with packed_linears(loaded.model):
            print(f"test, original: {shown(panel.read())}")
    judged = deciding.Judge.tried

    def watched(judge, strength, factors):
        """The state as the method measures it, and on the test items beside it."""
        tried = judged(judge, strength, factors)
        line = f"strength {strength}: {shown(tried.reading)}"
        line += f", {len(tried.factors)} neurons, exceeded: {tried.exceeded}"
        if panel is not None:
            scaled = scaled_outputs(loaded.model, tuple(factors), list(factors.values()))
            with scaled, packed_linears(loaded.model):
                line += f"; test {shown(panel.read())}"
        print(line, flush=True)
        return tried

    deciding.Judge.tried = watched
    fitted = method_named("gated").fit(
        Fitting(loaded=loaded, task=task, split=split, config=config, seed=given.trial)
    )
    print("limits:", fitted.describe()["limits"], "original:", fitted.describe()["original"])
    patch = fitted.patch
    print(f"chosen: {len(patch)} neurons")
    if panel is not None:
        with patch.applied(loaded), packed_linears(loaded.model):
            print(f"test: {shown(panel.read())}")
