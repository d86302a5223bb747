"""Fine-tuning on pairs of sentences: fitted on pairs, watched on the tune split."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from excise.config import FinetuningConfig
from excise.errors import ConfigError
from excise.methods.finetuning.examples import Example, Form, example, published
from excise.methods.finetuning.fitted import FineTuned
from excise.methods.finetuning.objective import encode_examples
from excise.methods.finetuning.pairs import Pair, Pairs, load_pairs
from excise.methods.finetuning.recipes import Recipe, forms, recipe
from excise.methods.finetuning.retention import Replay, Retention
from excise.methods.finetuning.trainable import Trainable, opened
from excise.methods.finetuning.training import Training, train
from excise.methods.method import Fitted, Fitting
from excise.scoring import EncodedPrompt

# Separate streams, so that a change in one draw never shifts another.
_HELD_OUT, _ORDER, _WORDING, _MEASURED = 0, 1, 2, 3
_HELD_OUT_SHARE = 5


@dataclass(frozen=True)
class FineTuning:
    """Train some weights to say the less stereotyped sentence of each pair."""

    name: str
    description: str

    def fit(self, fitting: Fitting) -> Fitted:
        """Train on pairs, with replay from find, and choose the step by pairs and tune."""
        return self.tune(fitting)

    def tune(self, fitting: Fitting) -> FineTuned:
        """As `fit`; the result is known to be a change of weights.

        Raises:
            ConfigError: the task is what would be trained on, options that exclude each other, or
                a package is missing.
        """
        loaded, options = fitting.loaded, fitting.config.finetuning
        loaded.refuse_masked(f"method {self.name!r}")
        chosen = recipe(self.name, options, encoder_decoder=loaded.encoder_decoder)
        folder = Path(fitting.config.data_dir) if fitting.config.data_dir else None
        pairs = load_pairs(options.pairs, data_dir=folder)
        reason = pairs.refuses(fitting.task)
        if reason is not None:
            raise ConfigError(f"{self.name}: {reason}")
        loaded.refuse_spread("fine-tuning")
        started = time.monotonic()
        data = _Data.of(fitting, chosen, pairs)
        steps = chosen.steps or chosen.epochs * data.epoch
        retention = Retention.of(
            fitting.task, fitting.split.tune, fitting.config, seed=fitting.seed
        )
        devices = [loaded.device] if loaded.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(fitting.seed)
            with opened(loaded, chosen, options) as trainable:
                replay = Replay.of(
                    loaded,
                    fitting.task,
                    fitting.split.find,
                    options,
                    kl_weight=chosen.kl_weight,
                    seed=fitting.seed,
                )
                training = train(
                    loaded,
                    trainable,
                    chosen,
                    options,
                    steps=steps,
                    check_every=chosen.check_every or data.epoch,
                    batches=data.batches(),
                    held_out=data.measured(),
                    replay=replay,
                    retention=lambda: retention.measure(loaded),
                    advance=fitting.progress.advance,
                )
                facts = _facts(data, chosen, options, trainable, training, replay, retention)
        facts["seconds"] = round(time.monotonic() - started, 1)
        facts["provenance"] = dict(fitting.provenance)
        return FineTuned(self.name, training.change, pairs, facts)


@dataclass(frozen=True)
class _Data:
    """Pairs to train on and pairs held out, as examples."""

    fitting: Fitting
    recipe: Recipe
    forms: tuple[Form, ...]
    trained: tuple[Pair, ...]
    held_out: tuple[Pair, ...]

    @staticmethod
    def of(fitting: Fitting, chosen: Recipe, pairs: Pairs) -> _Data:
        """Hold out whole templates, drawn by the seed."""
        options = fitting.config.finetuning
        sizes = Counter(pair.template for pair in pairs.pairs)
        templates = sorted(sizes)
        limit = min(options.held_out, max(1, len(pairs.pairs) // _HELD_OUT_SHARE))
        order = np.random.default_rng([fitting.seed, _HELD_OUT]).permutation(len(templates))
        held: set[str] = set()
        for place in order[:-1]:
            held.add(templates[int(place)])
            if sum(sizes[name] for name in held) >= limit:
                break
        return _Data(
            fitting,
            chosen,
            forms(chosen.formulation, options),
            tuple(pair for pair in pairs.pairs if pair.template not in held),
            tuple(pair for pair in pairs.pairs if pair.template in held),
        )

    @property
    def epoch(self) -> int:
        """Updates that see every pair once."""
        return -(-len(self.trained) // self.recipe.batch_size)

    def measured(self) -> list[EncodedPrompt]:
        """The pairs held out, in all forms by turns, those of similar length together."""
        generator = np.random.default_rng([self.fitting.seed, _MEASURED])
        made = [
            self._example(pair, self.forms[place % len(self.forms)], generator)
            for place, pair in enumerate(self.held_out)
        ]
        encoded = encode_examples(self.fitting.loaded, made)
        return sorted(encoded, key=lambda item: len(item.prompt) + len(item.options[0]))

    def batches(self) -> Iterator[list[EncodedPrompt]]:
        """Batches without end: every epoch in a new order.

        Forms take turns by batch, not by pair: a batch of one form has less padding.
        """
        order = np.random.default_rng([self.fitting.seed, _ORDER])
        wording = np.random.default_rng([self.fitting.seed, _WORDING])
        turns = cycle(self.forms)
        size = self.recipe.batch_size
        while True:
            places = order.permutation(len(self.trained))
            for start in range(0, len(places), size):
                form = next(turns)
                some = [self.trained[place] for place in places[start : start + size]]
                made = [self._example(pair, form, wording) for pair in some]
                yield encode_examples(self.fitting.loaded, made)

    def _example(self, pair: Pair, form: Form, generator: np.random.Generator) -> Example:
        if self.recipe.as_published:
            return published(pair, form)
        return example(pair, form, self.fitting.task, generator)


def _facts(
    data: _Data,
    chosen: Recipe,
    options: FinetuningConfig,
    trainable: Trainable,
    training: Training,
    replay: Replay,
    retention: Retention,
) -> dict[str, Any]:
    checks = [
        {
            "step": check.step,
            "held_out_loss": _finite(check.loss),
            "retention": _finite(check.retention),
        }
        for check in training.checks
    ]
    return {
        "pairs": options.pairs,
        "pairs_trained": len(data.trained),
        "pairs_held_out": len(data.held_out),
        "recipe": {
            **asdict(chosen),
            "objective": options.objective,
            "weight_decay": options.weight_decay,
        },
        "trainable_parameters": trainable.size,
        "steps": len(training.losses),
        "best_step": training.best_step,
        "stopped": training.stopped,
        "losses": [_finite(loss) for loss in training.losses],
        "retention_metric": retention.metric,
        "curve": checks,
        "replayed_find_items": {"kl": len(replay.kept), "gold": len(replay.gold)},
    }


def _finite(number: float) -> float | None:
    """JSON has no infinity."""
    return number if isfinite(number) else None


METHODS: tuple[FineTuning, ...] = (
    FineTuning("finetune-full", "fine-tuning on sentence pairs, all weights"),
    FineTuning("finetune-lora", "fine-tuning on sentence pairs, low-rank adapters"),
    FineTuning("finetune-frozen", "fine-tuning on sentence pairs, norms or last layers only"),
    FineTuning("finetune-uqac", "fine-tuning as published by the UQAC study, which forgets"),
)
"""The methods of this family, for the table."""
