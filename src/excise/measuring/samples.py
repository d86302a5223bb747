"""`samples_*.jsonl`: every answer in the layout in which lm-eval logs samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from excise.measuring.measure import Measured
from excise.types import Answers, AnyTask, Continuations, Predictions, Readings, Task


def write_samples(entry: Measured, folder: Path) -> None:
    """One file for each state of the model.

    Args:
        entry: a measured task.
        folder: where the files go.
    """
    for state, answers in entry.states.items():
        path = folder / f"samples_{entry.task.name}_{state}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for sample in _samples(entry.task, answers):
                file.write(json.dumps(sample, ensure_ascii=False, allow_nan=False) + "\n")


def _samples(task: AnyTask, answers: Answers) -> Iterator[dict[str, Any]]:
    if isinstance(answers, Predictions):
        assert isinstance(task, Task)
        yield from _chosen(task, answers)
    elif isinstance(answers, Continuations):
        for n, prompt in enumerate(answers.instances):
            scores = {label: values[n].tolist() for label, values in answers.scores.items()}
            yield _sample(n, prompt.id, prompt.group, prompt.text, None) | {
                "resps": [list(answers.texts[n])],
                "filtered_resps": list(answers.texts[n]),
                "scores": scores,
            }
    elif isinstance(answers, Readings):
        for n, passage in enumerate(answers.instances):
            yield _sample(n, passage.id, passage.group, passage.text, None) | {
                "resps": [[float(answers.log_likelihood[n])]],
                "filtered_resps": [float(answers.log_likelihood[n])],
                "tokens": int(answers.n_tokens[n]),
                "divergence": float(answers.divergence[n]),
            }


def _chosen(task: Task, answers: Predictions) -> Iterator[dict[str, Any]]:
    number = 0
    for i, instruction in enumerate(answers.instructions):
        for n, instance in enumerate(answers.instances):
            prompt = task.prompt(instruction, instance)
            width = len(instance.options)
            choice = int(answers.choice[i, n])
            responses = (
                [choice]
                if answers.log_likelihood is None
                else answers.log_likelihood[i, n, :width].tolist()
            )
            target = instance.options[instance.gold] if instance.gold >= 0 else None
            yield _sample(number, instance.id, instance.group, prompt, target) | {
                "arguments": [[prompt, option] for option in instance.options],
                "resps": [[response] for response in responses],
                "filtered_resps": responses,
                "choice": choice,
                "acc": None if instance.gold < 0 else float(choice == instance.gold),
            }
            number += 1


def _sample(number: int, name: str, group: str, prompt: str, target: str | None) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc": {"id": name, "group": group},
        "target": target,
        "arguments": [[prompt]],
        "filter": "none",
        "doc_hash": _digest(name),
        "prompt_hash": _digest(prompt),
        "target_hash": _digest(target or ""),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
