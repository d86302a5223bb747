"""What each prompt adds to each neuron's score, kept apart so that prompts can be drawn again.

`excise.attribution` sums over prompts at once. Here the same terms are kept for every prompt: for
all neurons, or for the best of them where that would not fit; and for the excised ones per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from excise.attribution.layouts import Layout, layout_for
from excise.attribution.objective import Objectives, counts, objectives
from excise.attribution.recorder import Recorder, recording, reduce_tokens
from excise.config import AttributionConfig
from excise.dissection.candidates import Candidates
from excise.dissection.peaks import Peak
from excise.errors import NonFiniteError
from excise.models import LoadedModel, Site, packed_linears
from excise.scoring.encoding import EncodedPrompt, encode
from excise.types import FloatArray, Instance, Neuron, Task

Kept = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Contributions:
    """The terms of the scores of one find sample. I instructions, N instances, M candidates."""

    candidates: Candidates
    instances: tuple[Instance, ...]
    instructions: tuple[str, ...]
    scale: FloatArray
    """[I, N] what the kept numbers are multiplied by: P(y)^2 may be as small as 1e-60."""
    values: Kept
    """[I, N, M] a prompt's term of the score; for `order = "batch"` its first half alone."""
    skill: Kept | None
    """[I, N, M] for `order = "batch"`: the skill term, clamped only after a batch is summed."""
    config: AttributionConfig
    peaks: tuple[Peak, ...] = field(default=())
    """Per prompt that counts and watched neuron, the token that decides."""


def contributions(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    instructions: Sequence[str],
    config: AttributionConfig,
    *,
    sites: Sequence[Site],
    candidates: Candidates,
    watched: Sequence[Neuron] = (),
    end_token: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Contributions:
    """Attribute prompt by prompt; their sum is what `excise.attribution.attribute` gives.

    Args:
        loaded: the unpatched model; weights are read only.
        task: the prompt format.
        instances: the find sample.
        instructions: under which it is asked.
        config: the options with which the neurons were ranked.
        sites: what competes.
        candidates: which neurons are kept.
        watched: neurons whose tokens are looked at; they must be candidates.
        end_token: as in scoring.
        advance: called with the number of prompts just finished.

    Raises:
        NonFiniteError: NaN or infinity; names the instance.
    """
    shape = (len(instructions), len(instances))
    scale = np.zeros(shape)
    values = np.zeros((*shape, len(candidates)), dtype=np.float32)
    skill = np.zeros_like(values) if config.order == "batch" else None
    peaks: list[Peak] = []
    recorder = _Kept(config, candidates, watched)
    with (
        packed_linears(loaded.model, gradients=True),
        recording(loaded, sites, config, recorder),
    ):
        for i, n, prompt in _prompts(loaded, task, instances, instructions, end_token):
            found = _attribute_one(loaded, recorder, prompt, instances[n], config)
            if found is not None:
                size = float(np.abs([found.first, found.skill]).max(initial=0.0))
                if not np.isfinite(size):
                    raise NonFiniteError(
                        f"the attribution of instance {instances[n].id!r} is not finite; use "
                        "--dtype float32, or check the checkpoint for NaN weights."
                    )
                scale[i, n] = size
                divisor = size or 1.0
                if skill is None:
                    values[i, n] = (found.first - found.skill) / divisor
                else:
                    values[i, n], skill[i, n] = found.first / divisor, found.skill / divisor
                peaks += [
                    Peak(neuron, i, n, found.chosen, column, value, prompt)
                    for neuron, (column, value) in found.columns.items()
                ]
            if advance:
                advance(1)
    return Contributions(
        candidates=candidates,
        instances=tuple(instances),
        instructions=tuple(instructions),
        scale=scale,
        values=values,
        skill=skill,
        config=config,
        peaks=tuple(peaks),
    )


@dataclass(frozen=True)
class _Terms:
    first: FloatArray
    """[M] weighted attribution of the biased option."""
    skill: FloatArray
    """[M] weighted skill term, clamped except for `order = "batch"`."""
    chosen: int
    """The biased option."""
    columns: Mapping[Neuron, tuple[int, float]]
    """Watched neuron -> column of the token with the highest value, counted in tokens of the prompt
    and the biased option, and that value."""


def _prompts(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    instructions: Sequence[str],
    end_token: bool,
) -> Iterator[tuple[int, int, EncodedPrompt]]:
    for i, instruction in enumerate(instructions):
        encoded = encode(loaded, task, instruction, instances, end_token=end_token)
        for n, prompt in enumerate(encoded):
            yield i, n, prompt


class _Kept(Recorder):
    """Activation x gradient of the candidates for one prompt; of some of them per token, too."""

    def __init__(
        self, config: AttributionConfig, candidates: Candidates, watched: Sequence[Neuron]
    ) -> None:
        super().__init__(config)
        self.columns = {m: torch.from_numpy(of) for m, of in candidates.columns.items()}
        self.watched: dict[str, dict[Neuron, int]] = {}
        """Module -> watched neuron -> its place among the module's candidates."""
        for neuron in watched:
            place = int(np.searchsorted(candidates.columns[neuron.module], neuron.index))
            self.watched.setdefault(neuron.module, {})[neuron] = place
        self.totals: dict[str, torch.Tensor] = {}
        """Module -> [candidates], reduced over tokens."""
        self.products: dict[str, torch.Tensor] = {}
        """Module -> [tokens that count, candidates], where tokens are needed later."""
        self.places: dict[str, torch.Tensor] = {}
        """Module -> columns of these tokens."""

    def clear(self) -> None:
        """Forget the last backward pass."""
        super().clear()
        self.totals, self.products, self.places = {}, {}, {}

    def record(self, site: Site, activation: torch.Tensor, gradient: torch.Tensor) -> None:
        """Reduce one module's activation x gradient (equations 1 and 4)."""
        columns = self.columns[site.module]
        assert self.positions is not None
        keep = self.positions(site).to(activation.device)
        rows = keep.any(dim=1)
        if not len(columns) or not bool(rows.any()):
            return
        if self.merged is not None:
            gradient = self.merged(site, gradient)
        # One prompt has one row that counts.
        own, grown, kept = activation[rows][0], gradient[rows][0], keep[rows]
        if len(columns) < site.size:
            columns = columns.to(own.device)
            own, grown = own[:, columns], grown[:, columns]
        product = own * grown
        total = reduce_tokens(product[None], kept, self.config.tokens)[0]
        self.totals[site.module] = total.double().cpu()
        if site.module in self.watched or self.config.order == "subtract_then_max":
            self.places[site.module] = kept[0].nonzero()[:, 0].cpu()
            self.products[site.module] = product[kept[0]].double().cpu()


def _attribute_one(
    loaded: LoadedModel,
    recorder: _Kept,
    prompt: EncodedPrompt,
    instance: Instance,
    config: AttributionConfig,
) -> _Terms | None:
    """Both terms of one prompt (equations 1 to 5); None where it does not count."""
    with torch.enable_grad():
        layout = layout_for(loaded, [prompt], config)
        likelihoods = layout.log_likelihoods()
        lengths = [[len(option) for option in prompt.options]]
        goal = objectives(likelihoods, lengths, [instance], config)
        if not counts(instance, goal.log_p[0], config):
            return None
        biased = _backward(recorder, layout, goal, goal.biased, keep=True)
        gold = _backward(recorder, layout, goal, goal.gold, keep=False)
    alpha = goal.weight(config)
    first = float(alpha * goal.factor(goal.biased, config))
    second = float(alpha * goal.factor(goal.gold, config))
    weight = config.skill_weight
    raised, lowered = [np.zeros(0)], [np.zeros(0)]
    columns: dict[Neuron, tuple[int, float]] = {}
    for module, kept in recorder.columns.items():
        nothing = torch.zeros(len(kept), dtype=torch.double)
        ahead = first * biased.totals.get(module, nothing)
        behind = second * gold.totals.get(module, nothing)
        tokens = first * biased.products[module] if module in biased.products else None
        if config.order != "batch":
            behind = weight * behind.clamp(min=0)
        if config.order == "subtract_then_max" and tokens is not None:
            # Both answers share the positions of encoder-side modules.
            tokens = tokens - weight * (second * gold.products[module]).clamp(min=0)
            whole = torch.ones(1, len(tokens), dtype=torch.bool)
            ahead, behind = reduce_tokens(tokens[None], whole, config.tokens)[0], nothing
        if tokens is not None:
            offset = weight * behind.clamp(min=0) if config.order == "batch" else behind
            places = biased.places[module]
            if not loaded.encoder_decoder:
                places = _along_the_answer(places, len(prompt.prompt))
            for neuron, place in recorder.watched.get(module, {}).items():
                best = int(tokens[:, place].argmax())
                value = float(tokens[best, place] - offset[place])
                columns[neuron] = int(places[best]), value
        raised.append(ahead.numpy())
        lowered.append(behind.numpy())
    return _Terms(np.concatenate(raised), np.concatenate(lowered), goal.biased[0], columns)


def _along_the_answer(columns: torch.Tensor, prompt: int) -> torch.Tensor:
    """Columns as if the chosen option alone stood behind the prompt, not the others before it."""
    behind = columns >= prompt
    if not bool(behind.any()):
        return columns
    return torch.where(behind, columns - columns[behind].min() + prompt, columns)


@dataclass(frozen=True)
class _Backward:
    totals: Mapping[str, torch.Tensor]
    products: Mapping[str, torch.Tensor]
    places: Mapping[str, torch.Tensor]


def _backward(
    recorder: _Kept, layout: Layout, goal: Objectives, options: Sequence[int], *, keep: bool
) -> _Backward:
    recorder.clear()
    recorder.positions = lambda site: layout.positions(site, options)
    recorder.merged = layout.merged if recorder.config.probability == "option_softmax" else None
    torch.autograd.backward(goal.chosen(options).sum(), retain_graph=keep)
    return _Backward(recorder.totals, recorder.products, recorder.places)
