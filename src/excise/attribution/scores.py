"""Bias scores of all neurons: attribution, skill term, weights, means (equations 1 to 6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from excise.attribution.layouts import Layout, layout_for
from excise.attribution.objective import Objectives, counts, objectives
from excise.attribution.recorder import Recorder, recording, reduce_tokens
from excise.config import AttributionConfig
from excise.errors import ConfigError, NonFiniteError
from excise.models import LoadedModel, Site, packed_linears
from excise.scoring.encoding import EncodedPrompt, encode
from excise.types import FloatArray, Instance, Task

log = logging.getLogger(__name__)

Pairs = list[tuple[Instance, EncodedPrompt]]


@dataclass(frozen=True)
class NeuronScores:
    """Bias scores of all neurons that compete."""

    by_module: Mapping[str, FloatArray]
    """Module -> [neurons], in the order of the model's modules."""
    n_prompts: int
    """Number of (instance, instruction) pairs that took part."""


def attribute(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: AttributionConfig,
    *,
    instructions: Sequence[str] | None = None,
    end_token: bool = False,
    advance: Callable[[int], None] | None = None,
) -> NeuronScores:
    """Score every neuron by what it adds to the biased option beyond the correct one.

    Yang et al. 2024: A = h * dP/dh (equation 1); B = A(biased) - max(0, A(correct)) (2); the biased
    option is the most probable wrong one (3); maximum over tokens (4); instances weighted by P of
    their biased option (5); mean over instructions (6). One forward pass and two backward passes a
    batch; the model's weights are read only.

    Args:
        loaded: the model, in float32 or bfloat16.
        task: the prompt format.
        instances: the find split's sample.
        config: the options of the method.
        instructions: the task's own by default, cut to `config.instructions`.
        end_token: as in scoring.
        advance: called with the number of prompts just finished.

    Raises:
        ConfigError: float16, no instance that counts, or no neuron that competes.
        NonFiniteError: NaN or infinity; names module and instance.
    """
    if loaded.model.dtype == torch.float16:
        raise ConfigError("float16 gradients underflow; attribute with --dtype float32.")
    if loaded.model.dtype == torch.bfloat16:
        log.warning("bfloat16 keeps 8 bits of a gradient: neurons of similar score may swap ranks")
    chosen = competing_sites(loaded, config)
    asked = list(instructions if instructions is not None else task.instructions)
    asked = asked[: config.instructions]
    total = {site.module: np.zeros(site.size) for site in chosen}
    n_prompts = 0
    with (
        packed_linears(loaded.model, gradients=True),
        recording(loaded, chosen, config) as recorder,
    ):
        for instruction in asked:
            encoded = encode(loaded, task, instruction, instances, end_token=end_token)
            for batch in _batches(list(zip(instances, encoded, strict=True)), config.batch_size):
                terms = _attribute_batch(loaded, recorder, chosen, batch, config)
                n_prompts += terms.n_prompts
                for module, values in terms.scores.items():
                    total[module] += values
                if advance:
                    advance(len(batch))
    if n_prompts == 0:
        raise ConfigError(
            f"no find instance counts with biased_option = {config.biased_option!r}; "
            "use more instances or biased_option = 'all'."
        )
    # The mean over instructions of the sum over instances, divided by the number of instances as in
    # the authors' code; a constant factor leaves the ranking alone.
    scale = 1.0 / (len(asked) * len(instances))
    return NeuronScores({name: values * scale for name, values in total.items()}, n_prompts)


def average(trials: Sequence[NeuronScores]) -> NeuronScores:
    """Mean of several trials' scores, to be ranked once (the authors' code)."""
    names = trials[0].by_module
    return NeuronScores(
        {name: np.mean([trial.by_module[name] for trial in trials], axis=0) for name in names},
        sum(trial.n_prompts for trial in trials),
    )


def competing_sites(loaded: LoadedModel, config: AttributionConfig) -> tuple[Site, ...]:
    """The linear maps whose neurons compete.

    Raises:
        ConfigError: the options leave none.
    """
    low, high = config.layers or (0, 10**9)
    wanted = [
        site
        for site in loaded.sites
        if low <= site.layer <= high
        and (
            config.modules == "all"
            or (site.sublayer == "feed-forward") == (config.modules == "feed-forward")
        )
        and not (config.order == "subtract_then_max" and not site.over_input)
        and not (
            loaded.encoder_decoder
            and config.input_positions == "encoder_only"
            and not site.over_input
        )
    ]
    if not wanted:
        raise ConfigError(
            f"no neuron competes with modules = {config.modules!r}, layers = {config.layers}, "
            f"order = {config.order!r} in {loaded.name!r}."
        )
    return tuple(wanted)


@dataclass(frozen=True)
class _BatchScores:
    scores: dict[str, FloatArray]
    n_prompts: int


def _batches(pairs: Pairs, size: int) -> Iterator[Pairs]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _attribute_batch(
    loaded: LoadedModel,
    recorder: Recorder,
    chosen: Sequence[Site],
    batch: Pairs,
    config: AttributionConfig,
) -> _BatchScores:
    """Both terms of every prompt of a batch, subtracted and summed over its prompts."""
    items = [item for _, item in batch]
    instances = [instance for instance, _ in batch]
    with torch.enable_grad():
        layout = layout_for(loaded, items, config)
        likelihoods = layout.log_likelihoods()
        lengths = [[len(option) for option in item.options] for item in items]
        goal = objectives(likelihoods, lengths, instances, config)
        biased = _backward(recorder, layout, goal, goal.biased, instances, keep=True)
        tokens = dict(recorder.per_token)
        gold = _backward(recorder, layout, goal, goal.gold, instances, keep=False)
        gold_tokens = dict(recorder.per_token)
        recorder.clear()
    counted = torch.tensor(
        [counts(i, row, config) for i, row in zip(instances, goal.log_p, strict=True)]
    ).double()
    alpha = goal.weight(config) * counted
    first = alpha * goal.factor(goal.biased, config)
    second = alpha * goal.factor(goal.gold, config)
    scores: dict[str, FloatArray] = {}
    for site in chosen:
        if config.order == "subtract_then_max":
            difference = _subtracted(
                tokens[site.module], gold_tokens[site.module], first, second, config
            )
            scores[site.module] = difference.sum(dim=0).numpy()
            continue
        weighted = first[:, None] * biased[site.module]
        skill = second[:, None] * gold[site.module]
        if config.order == "batch":
            # The authors' code: both terms summed over the batch, then the skill term clamped, so
            # that the score depends on the batch size.
            value = weighted.sum(dim=0) - config.skill_weight * skill.sum(dim=0).clamp(min=0)
        else:
            value = (weighted - config.skill_weight * skill.clamp(min=0)).sum(dim=0)
        scores[site.module] = value.numpy()
    return _BatchScores(scores, int(counted.sum()))


def _backward(
    recorder: Recorder,
    layout: Layout,
    goal: Objectives,
    options: Sequence[int],
    instances: Sequence[Instance],
    *,
    keep: bool,
) -> dict[str, torch.Tensor]:
    """Activation x gradient of log P of one option of each prompt, reduced over tokens."""
    recorder.clear()
    recorder.positions = lambda site: layout.positions(site, options)
    # Elsewhere only the chosen option's row has a gradient, and the sum would be that row.
    recorder.merged = layout.merged if recorder.config.probability == "option_softmax" else None
    # Prompts do not see each other, so the gradient of the sum is that of each prompt.
    torch.autograd.backward(goal.chosen(options).sum(), retain_graph=keep)
    reduced = {name: value.double().cpu() for name, value in recorder.reduced.items()}
    for module, values in reduced.items():
        finite = values.isfinite().all(dim=1)
        if not bool(finite.all()):
            culprit = instances[int((~finite).nonzero()[0])].id
            raise NonFiniteError(
                f"activation x gradient of module {module!r} is not finite for instance "
                f"{culprit!r}; use --dtype float32, or check the checkpoint for NaN weights."
            )
    return reduced


def _subtracted(
    biased: torch.Tensor,
    gold: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    config: AttributionConfig,
) -> torch.Tensor:
    """Equation 2 per token, then equation 4: only where both answers share their positions."""
    keep = ~biased.isnan().any(dim=-1)
    skill = (second[:, None, None] * gold.double().nan_to_num()).clamp(min=0)
    product = first[:, None, None] * biased.double().nan_to_num() - config.skill_weight * skill
    return reduce_tokens(product, keep, config.tokens)
