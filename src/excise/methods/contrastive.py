"""Contrastive activations: a rival finder of bias neurons that needs no gradient.

Every instance gives a pair of texts: the prompt answered with its biased option, and with the gold
one. Both answers are read by the model (teacher forcing), and a neuron's score is how much its mean
activation over the tokens of the answer differs. Neurons are ranked by the size of the difference,
as pruning by contrastive activations does it (Fairness Pruning, arXiv 2607.28319); their pairs are
hand-written prompts that differ in a group, which most tasks do not have, and their neurons lie in
one kind of map. Here all maps compete, so there is a second method that compares each difference
with the size of the neuron's own activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from excise.attribution import NeuronScores, competing_sites
from excise.attribution.layouts import layout_for
from excise.attribution.objective import counts, objectives
from excise.attribution.recorder import reduce_tokens
from excise.config import AttributionConfig
from excise.errors import ConfigError
from excise.methods.crispr import choose_patch, excision
from excise.methods.method import Fitted, Fitting
from excise.methods.resuming import digest_of, kept_scores
from excise.models import LoadedModel, Site, packed_linears
from excise.scoring import EncodedPrompt, encode
from excise.splits import sample
from excise.types import Instance, Task


@dataclass(frozen=True)
class Contrastive:
    """Excise the neurons whose activation differs most between biased and gold answer."""

    name: str = "contrastive"
    description: str = "neurons by contrastive activations, no gradient; n chosen on the tune split"
    relative: bool = False
    """Compare each neuron's difference with the size of its own activations."""

    def fit(self, fitting: Fitting) -> Fitted:
        """Score on CRISPR's sample of find, choose n on tune as CRISPR does."""
        config = fitting.config
        read = sample(
            fitting.split.find, config.attribution.instances, seed=fitting.seed, unit="instance"
        )
        options = config.attribution.model_dump(mode="json"), config.scoring.end_token
        scores = kept_scores(
            fitting.journal,
            lambda: digest_of(fitting.loaded, fitting.task, read, self.name, *options),
            lambda: contrast(
                fitting.loaded,
                fitting.task,
                read,
                config.attribution,
                relative=self.relative,
                end_token=config.scoring.end_token,
                advance=fitting.progress.advance,
            ),
        )
        by_size = config.attribution.model_copy(update={"sign": "absolute"})
        choice = choose_patch(
            fitting.loaded,
            fitting.task,
            fitting.split.tune,
            scores,
            config.model_copy(update={"attribution": by_size}),
            seed=fitting.seed,
            provenance={**fitting.provenance, "method": self.name},
            advance=fitting.progress.advance,
            journal=fitting.journal,
        )
        return excision(self.name, choice, scores)


RELATIVE = Contrastive(
    "contrastive-relative",
    "contrastive activations, each compared with the size of the neuron's own",
    relative=True,
)


def contrast(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: AttributionConfig,
    *,
    relative: bool = False,
    instructions: Sequence[str] | None = None,
    end_token: bool = False,
    advance: Callable[[int], None] | None = None,
) -> NeuronScores:
    """Score every neuron by its mean activation over the biased answer minus that over the gold.

    One forward pass a batch. In encoder-decoder models encoder-side modules do not compete: what
    they read is the same for both answers.

    Args:
        loaded: the model; read only.
        task: the prompt format.
        instances: the find split's sample.
        config: which option is the biased one and of which instances (`biased_option`,
            `probability`), which neurons compete (`modules`, `layers`), `instructions` and
            `batch_size`. Options about gradients, tokens and weights do not apply.
        relative: divide by the root mean square of the two means, over both answers and all
            prompts. Without it maps with large outputs win: in the embedded model the down
            projections take all first places.
        instructions: the task's own by default, cut to `config.instructions`.
        end_token: as in scoring; the end token is no part of the answer.
        advance: called with the number of prompts just finished.

    Returns:
        Signed differences, the mean over instances and instructions; relative ones lie between -2
        and 2.

    Raises:
        ConfigError: no instance that counts, or no neuron that competes.
    """
    config = config.model_copy(
        update={"positions": "answer", "input_positions": "default", "order": "instance"}
    )
    sites = _answer_sites(loaded, config)
    asked = list(instructions if instructions is not None else task.instructions)
    total = {site.module: np.zeros(site.size) for site in sites}
    squares = {site.module: np.zeros(site.size) for site in sites}
    n_prompts = 0
    with (
        torch.inference_mode(),
        packed_linears(loaded.model),
        _observing(loaded, sites) as observer,
    ):
        for instruction in asked[: config.instructions]:
            encoded = encode(loaded, task, instruction, instances, end_token=end_token)
            for start in range(0, len(instances), config.batch_size):
                batch = slice(start, start + config.batch_size)
                several = instances[batch]
                biased, counted = _read(loaded, observer, sites, several, encoded[batch], config)
                row = torch.arange(len(several))
                gold = torch.tensor([instance.gold for instance in several])
                for site in sites:
                    means = torch.stack(observer.means[site.module])  # [options, prompts, neurons]
                    first, second = means[biased, row][counted], means[gold, row][counted]
                    total[site.module] += (first - second).sum(dim=0).numpy()
                    both = (first.square() + second.square()) / 2
                    squares[site.module] += both.sum(dim=0).numpy()
                n_prompts += int(counted.sum())
                if advance:
                    advance(len(several))
    if n_prompts == 0:
        raise ConfigError(
            f"no find instance counts with biased_option = {config.biased_option!r}; "
            "use more instances or biased_option = 'all'."
        )
    scores = {name: values / n_prompts for name, values in total.items()}
    if relative:
        for name, values in scores.items():
            size = np.sqrt(squares[name] / n_prompts)
            # A neuron that is never active does not differ.
            scores[name] = np.divide(values, size, out=np.zeros_like(values), where=size != 0)
    return NeuronScores(scores, n_prompts)


@dataclass
class _Observer:
    """Mean activations over the answers of one batch; nothing per token is kept."""

    masks: list[torch.Tensor] = field(default_factory=list)
    """Per option, bool [rows, tokens]: the tokens of that answer, in one row of each prompt."""
    means: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    """Module -> per option, [prompts, neurons]."""

    def record(self, site: Site, activation: torch.Tensor) -> None:
        """Reduce one module's output, [rows, tokens, neurons]."""
        # OPT's feed-forward sees all rows as one.
        activation = activation.reshape(*self.masks[0].shape, site.size)
        self.means[site.module] = [
            reduce_tokens(activation[rows].float(), mask[rows], "mean").double().cpu()
            for mask in self.masks
            for rows in [mask.any(dim=1)]
        ]


@contextmanager
def _observing(loaded: LoadedModel, sites: Sequence[Site]) -> Iterator[_Observer]:
    observer = _Observer()
    handles = []
    try:
        for site in sites:
            handles.append(
                loaded.linear(site.module).register_forward_hook(
                    lambda _module, _inputs, output, site=site: observer.record(site, output)
                )
            )
        yield observer
    finally:
        for handle in handles:
            handle.remove()


def _read(
    loaded: LoadedModel,
    observer: _Observer,
    sites: Sequence[Site],
    instances: Sequence[Instance],
    encoded: Sequence[EncodedPrompt],
    config: AttributionConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward a batch with all its options; per prompt, the biased one and whether it counts."""
    lengths = [[len(option) for option in item.options] for item in encoded]
    layout = layout_for(loaded, [_read_to_the_end(loaded, item) for item in encoded], config)
    observer.masks = []
    for option in range(max(map(len, lengths))):
        # An instance with fewer options repeats its last one, which nobody looks up.
        mask = layout.positions(sites[0], [min(option, len(row) - 1) for row in lengths])
        if loaded.encoder_decoder:
            mask[:, 0] = False  # the start token
        observer.masks.append(mask)
    likelihoods = layout.log_likelihoods()
    for tokens, row in zip(likelihoods, lengths, strict=True):
        for option, length in enumerate(row):
            tokens[option, length:] = 0.0
    goal = objectives(likelihoods, lengths, instances, config)
    counted = [counts(i, row, config) for i, row in zip(instances, goal.log_p, strict=True)]
    return torch.tensor(goal.biased), torch.tensor(counted)


def _read_to_the_end(loaded: LoadedModel, item: EncodedPrompt) -> EncodedPrompt:
    """The prompt with options whose last word is read too, not only predicted.

    Layouts feed all tokens but the last, so one that means nothing is put behind; it is never fed.
    """
    end = loaded.tokenizer.eos_token_id
    options = tuple(
        option if option[-1] == end else (*option, option[-1]) for option in item.options
    )
    return EncodedPrompt(item.prompt, options)


def _answer_sites(loaded: LoadedModel, config: AttributionConfig) -> tuple[Site, ...]:
    """The competing linear maps that read the answer.

    Raises:
        ConfigError: the options leave none.
    """
    found = tuple(
        site
        for site in competing_sites(loaded, config)
        if not (loaded.encoder_decoder and site.over_input)
    )
    if not found:
        raise ConfigError(
            f"no neuron reads the answer with modules = {config.modules!r}, layers = "
            f"{config.layers} in {loaded.name!r}; contrastive activations need the decoder's."
        )
    return found
