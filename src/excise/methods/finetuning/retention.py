"""Against forgetting: what is replayed from the find split, what is watched on the tune split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from excise.config import FinetuningConfig, RunConfig
from excise.errors import ConfigError, NonFiniteError
from excise.evaluation import predict
from excise.methods.finetuning.objective import (
    IGNORED,
    Row,
    collate,
    distributions,
    divergence,
    encode_sentences,
    logits,
    token_means,
)
from excise.metrics import METRICS, value
from excise.models import LoadedModel
from excise.scoring import encode
from excise.splits import sample
from excise.types import Instance, Task


@dataclass(frozen=True)
class Replay:
    """Items of the find split in the task's own format, put between the pairs.

    The KL part keeps the original's distribution over the tokens of answers; ambiguous items are
    left out of it, since there the original's answers are what shall change. The gold part trains
    correct answers to find items of all conditions: that is training on the task itself.
    """

    kept: tuple[Row, ...]
    original: tuple[torch.Tensor, ...]
    """For each of them, the original's log-probabilities."""
    gold: tuple[Row, ...]

    @staticmethod
    def of(
        loaded: LoadedModel,
        task: Task,
        find: Sequence[Instance],
        options: FinetuningConfig,
        *,
        kl_weight: float,
        seed: int,
    ) -> Replay:
        """Draw the items and ask the original; parts of weight 0 are left out.

        Raises:
            ConfigError: correct answers are asked of a task that has none.
        """
        kept: list[Row] = []
        gold: list[Row] = []
        if kl_weight > 0:
            decided = [i for i in find if i.condition != "ambiguous"] or list(find)
            items = sample(decided, options.replay_pool, seed=seed, unit="instance")
            kept = [
                rows[place % len(rows)]
                for place, rows in enumerate(_all_rows(loaded, task, items, seed))
            ]
        if options.gold_weight > 0:
            if task.kind != "choice" or any(i.gold < 0 for i in find):
                raise ConfigError(
                    f"option finetuning.gold_weight: the task {task.name!r} names no correct "
                    "answers to replay; leave it at 0."
                )
            items = sample(find, options.replay_pool, seed=seed, unit="instance")
            rows_of = _all_rows(loaded, task, items, seed)
            gold = [rows[item.gold] for item, rows in zip(items, rows_of, strict=True)]
        loaded.model.eval()
        original = [found for row in kept for found in distributions(loaded, [row])]
        return Replay(tuple(kept), tuple(original), tuple(gold))

    def terms(
        self, loaded: LoadedModel, step: int, options: FinetuningConfig, *, kl_weight: float
    ) -> Iterator[torch.Tensor]:
        """The weighted losses of one update, each computed when it is asked for.

        The items take turns.
        """
        if self.kept:
            places = _turn(len(self.kept), step, options.replay_batch)
            rows, original = [self.kept[p] for p in places], [self.original[p] for p in places]
            yield kl_weight * divergence(loaded, rows, original)
        if self.gold:
            places = _turn(len(self.gold), step, options.replay_batch)
            batch = collate(loaded, [self.gold[p] for p in places])
            labels = batch.labels[batch.labels != IGNORED]
            yield options.gold_weight * cross_entropy(logits(loaded, batch), labels)


@dataclass(frozen=True)
class Retention:
    """What must not be lost, measured on the tune split."""

    metric: str
    """`accuracy_disambiguated`, `accuracy` or `likelihood`."""
    task: Task
    instances: tuple[Instance, ...]
    config: RunConfig

    @staticmethod
    def of(task: Task, tune: Sequence[Instance], config: RunConfig, *, seed: int) -> Retention:
        """Choose what is measured, and draw the items.

        Raises:
            ConfigError: a metric that the task does not define.
        """
        choice = task.kind == "choice" and all(i.gold >= 0 for i in tune)
        decided = [i for i in tune if i.condition == "disambiguated"]
        defined = {
            "accuracy_disambiguated": choice and bool(decided),
            "accuracy": choice,
            "likelihood": True,
        }
        wanted = config.finetuning.retention
        metric = next(name for name in defined if defined[name]) if wanted == "auto" else wanted
        if not defined[metric]:
            raise ConfigError(
                f"option finetuning.retention: {metric} is not defined for the task "
                f"{task.name!r}; take auto."
            )
        among = decided if metric == "accuracy_disambiguated" else tune
        drawn = sample(among, config.finetuning.tune_instances, seed=seed, unit="block")
        return Retention(metric, task, drawn, config)

    def measure(self, loaded: LoadedModel) -> float:
        """The metric of the model as it is now; minus infinity if it answers NaN."""
        loaded.model.eval()
        if self.metric == "likelihood":
            return self._likelihood(loaded)
        try:
            predictions = predict(
                loaded,
                self.task,
                self.instances,
                self.config.scoring,
                instructions=self.task.instructions[:1],
            )
        except NonFiniteError:
            return float("-inf")
        found = value(METRICS[self.metric], predictions)
        return float("-inf") if found is None else found

    @torch.no_grad()
    def _likelihood(self, loaded: LoadedModel) -> float:
        """Mean log-likelihood per token of correct options; of all that make sense without one."""
        rows_of = _all_rows(loaded, self.task, self.instances, seed=0)
        rows = [
            row
            for item, rows in zip(self.instances, rows_of, strict=True)
            for place, row in enumerate(rows)
            if place == item.gold or (item.gold < 0 and place != item.unrelated)
        ]
        size = 8
        means = [
            token_means(loaded, rows[start : start + size]) for start in range(0, len(rows), size)
        ]
        found = float(torch.cat(means).double().mean())
        return found if np.isfinite(found) else float("-inf")


def _all_rows(
    loaded: LoadedModel, task: Task, items: Sequence[Instance], seed: int
) -> list[list[Row]]:
    """For each item, a row for each of its options, under instructions that take turns."""
    rows: list[list[Row]] = []
    turns = islice(cycle(task.instructions), seed % len(task.instructions), None)
    for item, instruction in zip(items, turns, strict=False):
        encoded = (
            encode_sentences(loaded, item.options)
            if task.kind == "sentences"
            else encode(loaded, task, instruction, [item], end_token=True)[0]
        )
        rows.append([(encoded.prompt, option) for option in encoded.options])
    return rows


def _turn(size: int, step: int, count: int) -> list[int]:
    """Places of the items whose turn it is, each once."""
    return [(step * count + place) % size for place in range(min(count, size))]
