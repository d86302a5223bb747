"""What fine-tuning on pairs of sentences does to answers: before and after, on tune splits only.

No test item is read. Writes one JSON line for each run.

    python studies/finetuning.py --out study.jsonl finetune-lora
    python studies/finetuning.py --out study.jsonl finetune-lora --set kl_weight=0
    python studies/finetuning.py --out study.jsonl finetune-uqac --set steps=4 \\
        --set learning_rate=0.01 --set formulation=rewrite
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from excise.config import resolve
from excise.evaluation import predict
from excise.methods.finetuning import METHODS
from excise.methods.finetuning.retention import Retention
from excise.methods.method import Fitting
from excise.metrics import METRICS, value
from excise.models import load
from excise.splits import sample, split_instances
from excise.tasks import load_task

SHOWN = (
    "accuracy",
    "accuracy_ambiguous",
    "accuracy_disambiguated",
    "s_amb",
    "s_dis",
    "unknown_ambiguous",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=[method.name for method in METHODS])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--task", default="bbq-age")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--instances", type=int, default=120, help="tune items that are asked")
    parser.add_argument("--instructions", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE")
    arguments = parser.parse_args()
    options = dict(pair.split("=", 1) for pair in arguments.set)

    loaded = load(arguments.model)
    task = load_task(arguments.task)
    config = resolve({"finetuning": options})
    split = split_instances(task.instances, by="template", seed=config.split_seed)
    method = next(m for m in METHODS if m.name == arguments.method)

    fitting = Fitting(loaded, task, split, config, seed=arguments.seed)
    # Another sample of tune than the one that chooses the step; the two may overlap.
    asked = sample(split.tune, arguments.instances, seed=arguments.seed + 1000, unit="block")
    instructions = task.instructions[: arguments.instructions]
    likelihood = replace(
        Retention.of(task, split.tune, config, seed=arguments.seed + 1000), metric="likelihood"
    )

    def measured() -> dict[str, float | None]:
        found = predict(loaded, task, asked, config.scoring, instructions=instructions)
        return {name: value(METRICS[name], found) for name in SHOWN} | {
            "gold_log_likelihood_per_token": likelihood.measure(loaded)
        }

    line = {"method": method.name, "task": task.name, "options": options, "seed": arguments.seed}
    line["before"] = measured()
    started, worked = time.monotonic(), time.process_time()
    fitted = method.tune(fitting)
    line["fit_seconds"] = round(time.monotonic() - started, 1)
    line["fit_cpu_seconds"] = round(time.process_time() - worked, 1)
    with fitted.applied(loaded):
        line["after"] = measured()
    facts = dict(fitted.describe())
    facts["losses"] = [loss if loss is None else round(loss, 3) for loss in facts["losses"]]
    line["fitted"] = facts
    with arguments.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps({key: line[key] for key in ("before", "after", "fit_seconds")}, indent=1))
    print("best step", facts["best_step"], "of", facts["steps"], facts["stopped"])


if __name__ == "__main__":
    main()
