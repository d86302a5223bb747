"""Bias scores of all neurons: attribution, skill term, weights, means (equations 1 to 6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

import numpy as np
import torch

from excise import parallel
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


class Sums(Protocol):
    """Keeps the sums over the instructions done so far, so that a kill costs one instruction."""

    def load(self) -> tuple[int, FloatArray, int] | None:
        """How many instructions were done, [all neurons] sums, and prompts that counted."""
        ...

    def save(self, instructions: int, total: FloatArray, n_prompts: int) -> None:
        """Keep them durably, in place of earlier ones."""
        ...


def attribute(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: AttributionConfig,
    *,
    instructions: Sequence[str] | None = None,
    end_token: bool = False,
    advance: Callable[[int], None] | None = None,
    sums: Sums | None = None,
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
        sums: of an interrupted call with the same arguments; instructions done are not done again.

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
    total = np.zeros(sum(site.size for site in chosen))
    done, n_prompts = 0, 0
    if sums is not None and (kept := sums.load()) is not None:
        done, total, n_prompts = kept
    with (
        packed_linears(loaded.model, gradients=True),
        recording(loaded, chosen, config) as recorder,
    ):
        # As many instructions at once as there are processes, so that shares come out even.
        for start in range(0, len(asked), parallel.size()):
            group = asked[start : start + parallel.size()]
            if start + len(group) <= done:
                if advance:
                    advance(len(group) * len(instances))
                continue
            batches = [
                batch
                for instruction in group[max(done - start, 0) :]
                for batch in _batches(
                    instances,
                    encode(loaded, task, instruction, instances, end_token=end_token),
                    config,
                )
            ]
            mine = parallel.share(batches, _tokens)
            shares = parallel.together(
                partial(_attribute_share, loaded, recorder, chosen, mine, config, advance)
            )
            for share in shares:
                total += share.scores
                n_prompts += share.n_prompts
            if advance and len(mine) < len(batches):
                advance(sum(map(len, batches)) - sum(map(len, mine)))
            if sums is not None:
                sums.save(start + len(group), total, n_prompts)
    if n_prompts == 0:
        raise ConfigError(
            f"no find instance counts with biased_option = {config.biased_option!r}; "
            "use more instances or biased_option = 'all'."
        )
    # The mean over instructions of the sum over instances, divided by the number of instances as in
    # the authors' code; a constant factor leaves the ranking alone.
    scale = 1.0 / (len(asked) * len(instances))
    return NeuronScores(_by_module(total * scale, chosen), n_prompts)


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
    if config.modules != "all" and any(site.sublayer == "unnamed" for site in loaded.sites):
        raise ConfigError(
            "attribution.modules needs groups self_attention and feed_forward in --neurons."
        )
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
    scores: FloatArray
    """[all neurons] in the order of their modules."""
    n_prompts: int


def _by_module(flat: FloatArray, chosen: Sequence[Site]) -> dict[str, FloatArray]:
    ends = np.cumsum([site.size for site in chosen])[:-1]
    return {site.module: values for site, values in zip(chosen, np.split(flat, ends), strict=True)}


def _batches(
    instances: Sequence[Instance], encoded: Sequence[EncodedPrompt], config: AttributionConfig
) -> Iterator[Pairs]:
    """Prompts of similar length together, except where the batches decide the result."""
    pairs = list(zip(instances, encoded, strict=True))
    if config.order != "batch":
        pairs.sort(key=lambda pair: len(pair[1].prompt))
    for start in range(0, len(pairs), config.batch_size):
        yield pairs[start : start + config.batch_size]


def _tokens(batch: Pairs) -> int:
    return sum(len(p.prompt) + sum(map(len, p.options)) for _, p in batch)


def _attribute_share(
    loaded: LoadedModel,
    recorder: Recorder,
    chosen: Sequence[Site],
    batches: Sequence[Pairs],
    config: AttributionConfig,
    advance: Callable[[int], None] | None,
) -> _BatchScores:
    """The sum over some batches."""
    total, n_prompts = np.zeros(sum(site.size for site in chosen)), 0
    for batch in batches:
        terms = _attribute_batch(loaded, recorder, chosen, batch, config)
        total += terms.scores
        n_prompts += terms.n_prompts
        if advance:
            advance(len(batch))
    return _BatchScores(total, n_prompts)


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
        biased = _backward(
            loaded, recorder, chosen, layout, goal, goal.biased, instances, keep=True
        )
        tokens = dict(recorder.per_token)
        gold = _backward(loaded, recorder, chosen, layout, goal, goal.gold, instances, keep=False)
        gold_tokens = dict(recorder.per_token)
        recorder.clear()
    counted = torch.tensor(
        [counts(i, row, config) for i, row in zip(instances, goal.log_p, strict=True)]
    ).double()
    alpha = goal.weight(config) * counted
    first = alpha * goal.factor(goal.biased, config)
    second = alpha * goal.factor(goal.gold, config)
    if config.order == "subtract_then_max":
        summed = [
            _subtracted(tokens[name], gold_tokens[name], first, second, config).sum(dim=0)
            for name in (site.module for site in chosen)
        ]
        return _BatchScores(torch.cat(summed).numpy(), int(counted.sum()))
    weighted, skill = biased.mul_(first[:, None]), gold.mul_(second[:, None])
    if config.order == "batch":
        # The authors' code: both terms summed over the batch, then the skill term clamped, so
        # that the score depends on the batch size.
        value = weighted.sum(dim=0) - config.skill_weight * skill.sum(dim=0).clamp(min=0)
    else:
        value = weighted.sub_(skill.clamp_(min=0), alpha=config.skill_weight).sum(dim=0)
    return _BatchScores(value.numpy(), int(counted.sum()))


def _backward(
    loaded: LoadedModel,
    recorder: Recorder,
    chosen: Sequence[Site],
    layout: Layout,
    goal: Objectives,
    options: Sequence[int],
    instances: Sequence[Instance],
    *,
    keep: bool,
) -> torch.Tensor:
    """[prompts, all neurons] activation x gradient of log P of an option, reduced over tokens."""
    recorder.clear()
    recorder.positions = lambda site: layout.positions(site, options)
    # Elsewhere only the chosen option's row has a gradient, and the sum would be that row.
    recorder.merged = layout.merged if recorder.config.probability == "option_softmax" else None
    # Prompts do not see each other, so the gradient of the sum is that of each prompt.
    torch.autograd.backward(goal.chosen(options).sum(), retain_graph=keep)
    # A module that no answer depends on has no gradient.
    nothing = torch.zeros(len(options), 1)
    found = [
        recorder.reduced.get(site.module, nothing.expand(-1, site.size)).cpu() for site in chosen
    ]
    reduced = torch.cat(found, dim=1).double()
    if not bool(reduced.isfinite().all()):
        _name_culprit(loaded, chosen, reduced, instances)
    return reduced


def _name_culprit(
    loaded: LoadedModel,
    chosen: Sequence[Site],
    reduced: torch.Tensor,
    instances: Sequence[Instance],
) -> NoReturn:
    for site in chosen:
        # One such weight makes the gradients of all modules NaN.
        if not bool(loaded.linear(site.module).weight.isfinite().all()):
            raise NonFiniteError(
                f"the weights of module {site.module!r} are not all finite; the checkpoint is "
                "damaged, or was saved in a format too narrow for it."
            )
    parts = torch.split(reduced, [site.size for site in chosen], dim=1)
    for site, values in zip(chosen, parts, strict=True):
        finite = values.isfinite().all(dim=1)
        if not bool(finite.all()):
            culprit = instances[int((~finite).nonzero()[0])].id
            raise NonFiniteError(
                f"activation x gradient of module {site.module!r} is not finite for instance "
                f"{culprit!r}; use --dtype float32."
            )
    raise AssertionError("every score is finite")


def _subtracted(
    biased: torch.Tensor,
    gold: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    config: AttributionConfig,
) -> torch.Tensor:
    """Equation 2 per token, then equation 4: only where both answers share their positions."""
    biased, gold = biased.cpu(), gold.cpu()  # modules may be on several devices
    keep = ~biased.isnan().any(dim=-1)
    skill = (second[:, None, None] * gold.double().nan_to_num()).clamp(min=0)
    product = first[:, None, None] * biased.double().nan_to_num() - config.skill_weight * skill
    return reduce_tokens(product, keep, config.tokens)
