"""Models that the table lacks: described by the user, checked, recorded, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import tiny
from cli_models import WORKPLACE, excise
from excise.attribution import attribute
from excise.cli.places import place
from excise.config import AttributionConfig, resolve
from excise.errors import ConfigError, ModelError, UnsupportedArchitectureError
from excise.models import DESCRIBED, LoadedModel, load, weights_digest, wrap
from excise.patches import Patch
from excise.scoring import encode, scorer_for
from test_families import naive

SMALL = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": tiny.PAD,
    "eos_token_id": tiny.END,
    "bos_token_id": tiny.BEGIN,
}
PLAIN = r"model\.layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.\w+"
NAMED = (
    r"model\.layers\.(?P<layer>\d+)\."
    r"(?:(?P<self_attention>self_attn\.\w+)|(?P<feed_forward>mlp\.\w+))"
)
T5 = (
    r"(?P<stack>encoder|decoder)\.block\.(?P<layer>\d+)\.layer\.\d+\."
    r"(?:(?P<cross_attention>EncDecAttention\.(?:[qo]|(?P<over_input>[kv])))"
    r"|(?:SelfAttention|DenseReluDense)\.\w+)"
)


def unknown(model_type: str = "starcoder2", **overrides: Any) -> Any:
    """A tiny random model of a type that the table lacks."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SMALL | overrides)
    return AutoModelForCausalLM.from_config(config).eval()


def described(neurons: str = PLAIN, no_neurons: str | None = None, **options: Any) -> LoadedModel:
    return wrap(
        unknown(**options), tiny.tokenizer(), name="unknown", neurons=neurons, no_neurons=no_neurons
    )


# --- described ------------------------------------------------------------------------------------


def test_a_described_model_has_the_neurons_that_are_named() -> None:
    model = described()
    assert model.architecture.name == DESCRIBED
    assert model.n_neurons == 208  # 2 layers of q, k, v, o with 16 each, 24 and 16
    assert {site.layer for site in model.sites} == {0, 1}
    assert {site.sublayer for site in model.sites} == {"unnamed"}
    assert {site.sublayer for site in described(NAMED).sites} == {"self-attention", "feed-forward"}


def test_a_described_model_is_scored_and_attributed() -> None:
    model = described()
    assert not model.branches  # nobody has checked that prompts may be shared
    task = tiny.task()
    encoded = encode(model, task, task.instructions[0], tiny.INSTANCES, end_token=False)
    for item, row in zip(encoded, scorer_for(model).score(encoded), strict=True):
        assert row == pytest.approx([naive(model, item.prompt, o) for o in item.options], abs=1e-4)
    config = AttributionConfig(instances=2, instructions=1)
    scores = attribute(model, task, tiny.INSTANCES[:2], config)
    assert sum(map(len, scores.by_module.values())) == model.n_neurons
    with pytest.raises(ConfigError, match="self_attention"):
        attribute(model, task, tiny.INSTANCES[:2], AttributionConfig(modules="attention"))


def test_a_description_of_a_known_model_finds_the_same_neurons() -> None:
    table = tiny.loaded("t5-gated")
    own = wrap(table.model, table.tokenizer, neurons=T5)
    assert [(s.module, s.size, s.layer, s.over_input) for s in own.sites] == [
        (s.module, s.size, s.layer, s.over_input) for s in table.sites
    ]
    assert own.encoder_decoder


def test_weights_come_back_from_the_check() -> None:
    model = unknown()
    before = weights_digest(model)
    wrap(model, tiny.tokenizer(), neurons=PLAIN)
    assert weights_digest(model) == before
    assert not any(module._forward_hooks for module in model.modules())


def refused(match: str, neurons: str | None, model: Any = None, **options: Any) -> None:
    with pytest.raises((UnsupportedArchitectureError, ConfigError), match=match) as caught:
        wrap(model or unknown(), tiny.tokenizer(), neurons=neurons, **options)
    assert "\n" not in str(caught.value)


def test_what_is_left_over_must_be_named_too() -> None:
    only = r"model\.layers\.(?P<layer>\d+)\.self_attn\.\w+"
    refused(r"linear maps 'model.layers.0.mlp.c_fc', .* and 1 more are not described", only)
    model = described(only, no_neurons=r".*\.mlp\..*")
    assert model.n_neurons == 128


@pytest.mark.parametrize(
    ("neurons", "match"),
    [
        ("(", "--neurons is no regular expression"),
        (r"model\.layers\.\d+\..*", "--neurons needs a named group 'layer'"),
        (r"(?P<layer>\d+)", "linear maps 'model.layers.0.self_attn.q_proj', "),
    ],
)
def test_expressions_that_make_no_sense(neurons: str, match: str) -> None:
    refused(match, neurons)


def test_no_neurons_alone_is_refused() -> None:
    refused("--no-neurons goes with --neurons", None, no_neurons="x")


def test_a_layer_that_is_no_number_is_refused() -> None:
    refused("group 'layer' of 'model.layers.0", r"model\.(?P<layer>layers)\.\d+\..*")


def test_the_input_side_of_two_stacks_must_be_named() -> None:
    model = tiny.model("t5")
    no_stack = r"\w+coder\.block\.(?P<layer>\d+)\.layer\.\d+\.\w+\.\w+"
    refused("'encoder.block.0.*' runs over tokens of the input; .*`stack`", no_stack, model)
    no_keys = r"(?P<stack>\w+coder)\.block\.(?P<layer>\d+)\.layer\.\d+\.\w+\.\w+"
    refused(r"EncDecAttention\.k' runs over tokens of the input; .*`over_input`", no_keys, model)


def test_a_map_that_is_called_twice_is_refused() -> None:
    model = unknown()
    model.model.layers[1].mlp = model.model.layers[0].mlp  # as models that share their layers do
    refused(r"layers\.0\.mlp\.c_fc' is called 2 times", PLAIN, model)


def test_a_map_that_is_never_called_is_refused() -> None:
    model = unknown()
    model.model.layers[0].mlp.idle = torch.nn.Linear(16, 16)
    refused(r"idle' is called 0 times", PLAIN, model)


def test_shared_weights_are_refused() -> None:
    model = unknown()
    layers = model.model.layers
    layers[1].mlp.c_fc.weight = layers[0].mlp.c_fc.weight
    refused(r"'model.layers.1.mlp.c_fc' shares its weights with 'model.layers.0", PLAIN, model)


def test_masked_models_are_not_described() -> None:
    model = tiny.model("bert")
    model.config.architectures = ["BertForMaskedLM"]
    refused("fill gaps", PLAIN, model)


# --- mixtures of experts --------------------------------------------------------------------------

EXPERTS = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
}


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "olmoe"])
def test_mixtures_of_experts_are_refused_with_the_reason(model_type: str) -> None:
    model = unknown(model_type, **EXPERTS)
    refused(rf"'{model_type}' are mixtures of 4 experts.*fused into one tensor", None, model)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_attention_of_a_mixture_can_be_described(model_type: str) -> None:
    attention = r"model\.layers\.(?P<layer>\d+)\.(?P<self_attention>self_attn\.[qkvo]_proj)"
    model = unknown(model_type, **EXPERTS, head_dim=8)
    # Fused experts are no linear maps: without a word they would be passed over.
    refused(r"matrices 'model.layers.0.mlp.*outside of linear maps", attention, model)
    loaded = wrap(
        model, tiny.tokenizer(), neurons=attention, no_neurons=r".*\.mlp\.(?:experts|gate)\..*"
    )
    assert loaded.n_neurons == 128  # 2 layers of q, k, v, o with 16 each
    assert {site.sublayer for site in loaded.sites} == {"self-attention"}


def test_experts_that_see_some_tokens_only_are_refused() -> None:
    config = AutoConfig.for_model(
        "switch_transformers", d_model=16, d_ff=24, d_kv=8, num_layers=2, num_decoder_layers=2,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_heads=2, num_experts=2,
        vocab_size=tiny.VOCABULARY, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    refused("'switch_transformers' are mixtures of 2 experts", None, model)
    everything = (
        r"(?P<stack>\w+coder)\.block\.(?P<layer>\d+)\.layer\.\d+\."
        r"(?:(?:SelfAttention|mlp)\.[\w.]+|EncDecAttention\.(?:[qo]|(?P<over_input>[kv])))"
    )
    refused("expert", everything, model)


# --- weights that are not there, or not in full ---------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "falcon", "bart"])
@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_quantised_checkpoints_are_refused(name: str, method: str, tmp_path: Path) -> None:
    config = tiny.model(name).config
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text()) | {"quantization_config": {"quant_method": method}}
    file.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=rf"quantised \({method}\)"):
        load(str(tmp_path))


def test_whole_number_weights_are_refused() -> None:
    model = tiny.model("gpt2")
    weight = model.transformer.h[0].mlp.c_fc.weight
    model.transformer.h[0].mlp.c_fc.weight = torch.nn.Parameter(
        weight.detach().to(torch.int8), requires_grad=False
    )
    with pytest.raises(ModelError, match="whole numbers, as quantised ones"):
        wrap(model, tiny.tokenizer())


def test_offloaded_weights_are_refused() -> None:
    model = tiny.model("gpt2")
    model.transformer.h[1].mlp.to("meta")
    with pytest.raises(ModelError, match=r"not in memory \(on the meta device\).*; load the"):
        wrap(model, tiny.tokenizer())


def test_a_decoder_that_starts_from_nothing_is_refused() -> None:
    model = tiny.model("bart")
    model.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="names no decoder_start_token_id"):
        wrap(model, tiny.tokenizer("eos"))


# --- on the command line --------------------------------------------------------------------------

QUICK = (
    "--task", WORKPLACE, "--n", 3, "--find-instances", 4, "--find-instructions", 1,
    "--test-instructions", 1, "--controls", 1, "--limit", 8, "--set", "resamples=100",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models") / "unknown"
    unknown().save_pretrained(root)
    tiny.tokenizer("bos").save_pretrained(root)
    return root


def test_a_run_records_the_description(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    only = r".*\.mlp\..*"
    neurons = r"model\.layers\.(?P<layer>\d+)\.self_attn\.\w+"
    result = excise("run", folder, *QUICK, "--neurons", neurons, "--no-neurons", only, "-o", out)
    assert result.exit_code == 0, result.output
    assert "other (3)" in result.output
    run = json.loads((out / "run.json").read_text())
    assert (run["config"]["neurons"], run["config"]["no_neurons"]) == (neurons, only)
    assert run["model"]["neurons"] == 128
    patch = Patch.load(out / "patch")
    assert (patch.provenance["neurons"], patch.provenance["no_neurons"]) == (neurons, only)
    assert all("self_attn" in neuron.module for neuron in patch.neurons)
    assert resolve({}, file=out / "config.toml").neurons == neurons
    written = excise(
        "apply", folder, out, "--neurons", neurons, "--no-neurons", only, "-o", tmp_path / "c"
    )
    assert written.exit_code == 0, written.output


def test_a_run_without_it_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    result = excise("run", folder, *QUICK, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert "--neurons" in result.output
    (error,) = [line for line in result.output.splitlines() if line.startswith("excise: error")]
    assert result.output.strip().endswith(error)
    assert not (tmp_path / "run").exists()


def test_sublayers_that_nobody_named_cannot_be_chosen() -> None:
    with pytest.raises(ConfigError, match=r"attribution\.modules needs groups self_attention"):
        resolve({"neurons": PLAIN, "attribution": {"modules": "attention"}})
    resolve({"neurons": NAMED, "attribution": {"modules": "attention"}})


def test_places_follow_a_description_before_the_table() -> None:
    own = r"model\.layers\.(?P<layer>\d+)\.self_attn\.\w+"
    name = "model.layers.3.self_attn.q_proj"
    assert place(name) == ("", 3, "self-attention")
    assert place(name, (own,)) == ("", 3, "other")


def test_every_verb_that_loads_a_model_takes_a_description() -> None:
    for verb in ("run", "evaluate", "compare", "locate", "apply"):
        shown = excise(verb, "--help", columns=200).output
        assert "--neurons" in shown
        assert "--no-neurons" in shown


def test_the_list_of_models_names_every_row() -> None:
    shown = excise("ls", "models", columns=160).output
    for name in ("gpt2", "gpt_neox", "falcon", "opt", "phi3", "gemma2", "olmo2", "bart", "mt5"):
        assert name in shown
    assert "--neurons" in shown
