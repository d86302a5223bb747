"""What a run asks: the same splits, samples and prompts as the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from excise.config import RunConfig
from excise.errors import ConfigError
from excise.evaluation.parts import parts
from excise.models import LoadedModel
from excise.questioning import TestQuestions
from excise.scoring import EncodedPrompt, encode
from excise.scoring.tree import prefix_tree
from excise.splits import sample, split_instances
from excise.types import Instance, Task


@dataclass(frozen=True)
class Stage:
    """One kind of work of a run, over all trials and states."""

    name: str
    """`find`, `tune`, `original`, `patched` or `controls`."""
    prompts: int
    """Instances x instructions x states; each with all its options."""
    tokens: int
    """Of the prompts and of the options behind them."""
    computed: int
    """Tokens that are forwarded through the decoder, common beginnings once where they are shared;
    for encoder-decoder models through the encoder."""
    decoded: int
    """Encoder-decoder models: tokens forwarded through the decoder."""
    predicted: int
    """Positions with logits over the vocabulary."""
    forwards: int
    backwards: int

    def times(self, factor: int, name: str) -> Stage:
        """As much work several times over."""
        return Stage(name, *(factor * getattr(self, number) for number in NUMBERS))

    def plus(self, other: Stage) -> Stage:
        """Both together, under this one's name."""
        numbers = (getattr(self, number) + getattr(other, number) for number in NUMBERS)
        return Stage(self.name, *numbers)


NUMBERS = tuple(field.name for field in fields(Stage) if field.name != "name")
"""What is counted of a stage."""


def stages(loaded: LoadedModel, task: Task, config: RunConfig) -> list[Stage]:
    """The work of `excise run` on one task, in the order in which it is done.

    Where n is chosen, every state counts as asked; a patch that turns out empty costs less.

    Raises:
        ConfigError: a method other than `crispr`, or generated answers.
    """
    if config.method != "crispr" or config.scoring.mode == "generation":
        raise ConfigError(
            "the plan counts what `crispr` does with scored options; measure other methods and "
            "generated answers with a small --limit."
        )
    splits = [
        split_instances(task.instances, by=config.split_by, seed=config.split_seed, trial=trial)
        for trial in range(config.trials)
    ]
    found = []
    for trial, split in enumerate(splits):
        wanted, seed = config.attribution.instances, config.seed + trial
        instances = sample(split.find, wanted, seed=seed, unit="instance")
        told = task.instructions[: config.attribution.instructions]
        found.append(_attributed(loaded, task, instances, told, config))
    averaged = config.selection.trials == "average"
    for trial, split in enumerate(splits[:1] if averaged else splits):
        if isinstance(config.selection.n, int):
            break
        wanted_blocks = config.selection.tune_instances
        instances = sample(split.tune, wanted_blocks, seed=config.seed + trial, unit="block")
        told = task.instructions[: config.selection.tune_instructions]
        once = _scored(loaded, task, instances, told, config)
        found.append(once.times(_steps(config), "tune"))
    test = TestQuestions.of(task, config)
    once = _scored(loaded, task, test.instances, test.instructions, config)
    patches = 1 if averaged else config.trials
    union = 1 if len(config.tasks) > 1 else 0
    found += [
        once,
        once.times(patches + union, "patched"),
        once.times(patches * config.controls, "controls"),
    ]
    together: dict[str, Stage] = {}
    for stage in found:
        before = together.get(stage.name)
        together[stage.name] = stage if before is None else before.plus(stage)
    return list(together.values())


def asked(loaded: LoadedModel, task: Task, config: RunConfig, kind: str) -> Stage:
    """All instances of a task under its first instruction, attributed (`find`) or scored."""
    count = _attributed if kind == "find" else _scored
    return count(loaded, task, task.instances, task.instructions[:1], config)


def _steps(config: RunConfig) -> int:
    selection = config.selection
    if selection.search == "golden_section":
        low, high, tolerance = selection.golden_section
        steps, width = 0, high - low
        while width > max(tolerance, 4):
            width = round(0.618 * width)
            steps += 2
        return steps + width + 1
    steps = len(set(selection.grid))
    return -(-steps // 2) if selection.search == "racing" else steps


def _attributed(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    instructions: Sequence[str],
    config: RunConfig,
) -> Stage:
    prompts = tokens = computed = decoded = predicted = batches = 0
    for instruction in instructions:
        end_token = config.scoring.end_token
        encoded = encode(loaded, task, instruction, instances, end_token=end_token)
        prompts += len(encoded)
        tokens += _tokens(encoded)
        batches += -(-len(encoded) // config.attribution.batch_size)
        labels = sum(len(option) for item in encoded for option in item.options)
        predicted += labels
        if loaded.encoder_decoder:
            computed += sum(len(item.prompt) for item in encoded)
            decoded += labels
        elif loaded.branches:
            computed += _tokens(encoded)
        else:
            computed += sum(len(i.prompt) + len(o) - 1 for i in encoded for o in i.options)
    return Stage("find", prompts, tokens, computed, decoded, predicted, batches, 2 * batches)


def _scored(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    instructions: Sequence[str],
    config: RunConfig,
) -> Stage:
    prompts = tokens = computed = decoded = predicted = forwards = 0
    for part in parts(task, len(instances), len(instructions)):
        encoded = encode(
            loaded,
            task,
            instructions[part.instruction],
            instances[part.start : part.stop],
            end_token=config.scoring.end_token,
        )
        prompts += len(encoded)
        tokens += _tokens(encoded)
        labels = sum(len(option) for item in encoded for option in item.options)
        predicted += labels
        if loaded.encoder_decoder:
            here = sum(map(len, {item.prompt for item in encoded}))
            decoded += labels
        elif loaded.branches:
            tree = prefix_tree(encoded)
            here = len(tree)
            predicted += len(np.unique(tree.predicting)) - labels
        else:
            here = sum(len(i.prompt) + len(o) - 1 for i in encoded for o in i.options)
        computed += here
        forwards += -(-here // config.scoring.max_tokens)
    return Stage("original", prompts, tokens, computed, decoded, predicted, forwards, 0)


def _tokens(encoded: Sequence[EncodedPrompt]) -> int:
    return sum(len(i.prompt) + sum(len(option) - 1 for option in i.options) for i in encoded)
