"""The patch as a LoRA: PEFT loads it, switches it, merges it, and it is the same edit."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraModel
from torch import nn

import tiny
from excise.errors import NonFiniteError, PatchError, PatchMismatchError
from excise.models import ARCHITECTURES, LoadedModel, output_rows
from excise.patches import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    NEURONS_FILE,
    Adapter,
    Patch,
    lora_of,
)
from excise.types import Neuron

UNTRIED = {"gemma3-vision"}
"""Its language model is that of gemma3, which is tried."""
FAMILIES = sorted({*tiny.ALL, *tiny.FAMILIES, *tiny.MASKED})
EXACT = (0.0, 2.0, -1.0, 0.5, 0.75)
"""Factors for which W + BA is the scaled weight to the last bit."""


def patch_of(model: LoadedModel, factors: tuple[float, ...] = EXACT) -> Patch:
    """One to three neurons of every module, so that ranks differ, with factors in turn."""
    neurons = tuple(
        Neuron(site.module, index)
        for place, site in enumerate(model.sites)
        for index in sorted({0, site.size - 1, 7})[: 1 + place % 3]
    )
    return Patch(
        neurons=neurons,
        scores=tuple(1.0 - k / 64 for k in range(len(neurons))),
        base_model=model.name,
        base_digest=model.digest,
        factors=tuple(factors[k % len(factors)] for k in range(len(neurons))),
    )


def only(patch: Patch, *modules: str) -> Patch:
    kept = {n: f for n, f in patch.by_neuron.items() if n.module.endswith(modules)}
    assert kept
    return replace(patch, neurons=(*kept,), scores=(0.0,) * len(kept), factors=(*kept.values(),))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 33, 70, 12, 8], [7, 7, 20, 31, 90, 5]])
    extra = {"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {}
    result: torch.Tensor = model(input_ids=ids, **extra).logits
    return result


def on(model: LoadedModel, folder: Path) -> Any:
    """PEFT's model over a copy of the base."""
    return PeftModel.from_pretrained(copy.deepcopy(model.model), folder).eval()


def saved(model: LoadedModel, patch: Patch, folder: Path) -> Path:
    patch.save(folder, lora_of(model, patch))
    return folder


def assert_same_weights(merged: Any, model: LoadedModel, patch: Patch) -> None:
    with patch.applied(model):
        expected = model.model.state_dict()
        found = merged.state_dict()
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values.dtype == expected[name].dtype
            assert torch.equal(values, expected[name]), name


# Every family.


@pytest.mark.parametrize("name", FAMILIES)
def test_peft_loads_switches_and_merges_the_patch(name: str, tmp_path: Path) -> None:
    model = tiny.loaded(name)
    patch = patch_of(model)
    original = logits(model.model)
    with patch.applied(model):
        patched = logits(model.model)
    assert not torch.allclose(patched, original, atol=1e-2)
    adapted = on(model, saved(model, patch, tmp_path))
    torch.testing.assert_close(logits(adapted), patched, rtol=0, atol=1e-4)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), original)
    torch.testing.assert_close(logits(adapted), patched, rtol=0, atol=1e-4)
    merged = adapted.merge_and_unload(safe_merge=True)
    assert_same_weights(merged, model, patch)
    assert torch.equal(logits(merged), _under(patch, model))


def test_every_architecture_of_the_table_is_tried() -> None:
    tried = {tiny.loaded(name).architecture.name for name in FAMILIES}
    assert {row.name for row in ARCHITECTURES} - tried <= UNTRIED


@pytest.mark.parametrize("name", FAMILIES)
def test_zeroed_neurons_are_zero_after_merging(name: str, tmp_path: Path) -> None:
    model = tiny.loaded(name)
    patch = patch_of(model, (0.0,))
    merged = on(model, saved(model, patch, tmp_path)).merge_and_unload()
    for neuron in patch.neurons:
        layer = merged.get_submodule(neuron.module)
        assert not output_rows(layer)[neuron.index].any()
        assert layer.bias is None or layer.bias[neuron.index] == 0
    assert_same_weights(merged, model, patch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "qwen2", "bloom", "t5"])
def test_merging_is_exact_in_half_precision_for_any_factor(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    whole = tiny.loaded(name)
    model = replace(whole, model=whole.model.to(dtype))
    patch = patch_of(model, (0.0, 0.1, -3.7, 12.0, 0.001))
    patch.save(tmp_path, lora_of(model, patch, force=True))
    adapted = on(model, tmp_path)
    with patch.applied(model, force=True):
        scale = logits(model.model).float().abs().max()
        # Unmerged, what remains is the rounding of outputs in the base model's type.
        gap = (logits(adapted) - logits(model.model)).float().abs().max()
        assert gap < 0.1 * scale
        merged, expected = adapted.merge_and_unload().state_dict(), model.model.state_dict()
        for key, values in merged.items():
            assert torch.equal(values, expected[key]), key


@cache
def llama() -> LoadedModel:
    return tiny.loaded("llama")


@given(
    weight=st.floats(-100, 100, width=32).filter(lambda w: abs(w) > 1e-30),
    factor=st.floats(-8, 8, width=32).filter(lambda f: abs(f) > 1e-4),
)
def test_other_factors_are_within_the_stated_bound(weight: float, factor: float) -> None:
    model, module = llama(), "model.layers.0.mlp.up_proj"
    layer = model.linear(module)
    with torch.no_grad():
        layer.weight[3, 5] = weight
    patch = Patch((Neuron(module, 3),), (0.0,), "m", "0" * 64, factor)
    tensors = lora_of(model, patch, force=True).tensors
    a, b = (tensors[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
    original = layer.weight.detach()[3].clone()
    scaled = original * factor
    gap = (original + (b @ a)[3] - scaled).abs()
    assert (gap <= 2**-22 * torch.maximum(original.abs(), scaled.abs())).all()
    if 0.5 <= factor <= 2:
        assert not gap.any()


def _under(patch: Patch, model: LoadedModel) -> torch.Tensor:
    with patch.applied(model):
        return logits(model.model)


# What the files hold.


def test_a_worked_example(tmp_path: Path) -> None:
    model = tiny.loaded("llama")
    up, down = "model.layers.1.mlp.up_proj", "model.layers.0.mlp.down_proj"
    patch = Patch(
        (Neuron(up, 7), Neuron(down, 2), Neuron(up, 1)),
        (3.0, 2.0, 1.0),
        "org/base",
        model.digest,
        factors=(0.0, 0.0, 2.0),
    )
    adapter = lora_of(model, patch)
    weight = model.linear(up).weight.detach()
    a = adapter.tensors[f"base_model.model.{up}.lora_A.weight"]
    assert torch.equal(a, torch.stack([-weight[7], weight[1]]))
    b = adapter.tensors[f"base_model.model.{up}.lora_B.weight"]
    assert b.shape == (tiny.FEED_FORWARD, 2)
    assert b.nonzero().tolist() == [[1, 1], [7, 0]]
    assert b.sum() == 2
    assert len(adapter.tensors) == 4
    assert {t.dtype for t in adapter.tensors.values()} == {torch.float32}
    assert adapter.config["r"] == adapter.config["lora_alpha"] == 2
    assert adapter.config["rank_pattern"] == {r"^model\.layers\.0\.mlp\.down_proj": 1}
    assert adapter.config["alpha_pattern"] == adapter.config["rank_pattern"]
    assert adapter.config["base_model_name_or_path"] == "org/base"
    assert adapter.config["task_type"] == "CAUSAL_LM"
    adapted = on(model, saved(model, patch, tmp_path))
    touched = {n for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert touched == {f"base_model.model.{up}", f"base_model.model.{down}"}
    assert all(adapted.get_submodule(n).scaling == {"default": 1.0} for n in touched)


def test_no_module_is_taken_for_another() -> None:
    """Layer 1 is no layer 11, and a name that ends like a module's is not that module."""
    model = tiny.loaded("llama", num_hidden_layers=12)
    patch = only(patch_of(model), "layers.1.mlp.up_proj")
    adapted = PeftModel(copy.deepcopy(model.model), _peft_config(lora_of(model, patch)))
    touched = [n for n, m in adapted.named_modules() if hasattr(m, "lora_A")]
    assert touched == ["base_model.model.model.layers.1.mlp.up_proj"]

    wrapper = nn.ModuleDict({"model": model.model.model, "outer": copy.deepcopy(model.model)})
    wrapper.config = model.model.config  # type: ignore[assignment]
    assert isinstance(wrapper.get_submodule("outer.model.layers.1.mlp.up_proj"), nn.Linear)
    wrapped = LoraModel(wrapper, _peft_config(lora_of(model, patch)), "default")
    touched = [n for n, m in wrapped.named_modules() if hasattr(m, "lora_A")]
    assert touched == ["model.model.layers.1.mlp.up_proj"]


def _peft_config(adapter: Adapter) -> Any:
    return LoraConfig(**{k: v for k, v in adapter.config.items() if k != "peft_type"})


def test_the_adapter_of_a_union_is_the_unions(tmp_path: Path) -> None:
    model = tiny.loaded("t5")
    whole = patch_of(model)
    first, second = only(whole, ".q", ".wi"), only(whole, ".wi", ".wo", ".v")
    union = first | second
    assert_same_weights(
        on(model, saved(model, union, tmp_path / "union")).merge_and_unload(), model, union
    )
    # Adapters of patches that share no map also add up inside PEFT.
    apart = only(whole, ".wo")
    both = on(model, saved(model, first, tmp_path / "first"))
    both.load_adapter(saved(model, apart, tmp_path / "apart"), "apart")
    both.base_model.set_adapter(["default", "apart"])
    torch.testing.assert_close(logits(both), _under(first | apart, model), rtol=0, atol=1e-4)


def test_an_empty_patch_is_an_adapter_that_changes_nothing(tmp_path: Path) -> None:
    model = tiny.loaded("qwen2")
    patch = Patch((), (), model.name, model.digest)
    adapted = on(model, saved(model, patch, tmp_path))
    assert torch.equal(logits(adapted), logits(model.model))
    assert_same_weights(adapted.merge_and_unload(), model, patch)
    assert Patch.load(tmp_path) == patch


# Biases.


def test_biases_go_into_the_lora_where_every_map_has_one() -> None:
    model = tiny.loaded("bloom")
    adapter = lora_of(model, patch_of(model, (0.0,)))
    assert adapter.config["lora_bias"] is True
    assert adapter.config["modules_to_save"] is None
    name = model.sites[0].module
    bias = adapter.tensors[f"base_model.model.{name}.lora_B.bias"]
    assert bias.nonzero().tolist() == [[0]]
    assert bias[0] == -model.linear(name).bias[0]


def test_maps_with_biases_are_whole_where_others_have_none(tmp_path: Path) -> None:
    model = tiny.loaded("qwen2")
    patch = only(patch_of(model), "0.self_attn.q_proj", "0.mlp.up_proj")
    adapter = lora_of(model, patch)
    assert adapter.config["modules_to_save"] == ["model.layers.0.self_attn.q_proj"]
    assert adapter.config["target_modules"] == r"model\.layers\.0\.mlp\.up_proj"
    assert adapter.config["lora_bias"] is False
    alone = lora_of(model, only(patch, "q_proj"))
    assert alone.config["modules_to_save"] is None
    assert alone.config["lora_bias"] is True
    # A bias of zero needs nothing.
    with torch.no_grad():
        model.linear("model.layers.0.self_attn.q_proj").bias.zero_()
    assert lora_of(model, patch, force=True).config["modules_to_save"] is None


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    model = tiny.loaded("llama")
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight
    merged = on(model, saved(model, patch_of(model), tmp_path)).merge_and_unload()
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


# What is refused.


def test_shared_weights_are_refused() -> None:
    model = tiny.loaded("llama")
    first, second = (model.linear(f"model.layers.{k}.mlp.up_proj") for k in (0, 1))
    second.weight = first.weight
    with pytest.raises(PatchError, match=r"layers\.0\.mlp\.up_proj' and .*share their weights"):
        lora_of(model, only(patch_of(model), "1.mlp.up_proj"), force=True)
    lora_of(model, only(patch_of(model), "1.mlp.gate_proj"), force=True)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_weights_that_are_no_numbers_are_refused(bad: float, part: str) -> None:
    model = tiny.loaded("qwen2")
    layer = model.linear("model.layers.0.self_attn.q_proj")
    with torch.no_grad():
        getattr(layer, part)[0] = bad
    with pytest.raises(NonFiniteError, match=r"layers\.0\.self_attn\.q_proj"):
        lora_of(model, patch_of(model, (0.0,)), force=True)


def test_another_model_is_refused_unless_forced() -> None:
    patch, other = patch_of(tiny.loaded("llama")), tiny.loaded("llama", seed=1)
    with pytest.raises(PatchMismatchError):
        lora_of(other, patch)
    assert lora_of(other, patch, force=True).tensors


# Files.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny.loaded("llama")
    return saved(model, patch_of(model), tmp_path / "patch")


def test_files_are_reproducible_and_known_by_their_digests(folder: Path) -> None:
    model = tiny.loaded("llama")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {NEURONS_FILE, ADAPTER_FILE, ADAPTER_CONFIG_FILE}
    saved(model, patch_of(model), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert Patch.load(folder) == patch_of(model)
    assert Adapter.load(folder).files() == {k: before[k] for k in before if k != NEURONS_FILE}


def test_the_model_is_as_it_was() -> None:
    model = tiny.loaded("bloom")
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    lora_of(model, patch_of(model))
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())


@pytest.mark.parametrize("name", [ADAPTER_FILE, ADAPTER_CONFIG_FILE])
def test_a_damaged_or_missing_adapter_is_an_error(name: str, folder: Path) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(PatchError, match=rf"{name} is not the file .* neurons\.json itself"):
        Patch.load(folder)
    (folder / name).unlink()
    with pytest.raises(PatchError, match=rf"{name} cannot be read .* neurons\.json itself"):
        Patch.load(folder)
    with pytest.raises(PatchError, match="cannot read the adapter"):
        Adapter.load(folder)
    assert len(Patch.load(folder / NEURONS_FILE)) > 0
    for path in (ADAPTER_FILE, ADAPTER_CONFIG_FILE):
        (folder / path).unlink(missing_ok=True)
    assert Patch.load(folder) == Patch.load(folder / NEURONS_FILE)  # neurons passed on alone


def test_an_adapter_that_is_cut_off_is_an_error(folder: Path) -> None:
    (folder / ADAPTER_FILE).write_bytes((folder / ADAPTER_FILE).read_bytes()[:-9])
    with pytest.raises(PatchError, match="is damaged"):
        Adapter.load(folder)
    (folder / ADAPTER_CONFIG_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(PatchError, match="is damaged"):
        Adapter.load(folder)


def test_unknown_files_and_digests_that_are_none_are_refused(folder: Path) -> None:
    document = json.loads((folder / NEURONS_FILE).read_text(encoding="utf-8"))
    for bad in ({"../x": "0" * 64}, {ADAPTER_FILE: "short"}):
        text = json.dumps(document | {"adapter_sha256": bad})
        (folder / NEURONS_FILE).write_text(text, encoding="utf-8")
        with pytest.raises(PatchError, match="field adapter_sha256"):
            Patch.load(folder)


def test_saving_without_an_adapter_leaves_no_old_one(folder: Path) -> None:
    Patch.load(folder).save(folder)
    assert [path.name for path in folder.iterdir()] == [NEURONS_FILE]
    assert "adapter" not in (folder / NEURONS_FILE).read_text(encoding="utf-8")
    assert len(Patch.load(folder)) > 0
