"""Every family of the table, on tiny random models: neurons, edits, attribution, scoring."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import tiny
from excise.attribution import attribute
from excise.attribution.effects import Question, effects, log_share
from excise.config import PRESETS, ScoringConfig
from excise.errors import ConfigError
from excise.evaluation import predict
from excise.methods.finetuning.change import LowRank, WeightChange
from excise.models import ARCHITECTURES, LoadedModel, load, output_rows, weights_digest, wrap
from excise.models.linear import Conv1D
from excise.patches import Patch, save_checkpoint, scaled_outputs
from excise.scoring import encode, scorer_for
from excise.selection import rank
from excise.types import Neuron

NAMES = (*tiny.ALL, *tiny.FAMILIES)
TASK = tiny.task()
INSTRUCTION = TASK.instructions[0]

# Hidden 32, 4 heads of 8 (where head_dim is set: of 6), 2 of keys and values, feed-forward 48,
# 2 layers. Encoder-decoders have 3 decoder layers.
NEURONS = {
    # q, k, v, o, gate, up, down
    "llama": 448,  # 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)
    "mistral": 448,
    "mistral-window": 448,
    "qwen2": 448,
    "smollm3": 448,
    "olmo": 448,
    "olmo2": 448,
    "qwen3": 416,  # 2 * (24 + 12 + 12 + 32 + 48 + 48 + 32), heads of 6
    "gemma": 416,
    "gemma2": 416,
    "gemma3": 416,
    # fused: qkv, o, gate and up, down
    "phi3": 448,  # 2 * ((32 + 16 + 16) + 32 + (48 + 48) + 32)
    "phi3-window": 448,
    # fused qkv, o, up (4 * 32 in BLOOM), down
    "bloom": 576,  # 2 * (96 + 32 + 128 + 32)
    "gpt_neox": 416,  # 2 * (96 + 32 + 48 + 32)
    "gpt_neox-serial": 416,
    "gpt2": 416,
    "falcon": 320,  # 2 * ((32 + 8 + 8) + 32 + 48 + 32), one key and value
    "falcon-grouped": 352,  # 2 * ((32 + 16 + 16) + 32 + 48 + 32), two
    "falcon-alibi": 416,  # 2 * ((32 + 32 + 32) + 32 + 48 + 32), four
    # q, k, v, out, up, down
    "gptj": 416,  # 2 * (32 + 32 + 32 + 32 + 48 + 32 + ...) = 2 * 208
    "opt": 416,  # the same; its maps from and to the embeddings hold none
    # encoder: q, k, v of 24, o, up, down; decoder: two attentions
    "t5": 1232,  # 2 * (72 + 32 + 48 + 32) + 3 * (2 * (72 + 32) + 48 + 32)
    "t5-gated": 1472,  # 2 * (72 + 32 + 96 + 32) + 3 * (2 * (72 + 32) + 96 + 32)
    "mt5": 1472,
    "umt5": 1472,
    "bart": 1448,  # 2 * (128 + 48 + 32) + 3 * (2 * 128 + 56 + 32)
}


@cache
def made(name: str) -> LoadedModel:
    """One model for all tests of a family; none may leave it changed."""
    return tiny.loaded(name)


@pytest.fixture(params=NAMES)
def loaded(request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    model = made(request.param)
    yield model
    assert weights_digest(model.model) == model.digest, "a test left the weights changed"


@torch.no_grad()
def logits(model: Any, *, length: int = 9) -> torch.Tensor:
    ids = torch.arange(5, 5 + length)[None]
    extra = {"decoder_input_ids": ids[:, :4] + 20} if model.config.is_encoder_decoder else {}
    result: torch.Tensor = model(ids, use_cache=False, **extra).logits
    return result


def some(model: LoadedModel, seed: int = 0, each: int = 2) -> tuple[Neuron, ...]:
    """Neurons of every linear map."""
    generator = np.random.default_rng(seed)
    return tuple(
        Neuron(site.module, int(index))
        for site in model.sites
        for index in generator.choice(site.size, size=each, replace=False)
    )


def patch_of(model: LoadedModel, neurons: tuple[Neuron, ...], factor: float = 0.0) -> Patch:
    scores = tuple(float(n) for n in range(len(neurons), 0, -1))
    return Patch(neurons, scores, model.name, model.digest, factor=factor)


# --- the table ------------------------------------------------------------------------------------


def test_every_row_has_a_tiny_model() -> None:
    covered = {made(name).architecture.name for name in NAMES} | set(tiny.MASKED)
    # Gemma 3 with eyes has a test of its own.
    assert covered | {"gemma3-vision"} == {row.name for row in ARCHITECTURES}
    types = {made(name).model.config.model_type for name in NAMES}
    wanted = {kind for row in ARCHITECTURES for kind in row.model_types if row.kind != "masked"}
    assert types == wanted - {"gemma3"}


def test_every_row_is_a_line_of_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.partition("\n## ")[0]
    lines = re.findall(r"^\| `([\w-]+)` \| (.+?) \|", table, re.MULTILINE)
    assert [(row.name, ", ".join(row.model_types)) for row in ARCHITECTURES] == lines


def test_neurons_are_counted_as_by_hand(loaded: LoadedModel) -> None:
    assert loaded.n_neurons == NEURONS[loaded.name.removeprefix("tiny-")]
    for site in loaded.sites:
        linear = loaded.linear(site.module)
        assert output_rows(linear).shape[0] == site.size
        if linear.bias is not None:
            assert linear.bias.shape == (site.size,)


def test_sites_are_what_they_say(loaded: LoadedModel) -> None:
    sublayers = {site.sublayer for site in loaded.sites}
    cross = {"cross-attention"} if loaded.encoder_decoder else set()
    assert sublayers == {"self-attention", "feed-forward"} | cross
    layers = tiny.LAYERS + (1 if loaded.encoder_decoder else 0)
    assert {site.layer for site in loaded.sites} == set(range(layers))
    # What runs over the input has as many positions as the input, and nothing else has.
    seen: dict[str, int] = {}
    handles = [
        loaded.linear(site.module).register_forward_hook(
            lambda _m, _i, output, site=site: seen.update({site.module: output[..., 0].numel()})
        )
        for site in loaded.sites
    ]
    logits(loaded.model)
    for handle in handles:
        handle.remove()
    length = {True: 9, False: 4 if loaded.encoder_decoder else 9}
    assert seen == {site.module: length[site.over_input] for site in loaded.sites}


# --- edits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.5, -1.0])
def test_a_hook_and_an_edit_of_the_weights_agree(loaded: LoadedModel, factor: float) -> None:
    neurons = some(loaded)
    by_module: dict[str, list[int]] = {}
    for neuron in neurons:
        by_module.setdefault(neuron.module, []).append(neuron.index)

    def scale(_module: object, _inputs: object, output: torch.Tensor, indices: Any) -> torch.Tensor:
        changed = output.clone()
        changed[..., indices] *= factor
        return changed

    plain = logits(loaded.model)
    handles = [
        loaded.linear(module).register_forward_hook(
            lambda m, i, o, indices=indices: scale(m, i, o, indices)
        )
        for module, indices in by_module.items()
    ]
    hooked = logits(loaded.model)
    for handle in handles:
        handle.remove()
    with scaled_outputs(loaded.model, neurons, factor):
        edited = logits(loaded.model)
    torch.testing.assert_close(edited, hooked, rtol=0, atol=2e-5)
    assert (edited - plain).abs().max() > 1e-2


def test_leaving_the_block_undoes_bit_for_bit(loaded: LoadedModel) -> None:
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    with (
        pytest.raises(KeyboardInterrupt),
        patch_of(loaded, some(loaded, each=3), 0.3).applied(loaded),
    ):
        raise KeyboardInterrupt
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_patch_and_checkpoint_make_the_round_trip(loaded: LoadedModel, tmp_path: Path) -> None:
    patch = patch_of(loaded, some(loaded))
    patch.save(tmp_path / "patch")
    again = Patch.load(tmp_path / "patch")
    assert (again.neurons, again.scores, again.base_digest) == (
        patch.neurons,
        patch.scores,
        patch.base_digest,
    )
    with again.applied(loaded):
        expected, digest = logits(loaded.model), weights_digest(loaded.model)
    (tmp_path / "checkpoint").mkdir()
    save_checkpoint(loaded, patch, tmp_path / "checkpoint")
    reloaded = load(str(tmp_path / "checkpoint"))
    assert reloaded.digest == digest
    assert torch.equal(logits(reloaded.model), expected)
    kind = AutoModelForSeq2SeqLM if loaded.encoder_decoder else AutoModelForCausalLM
    assert torch.equal(logits(kind.from_pretrained(tmp_path / "checkpoint").eval()), expected)


def test_a_neuron_of_a_conv1d_is_a_column() -> None:
    model = made("gpt2")
    fused = model.model.transformer.h[0].attn.c_attn
    assert isinstance(fused, Conv1D)
    before = fused.weight.detach().clone()
    with scaled_outputs(model.model, [Neuron("transformer.h.0.attn.c_attn", 95)]):
        assert fused.weight.shape == (32, 96)  # inputs, outputs
        assert not fused.weight[:, 95].any()
        assert fused.bias[95] == 0
        assert torch.equal(fused.weight[:, :95], before[:, :95])
    assert torch.equal(fused.weight, before)


@pytest.mark.parametrize("factors", [(0.0, 2.0)])
def test_fused_maps_are_queries_keys_and_values(factors: tuple[float, ...]) -> None:
    """Keys of the first token's position do not matter where values are all zero."""
    model = made("phi3")
    name = "model.layers.0.self_attn.qkv_proj"
    values = [Neuron(name, index) for index in range(48, 64)]  # behind 32 queries and 16 keys
    attention = model.model.model.layers[0].self_attn.o_proj
    read: list[torch.Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _m, inputs: read.append(inputs[0]))
    with scaled_outputs(model.model, values, factors[0]):
        logits(model.model)
    with scaled_outputs(model.model, values, factors[1]):
        logits(model.model)
    logits(model.model)
    handle.remove()
    zero, double, plain = read
    assert not zero.any()
    torch.testing.assert_close(double, 2 * plain)


def test_low_rank_terms_follow_the_layout_of_a_conv1d() -> None:
    model, name = made("gpt2"), "transformer.h.1.attn.c_proj"  # square: a mistake fits in shape
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, 32), (32, 2)))
    change = WeightChange(model.name, model.digest, factors={name: LowRank(down, up, 0.5)})

    def term(_module: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output + 0.5 * inputs[0] @ down.t() @ up.t()

    handle = model.linear(name).register_forward_hook(term)
    expected = logits(model.model)
    handle.remove()
    with change.applied(model):
        torch.testing.assert_close(logits(model.model), expected, rtol=0, atol=2e-5)
    assert weights_digest(model.model) == model.digest


def test_a_gemma_that_sees_has_the_neurons_of_its_language_model() -> None:
    config = AutoConfig.for_model(
        "gemma3",
        text_config=made("gemma3").model.config.to_dict(),
        vision_config={
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
        },
        mm_tokens_per_image=1,
        image_token_index=tiny.VOCABULARY - 1, boi_token_index=350, eoi_token_index=349,
    )  # fmt: skip
    seeing = AutoModelForCausalLM.from_config(config).eval()
    own = made("gemma3").model.state_dict()
    seeing.model.language_model.load_state_dict(
        {key.removeprefix("model."): own[key] for key in own if key.startswith("model.")}
    )
    seeing.lm_head.weight = torch.nn.Parameter(own["lm_head.weight"].clone())
    model = wrap(seeing, tiny.tokenizer(), name="tiny-gemma3-vision")
    assert model.architecture.name == "gemma3-vision"
    assert model.n_neurons == NEURONS["gemma3"]
    encoded = encode(model, TASK, INSTRUCTION, tiny.INSTANCES[:2], end_token=False)
    for item, row in zip(encoded, scorer_for(model).score(encoded), strict=True):
        expected = [naive(made("gemma3"), item.prompt, option) for option in item.options]
        assert row == pytest.approx(expected, abs=1e-4)


# --- scoring --------------------------------------------------------------------------------------


@torch.no_grad()
def naive(model: LoadedModel, prompt: tuple[int, ...], option: tuple[int, ...]) -> float:
    """One option behind one prompt in a forward pass of its own: no padding, nothing shared."""
    if model.encoder_decoder:
        start = model.model.config.decoder_start_token_id
        answers = torch.tensor([[start, *option[:-1]]])
        scored = model.model(torch.tensor([prompt]), decoder_input_ids=answers, use_cache=False)
        first = 0
    else:
        scored = model.model(torch.tensor([[*prompt, *option]]), use_cache=False)
        first = len(prompt) - 1
    shares = scored.logits[0].double().log_softmax(-1)
    return sum(float(shares[first + place, token]) for place, token in enumerate(option))


@pytest.mark.parametrize("budget", [100, 2000])
def test_scores_are_those_of_the_naive_loop(loaded: LoadedModel, budget: int) -> None:
    encoded = encode(loaded, TASK, INSTRUCTION, tiny.INSTANCES, end_token=False)
    found = scorer_for(loaded, max_tokens=budget).score(encoded)
    for item, row in zip(encoded, found, strict=True):
        expected = [naive(loaded, item.prompt, option) for option in item.options]
        assert row == pytest.approx(expected, abs=1e-4)


WINDOWED = ("mistral-window", "phi3-window", "gemma2", "gemma3")


@pytest.mark.parametrize("name", WINDOWED)
def test_the_windows_of_the_tiny_models_matter(name: str) -> None:
    # Or the agreement above would say nothing about windows.
    model = made(name)
    wide = tiny.model(name, sliding_window=400)
    wide.load_state_dict(model.model.state_dict())
    (item, *_) = encode(model, TASK, INSTRUCTION, tiny.INSTANCES[:1], end_token=False)
    ids = torch.tensor([item.prompt])
    with torch.no_grad():
        difference = (model.model(ids).logits - wide(ids).logits)[0, -1].abs().max()
    assert difference > 1e-3


def test_alibi_is_a_matter_of_the_checkpoint() -> None:
    assert made("falcon").architecture.explicit_positions
    assert not made("falcon-alibi").architecture.explicit_positions
    assert not made("falcon-alibi").branches
    assert not made("bloom").branches


def test_soft_capping_needs_eager_attention() -> None:
    assert made("gemma2").model.config._attn_implementation == "eager"
    assert not made("gemma2").branches
    capped = logits(made("gemma2").model)
    assert capped.abs().max() <= 3.0  # final_logit_softcapping of the tiny model


def test_a_prompt_beyond_the_learned_positions_of_bart_is_refused() -> None:
    model = made("bart")
    limit = model.model.config.max_position_embeddings
    long = [tiny.instance(0, "old " * limit)]
    with pytest.raises(ConfigError, match=rf"needs \d+ tokens, but 'tiny-bart' has {limit} pos"):
        encode(model, TASK, INSTRUCTION, long, end_token=False)
    # Prompt and answer stand in stacks of their own: together they may be longer.
    fits = tiny.instance(0, "The old man was late.", options=("old " * 110, "young"))
    (item,) = encode(model, TASK, INSTRUCTION, [fits], end_token=False)
    assert len(item.prompt) + max(map(len, item.options)) > limit
    scorer_for(model).score([item])


def test_bart_answers_begin_behind_the_end_token() -> None:
    model = made("bart")
    instance = tiny.INSTANCES[0]
    (item,) = encode(model, TASK, INSTRUCTION, [instance], end_token=False)
    labels = torch.tensor([item.options[0]])
    with torch.no_grad():
        loss = model.model(torch.tensor([item.prompt]), labels=labels).loss  # transformers shifts
    (score, *_) = scorer_for(model).score([item])[0]
    assert score == pytest.approx(-float(loss) * labels.shape[1], abs=1e-4)


# --- attribution ----------------------------------------------------------------------------------


def objective(model: LoadedModel, instances: Any) -> float:
    predictions = predict(
        model, tiny.task(instances, TASK.instructions[:1]), instances,
        ScoringConfig(normalisation="total"),
    )  # fmt: skip
    assert predictions.log_likelihood is not None
    shares = torch.tensor(predictions.log_likelihood[0])
    gold = [instance.gold for instance in instances]
    return float(shares.log_softmax(-1)[range(len(gold)), gold].mean())


def test_effects_are_finite_differences(loaded: LoadedModel) -> None:
    instances = tiny.INSTANCES[:2]
    questions = [Question(instance, INSTRUCTION, 0) for instance in instances]
    found = effects(
        loaded, TASK, questions, [log_share], loaded.sites, normalisation="total", batch_size=2
    )
    assert set(found.by_module) == {site.module for site in loaded.sites}
    # The strongest neuron of a few maps: differences of weak ones drown in rounding.
    strongest = sorted(
        (
            (Neuron(module, int(np.abs(values[0, 0]).argmax())), values)
            for module, values in found.by_module.items()
        ),
        key=lambda pair: -float(np.abs(pair[1]).max()),
    )
    step = 0.02
    for neuron, values in strongest[:: max(1, len(strongest) // 3)]:
        ends = []
        for factor in (1 + step, 1 - step):
            with scaled_outputs(loaded.model, [neuron], factor):
                ends.append(objective(loaded, instances))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(values[0, 0, neuron.index], rel=0.03, abs=1e-4), neuron


# --- a planted neuron -----------------------------------------------------------------------------

BIASED, GOLD, OTHER = "The", "An", "be"
COORDINATE = 7
WRITERS = re.compile(
    r".*(?:o_proj|out_proj|attention\.dense|attn\.c_proj|mlp\.c_proj|Attention\.o|wo|down_proj|fc2"
    r"|fc_out|dense_4h_to_h)"
)
LAST_WRITER = re.compile(r".*(?:mlp\.c_proj|wo|down_proj|fc2|fc_out|dense_4h_to_h)")
EMBEDDINGS = re.compile(
    r".*(?:shared|embed_tokens|word_embeddings|embed_in|wte|wpe|embed_positions)"
)
CONTEXTS = ("An old man met her.", "Who was late?", "Nothing is known.", "The keys, the market.")
ORDERS = ((BIASED, GOLD, OTHER), (GOLD, OTHER, BIASED), (OTHER, BIASED, GOLD), (GOLD, BIASED))
PLANTED = tuple(
    tiny.instance(n, context, options, options.index(GOLD), stereotyped=options.index(BIASED))
    for n, (context, options) in enumerate(zip(CONTEXTS, ORDERS, strict=True))
)


@torch.no_grad()
def planted(name: str) -> tuple[LoadedModel, Neuron]:
    """One output feature of the last feed-forward map carries a bias towards a wrong answer.

    It alone writes into one coordinate of the residual stream, and the head reads from there: up
    for the biased word, down for the gold one. The feature collects equally from all units, which
    are made not to be negative where a gate allows it, so that each has a small share of it.
    """
    wider = {"opt": {"word_embed_proj_dim": tiny.HIDDEN}, "olmo": {"clip_qkv": None}}
    own = {"gemma2": {"final_logit_softcapping": 30.0}}
    overrides = {**wider.get(name, {}), **own.get(name, {}), "tie_word_embeddings": False}
    model = tiny.loaded(name, **overrides)
    for site in model.sites:
        if WRITERS.fullmatch(site.module):
            linear = model.linear(site.module)
            output_rows(linear)[COORDINATE] = 0.0
            if linear.bias is not None:
                linear.bias[COORDINATE] = 0.0
    for module_name, module in model.model.named_modules():
        if EMBEDDINGS.fullmatch(module_name) and isinstance(module, torch.nn.Embedding):
            module.weight[:, COORDINATE] = 0.0
    last = [site for site in model.sites if LAST_WRITER.fullmatch(site.module)][-1].module
    block = model.model.get_submodule(last.rpartition(".")[0])
    if hasattr(block, "gate_up_proj"):
        gates, ups = block.gate_up_proj.weight.chunk(2)
        ups.copy_(gates)
    elif hasattr(block, "gate_proj"):
        block.up_proj.weight.copy_(block.gate_proj.weight)
    elif hasattr(block, "wi_0"):
        block.wi_1.weight.copy_(block.wi_0.weight)
    # Small: what stands out before a norm is cut down by it, and so is its gradient.
    output_rows(model.linear(last))[COORDINATE] = 0.05
    head = model.model.get_output_embeddings().weight
    words = {}
    for word in (BIASED, GOLD):
        text = word if model.encoder_decoder else f" {word}"
        (words[word],) = model.tokenizer(text, add_special_tokens=False).input_ids
    head[:, COORDINATE] = 0.0
    head[words[BIASED], COORDINATE], head[words[GOLD], COORDINATE] = 1.0, -1.0
    if model.encoder_decoder:
        head[tiny.END, COORDINATE] = 1.0  # or the end would be less likely behind the biased word
    read: list[torch.Tensor] = []
    handle = model.model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, inputs: read.append(inputs[0][..., COORDINATE].flatten())
    )
    for item in encode(model, tiny.task(PLANTED), INSTRUCTION, PLANTED, end_token=False):
        start = getattr(model.model.config, "decoder_start_token_id", None)
        extra = {"decoder_input_ids": torch.tensor([[start]])} if model.encoder_decoder else {}
        model.model(torch.tensor([item.prompt]), use_cache=False, **extra)
    handle.remove()
    head[:, COORDINATE] *= 3.0 / torch.stack([values[-1] for values in read]).mean()
    return wrap(model.model, model.tokenizer, name=f"planted-{name}"), Neuron(last, COORDINATE)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_neuron_is_found_and_excised(name: str) -> None:
    model, neuron = planted(name)
    task = tiny.task(PLANTED, TASK.instructions[:1])
    scores = attribute(model, task, PLANTED, PRESETS["v2"].attribution)
    assert sum(len(values) for values in scores.by_module.values()) == model.n_neurons
    first, second, *_ = rank(scores.by_module)
    assert first.neuron == neuron
    assert first.score > second.score

    def lead() -> float:
        got = predict(model, task, PLANTED, ScoringConfig()).log_likelihood
        assert got is not None
        return float(np.mean([got[0, n, i.stereotyped] - got[0, n, i.gold]
                              for n, i in enumerate(PLANTED)]))  # fmt: skip

    before = lead()
    with patch_of(model, (first.neuron,)).applied(model):
        assert before - lead() > 2.0
    assert weights_digest(model.model) == model.digest
