"""A planted bias neuron is found, and excising it takes the bias away.

A neuron is an output feature of a linear map, so the construction makes one single output feature
carry a bias towards a wrong answer. Let d be the unit vector along unembed[biased] - unembed[gold].
The feature's feed-forward unit writes strength * d into the residual stream of the last layer: that
raises the logit of the biased word and lowers that of the gold one. What drives the unit is
residual coordinate 0, which stands out in the embeddings and which other units read by chance only:

- Decoder-only, gated feed-forward (Llama): silu(gate) * up. Coordinate 0 is the same in all
  embeddings. The gate sits where silu has its minimum (-1.278): there its derivative is 0, so the
  gate feature of the same index gets no attribution, and the up feature (which is negative) carries
  everything. Without this, gate and up would carry the same signal and share the first two places.
- Encoder-decoder, plain feed-forward (T5): relu(wi). Only the start token of the decoder has
  coordinate 0, so that the unit fires where the first answer token is predicted and not where the
  end token is; otherwise excising it would also make the end token likelier.

The outputs of the down projection carry the same signal, spread over all coordinates of d: the best
of them has the share max(d^2) of it. So the planted feature is the right first place among all
neurons of all modules, and it has to be found among the random ones of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import tiny
from excise.attribution import attribute
from excise.config import PRESETS, ScoringConfig
from excise.evaluation import predict
from excise.methods import random_patch
from excise.models import LoadedModel, weights_digest
from excise.patches import Patch
from excise.selection import RankedNeuron, rank
from excise.types import Instance, Neuron

SEEDS = range(20)
V2 = PRESETS["v2"].attribution
LAST = tiny.LAYERS - 1
UNIT = 11
# Words that are one token each: the biased one is wrong everywhere.
BIASED, GOLD, OTHER = "The", "An", "be"
CONTEXTS = ("An old man met her.", "Who was late?", "Nothing is known.", "The keys, the market.")
OPTIONS = ((BIASED, GOLD, OTHER), (GOLD, OTHER, BIASED), (OTHER, BIASED, GOLD), (GOLD, BIASED))


@dataclass(frozen=True)
class Planted:
    model: LoadedModel
    neuron: Neuron


def instances() -> tuple[Instance, ...]:
    return tuple(
        tiny.instance(n, context, options, options.index(GOLD), stereotyped=options.index(BIASED))
        for n, (context, options) in enumerate(zip(CONTEXTS, OPTIONS, strict=True))
    )


def token_of(model: LoadedModel, word: str) -> int:
    text = word if model.encoder_decoder else f" {word}"
    (token,) = model.tokenizer(text, add_special_tokens=False).input_ids
    return int(token)


@torch.no_grad()
def planted(kind: str, seed: int) -> Planted:
    if kind == "llama":
        model = tiny.loaded("llama", seed=seed, tie_word_embeddings=False)
        block = model.model.model.layers[LAST]
        embeddings, norm = model.model.model.embed_tokens.weight, block.post_attention_layernorm
        up, down = block.mlp.up_proj, block.mlp.down_proj
        name = f"model.layers.{LAST}.mlp.up_proj"
        embeddings[:, 0] = 4.0
    else:
        model = tiny.loaded("t5", seed=seed, tie_word_embeddings=False)
        last = len(model.model.decoder.block) - 1
        layer = model.model.decoder.block[last].layer[2]
        embeddings, norm = model.model.shared.weight, layer.layer_norm
        up, down = layer.DenseReluDense.wi, layer.DenseReluDense.wo
        name = f"decoder.block.{last}.layer.2.DenseReluDense.wi"
        embeddings[:, 0] = 0.0
        embeddings[model.model.config.decoder_start_token_id, 0] = 4.0
    head = model.model.lm_head.weight
    direction = head[token_of(model, BIASED)] - head[token_of(model, GOLD)]
    norm.weight.fill_(1.0)
    # The mean square of the other coordinates is near 1, so the norm leaves 0 at about this.
    driver = 4.0 / (1 + 16 / tiny.HIDDEN) ** 0.5
    up.weight[UNIT] = 0.0
    if kind == "llama":
        gate = block.mlp.gate_proj
        gate.weight[UNIT] = 0.0
        gate.weight[UNIT, 0] = -1.278 / driver
        up.weight[UNIT, 0] = -1.0 / driver
        strength = 1 / 0.278
    else:
        up.weight[UNIT, 0] = 1.0 / driver
        strength = 1.0
    down.weight[:, UNIT] = 8.0 * strength * direction / direction.norm()
    # The digest is that of the model with the neuron in it.
    return Planted(replace(model, digest=weights_digest(model.model)), Neuron(name, UNIT))


def ranking(made: Planted) -> tuple[RankedNeuron, ...]:
    scores = attribute(made.model, tiny.task(instances()), instances(), V2)
    assert sum(len(values) for values in scores.by_module.values()) == made.model.n_neurons
    return rank(scores.by_module)


def biased_log_likelihood(model: LoadedModel) -> float:
    got = predict(model, tiny.task(instances()), instances(), ScoringConfig()).log_likelihood
    assert got is not None
    return float(np.mean([got[:, n, i.stereotyped] for n, i in enumerate(instances())]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_planted_neuron_is_found_and_excised(kind: str, seed: int) -> None:
    made = planted(kind, seed)
    first, second, *_ = ranking(made)
    assert first.neuron == made.neuron
    assert first.score > second.score

    patch = Patch((first.neuron,), (first.score,), made.model.name, made.model.digest)
    before = biased_log_likelihood(made.model)
    with patch.applied(made.model):
        excised = biased_log_likelihood(made.model)
    controls = [random_patch(made.model, patch, seed=s) for s in range(3)]
    assert all(made.neuron not in control.neurons for control in controls)
    drops = []
    for control in controls:
        with control.applied(made.model):
            drops.append(before - biased_log_likelihood(made.model))
    assert before - excised > 1.0
    assert before - excised > 3 * max(np.abs(drops))


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_same_models_without_it_rank_something_else_first(kind: str) -> None:
    # Or else the place would say nothing about the bias.
    found = 0
    for seed in range(5):
        made = planted(kind, seed)
        with torch.no_grad():
            name = made.neuron.module.replace("up_proj", "down_proj").replace("wi", "wo")
            made.model.linear(name).weight[:, UNIT] = 0.0
        found += ranking(made)[0].neuron == made.neuron
    assert found == 0
