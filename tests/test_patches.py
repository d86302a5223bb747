"""Excising and undoing, patch files, patched checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import tiny
from excise.config import PatchConfig
from excise.errors import PatchError, PatchMismatchError
from excise.methods import random_patch
from excise.models import LoadedModel, load, weights_digest
from excise.patches import (
    NEURONS_FILE,
    Patch,
    factor_of,
    save_checkpoint,
    scale_outputs,
    scaled_outputs,
)
from excise.scoring import encode, scorer_for
from excise.types import Neuron


def patch_of(model: LoadedModel, *, per_module: int = 3, factor: float = 0.0) -> Patch:
    """Neurons of every module, first and last ones among them."""
    neurons = tuple(
        Neuron(site.module, index)
        for site in model.sites
        for index in sorted({0, site.size - 1, 7})[:per_module]
    )
    return Patch(
        neurons=neurons,
        scores=tuple(1.0 - k / 64 for k in range(len(neurons))),
        base_model=model.name,
        base_digest=model.digest,
        factor=factor,
        provenance={"preset": "v2", "seed": 3, "splits": ["a", "b"], "µ": None},
    )


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 33, 70, 12, 8], [7, 7, 20, 31, 90, 5]])
    extra = {"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {}
    result: torch.Tensor = model(ids, **extra).logits
    return result


def state(model: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Equal only where every bit is: 0.0 and -0.0 differ, NaN equals itself."""
    return tensor.contiguous().view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def assert_unchanged(model: LoadedModel, before: dict[str, torch.Tensor]) -> None:
    after = model.model.state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert torch.equal(bits(value), bits(before[name])), name


# Excising.


@pytest.mark.parametrize("name", tiny.ALL)
@pytest.mark.parametrize("factor", [0.0, 0.5, -2.0])
def test_a_patch_equals_a_hook_on_the_outputs(name: str, factor: float) -> None:
    model = tiny.loaded(name)
    original = logits(model.model)
    patch = patch_of(model, factor=factor)

    def hook(indices: list[int]) -> Callable[..., torch.Tensor]:
        def scale(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[..., indices] *= factor
            return output

        return scale

    for site in model.sites:  # one module at a time, so that none hides another
        neurons = tuple(n for n in patch.neurons if n.module == site.module)
        handle = model.linear(site.module).register_forward_hook(hook([n.index for n in neurons]))
        expected = logits(model.model)
        handle.remove()
        with scaled_outputs(model.model, neurons, factor):
            got = logits(model.model)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        if not site.module.endswith(("q", "k", "q_proj", "k_proj")):
            assert not torch.allclose(got, original, atol=1e-4), site.module


def test_biases_are_excised_too() -> None:
    model = tiny.loaded("qwen2")
    query = model.linear("model.layers.0.self_attn.q_proj")
    assert query.bias is not None
    assert query.bias[5] != 0
    scale_outputs(model.model, [Neuron("model.layers.0.self_attn.q_proj", 5)])
    assert query.bias[5] == 0
    assert not query.weight[5].any()
    assert query.weight[4].any()
    assert (query(torch.randn(3, tiny.HIDDEN))[:, 5] == 0).all()


def test_zero_is_not_a_product() -> None:
    model = tiny.loaded("llama")
    linear = model.linear("model.layers.0.mlp.up_proj")
    with torch.no_grad():
        linear.weight[2, 0], linear.weight[2, 1] = math.inf, math.nan
    scale_outputs(model.model, [Neuron("model.layers.0.mlp.up_proj", 2)])
    assert not linear.weight[2].any()


def test_apply_is_for_good() -> None:
    model = tiny.loaded("t5")
    patch = patch_of(model)
    with patch.applied(model):
        meanwhile = logits(model.model)
    patch.apply(model)
    assert torch.equal(logits(model.model), meanwhile)
    assert weights_digest(model.model) != model.digest


def test_an_empty_patch_changes_nothing() -> None:
    model = tiny.loaded("llama")
    original = logits(model.model)
    with Patch((), (), model.name, model.digest).applied(model):
        assert torch.equal(logits(model.model), original)


# Undoing.


@pytest.mark.parametrize("name", tiny.ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_undoing_is_bit_exact(name: str, dtype: torch.dtype, factor: float) -> None:
    model = tiny.loaded(name)
    model.model.to(dtype)
    with torch.no_grad():
        for site in model.sites:
            linear = model.linear(site.module)
            linear.weight[0, 0], linear.weight[0, 1] = -0.0, 1e-38
            linear.weight[-1, 0] = math.nan
            if linear.bias is not None:
                linear.bias[0] = -0.0
    before = state(model)
    patch = patch_of(model, factor=factor)
    with patch.applied(model, force=True):
        assert any(
            not torch.equal(bits(v), bits(before[k])) for k, v in model.model.state_dict().items()
        )
    assert_unchanged(model, before)


def test_undoing_after_an_error_inside() -> None:
    model = tiny.loaded("bloom")
    before = state(model)
    with pytest.raises(KeyboardInterrupt), patch_of(model).applied(model):
        raise KeyboardInterrupt
    assert_unchanged(model, before)


def test_nested_patches_come_back_one_by_one() -> None:
    model = tiny.loaded("llama")
    before = state(model)
    outer, inner = patch_of(model, per_module=2), patch_of(model, per_module=1, factor=0.5)
    with outer.applied(model):
        between = state(model)
        with inner.applied(model):
            pass
        assert_unchanged(model, between)
        with inner.applied(model), outer.applied(model):
            pass
        assert_unchanged(model, between)
    assert_unchanged(model, before)


def test_the_union_does_what_both_do() -> None:
    model = tiny.loaded("t5")
    whole = patch_of(model)
    half = len(whole) // 2
    first = replace(whole, neurons=whole.neurons[:half], scores=whole.scores[:half])
    # Overlaps with the first in one neuron, which has a higher score there.
    second = replace(whole, neurons=whole.neurons[half - 1 :], scores=(9.0, *whole.scores[half:]))
    union = first | second
    assert union.neurons == whole.neurons
    assert union.scores == (*whole.scores[: half - 1], 9.0, *whole.scores[half:])
    assert (second | first).scores[0] == 9.0
    assert union.provenance == {"union_of": [dict(whole.provenance)] * 2}
    with first.applied(model), second.applied(model):
        both = logits(model.model)
    with union.applied(model):
        assert torch.equal(logits(model.model), both)


def test_patches_that_do_not_go_together_have_no_union() -> None:
    patch = patch_of(tiny.loaded("llama"))
    with pytest.raises(PatchMismatchError, match="different models"):
        patch | patch_of(tiny.loaded("llama", seed=1))
    with pytest.raises(PatchMismatchError, match="different factors"):
        patch | replace(patch, factor=0.5)


# What is refused.


@pytest.mark.parametrize("bare", [False, True], ids=["LoadedModel", "PreTrainedModel"])
def test_another_model_is_refused_unless_forced(bare: bool) -> None:
    patch, other = patch_of(tiny.loaded("llama")), tiny.loaded("llama", seed=1)
    target = other.model if bare else other
    before = state(other)
    with pytest.raises(PatchMismatchError, match=r"made on tiny-llama .*--force"):
        patch.check(target)
    with pytest.raises(PatchMismatchError), patch.applied(target):
        pass
    with pytest.raises(PatchMismatchError):
        patch.apply(target)
    assert_unchanged(other, before)
    original = logits(other.model)
    with patch.applied(target, force=True):
        assert not torch.equal(logits(other.model), original)
    assert_unchanged(other, before)


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (Neuron("model.layers.9.mlp.up_proj", 0), r"no module 'model\.layers\.9"),
        (Neuron("model.layers.0.mlp.up_proj", 48), "neuron 48 .* has 48 output features"),
        (Neuron("model.layers.0.mlp.up_proj", -1), "neuron -1 .* out of range"),
        (Neuron("model.layers.0.mlp", 0), "LlamaMLP, not a linear map"),
    ],
)
def test_neurons_that_the_model_lacks_are_refused_even_if_forced(
    neuron: Neuron, message: str
) -> None:
    model = tiny.loaded("llama")
    before = state(model)
    good = patch_of(model)
    patch = replace(good, neurons=(*good.neurons, neuron), scores=(*good.scores, 0.0))
    for action in (
        patch.check,
        patch.apply,
        lambda m, force: patch.applied(m, force=force).__enter__(),
    ):
        with pytest.raises(PatchError, match=message):
            action(model, force=True)
        assert_unchanged(model, before)


def test_a_patch_checks_itself() -> None:
    neuron = Neuron("a", 0)
    with pytest.raises(PatchError, match="2 neurons, but 1 scores"):
        Patch((neuron, Neuron("a", 1)), (0.0,), "m", "0" * 64)
    with pytest.raises(PatchError, match="twice"):
        Patch((neuron, neuron), (0.0, 1.0), "m", "0" * 64)


def mixed(model: LoadedModel) -> Patch:
    """A patch whose neurons have factors of their own."""
    patch = patch_of(model)
    cycle = (0.0, 2.0, -1.0, 0.5)
    return replace(patch, factors=tuple(cycle[n % 4] for n in range(len(patch))))


def test_neurons_may_have_factors_of_their_own(tmp_path: Path) -> None:
    model = tiny.loaded("qwen2")
    before, patch = state(model), mixed(model)
    with patch.applied(model):
        for neuron, factor in patch.by_neuron.items():
            for part in ("weight", "bias"):
                name = f"{neuron.module}.{part}"
                if name in before:
                    own = model.model.state_dict()[name][neuron.index]
                    assert torch.equal(own, before[name][neuron.index] * factor)
        patched = logits(model.model)
    assert_unchanged(model, before)
    patch.save(tmp_path)
    read = Patch.load(tmp_path)
    assert read == patch
    with read.applied(model):
        assert torch.equal(logits(model.model), patched)
    document = json.loads((tmp_path / NEURONS_FILE).read_text(encoding="utf-8"))
    del document["neurons"][3]["factor"]
    (tmp_path / NEURONS_FILE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(PatchError, match="some neurons have a factor of their own"):
        Patch.load(tmp_path)
    with pytest.raises(PatchError, match="but 1 factors"):
        replace(patch, factors=(1.0,))


def test_the_union_keeps_factors_and_refuses_two_of_one_neuron() -> None:
    model = tiny.loaded("llama")
    patch, plain = mixed(model), patch_of(model)
    first = replace(
        patch, neurons=patch.neurons[:3], scores=patch.scores[:3], factors=patch.factors[:3]
    )
    second = replace(plain, neurons=plain.neurons[3:5], scores=plain.scores[3:5])
    union = first | second
    assert union.by_neuron == {**first.by_neuron, **second.by_neuron}
    assert (first | first).by_neuron == first.by_neuron
    with pytest.raises(PatchMismatchError, match="different factors"):
        first | plain


def test_random_controls_get_the_factors_of_their_module() -> None:
    model = tiny.loaded("llama")
    # The patch's order is not that of the modules.
    patch = mixed(model)
    patch = replace(
        patch,
        neurons=patch.neurons[::-1],
        scores=patch.scores[::-1],
        factors=patch.factors[::-1],
    )
    control = random_patch(model, patch, seed=0)

    def by_module(one: Patch) -> list[tuple[str, float]]:
        return sorted((neuron.module, factor) for neuron, factor in one.by_neuron.items())

    assert by_module(control) == by_module(patch)
    assert set(control.neurons).isdisjoint(patch.neurons)
    assert random_patch(model, patch_of(model), seed=0).factors == ()


def test_factors_of_the_options() -> None:
    assert factor_of(PatchConfig()) == 0.0
    assert factor_of(PatchConfig(removal="zero", scale=0.5)) == 0.0
    assert factor_of(PatchConfig(removal="scale", scale=0.5)) == 0.5


# Patch files.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    patch_of(tiny.loaded("llama")).save(tmp_path / "deep" / "patch")
    return tmp_path / "deep" / "patch"


@pytest.mark.parametrize("factor", [0.0, 0.1, -1.0])
def test_a_patch_makes_the_round_trip(factor: float, tmp_path: Path) -> None:
    patch = replace(patch_of(tiny.loaded("llama"), factor=factor))
    patch = replace(patch, scores=(1 / 3, -1e-300, 5e-324, *patch.scores[3:]))
    patch.save(tmp_path / "patch")
    assert Patch.load(tmp_path / "patch") == patch
    assert Patch.load(tmp_path / "patch" / NEURONS_FILE) == patch
    assert Patch.load(str(tmp_path / "patch")).to_json() == patch.to_json()


def test_saving_is_reproducible_and_small(saved: Path) -> None:
    text = (saved / NEURONS_FILE).read_text(encoding="utf-8")
    patch_of(tiny.loaded("llama")).save(saved)
    assert (saved / NEURONS_FILE).read_text(encoding="utf-8") == text
    assert len(text) < 120 * len(patch_of(tiny.loaded("llama"))) + 500


def broken_by(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        document[key] = value

    return edit


def in_neuron(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["neurons"][1].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (broken_by("schema_version", 2), "schema version 2; this excise reads 1"),
        (lambda d: d.pop("schema_version"), "schema version None"),
        (lambda d: d.pop("base_digest"), "field base_digest"),
        (broken_by("base_digest", "short"), "field base_digest"),
        (broken_by("factor", math.nan), "field factor"),
        (broken_by("factor", "0"), "field factor"),
        (broken_by("note", "hello"), "field note"),
        (broken_by("neurons", {}), "field neurons"),
        (broken_by("provenance", []), "field provenance"),
        (in_neuron(index=-1), r"field neurons\.1\.index"),
        (in_neuron(index=1.5), r"field neurons\.1\.index"),
        (in_neuron(index="1"), r"field neurons\.1\.index"),
        (in_neuron(index=True), r"field neurons\.1\.index"),
        (in_neuron(module=""), r"field neurons\.1\.module"),
        (in_neuron(module=None), r"field neurons\.1\.module"),
        (in_neuron(score=math.nan), r"field neurons\.1\.score"),
        (in_neuron(score=-math.inf), r"field neurons\.1\.score"),
        (in_neuron(weight=1), r"field neurons\.1\.weight"),
        (lambda d: d["neurons"][1].pop("module"), r"field neurons\.1\.module"),
        (lambda d: d["neurons"].append(d["neurons"][0]), "twice"),
    ],
)
def test_malformed_patches_are_refused_in_one_line(
    edit: Callable[[dict[str, Any]], None], message: str, saved: Path
) -> None:
    path = saved / NEURONS_FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(PatchError, match=message) as caught:
        Patch.load(saved)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"null", b"\xff\xfe", "cut", b"[" * 100_000])
def test_files_that_are_no_patch_are_refused(content: bytes | str | None, saved: Path) -> None:
    path = saved / NEURONS_FILE
    text = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(text[: len(text) // 2] if isinstance(content, str) else content)
    with pytest.raises(PatchError, match=r"neurons\.json") as caught:
        Patch.load(path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_patch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match=r"cannot read patch .*neurons\.json"):
        Patch.load(tmp_path)


def test_an_index_out_of_range_is_refused_at_the_model(saved: Path) -> None:
    path = saved / NEURONS_FILE
    path.write_text(path.read_text(encoding="utf-8").replace('"index": 47', '"index": 4700'))
    model = tiny.loaded("llama")
    with pytest.raises(PatchError, match=r"neuron 4700 .* out of range"):
        Patch.load(saved).check(model)


# Checkpoints.


def save_patched(name: str, folder: Path, factor: float = 0.0) -> tuple[LoadedModel, Patch]:
    model = tiny.loaded(name, kind="bare" if name not in tiny.SEQ2SEQ else None)
    patch = patch_of(model, factor=factor)
    folder.mkdir()
    before = state(model)
    save_checkpoint(model, patch, folder)
    assert_unchanged(model, before)
    return model, patch


@pytest.mark.parametrize("name", tiny.ALL)
def test_a_checkpoint_loads_with_transformers_alone(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "patched"
    model, patch = save_patched(name, folder)
    auto = AutoModelForSeq2SeqLM if model.encoder_decoder else AutoModelForCausalLM
    alone = auto.from_pretrained(folder).eval()
    with patch.applied(model):
        assert torch.equal(logits(alone), logits(model.model))
        assert weights_digest(alone) == weights_digest(model.model)
    assert not torch.equal(logits(alone), logits(model.model))
    shapes = {key: value.shape for key, value in model.model.state_dict().items()}
    assert {key: value.shape for key, value in alone.state_dict().items()} == shapes
    assert alone.config.architectures == [type(model.model).__name__]
    text = "The old man"
    assert AutoTokenizer.from_pretrained(folder)(text) == model.tokenizer(text)
    weights = [p.name for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert weights == []
    assert (folder / "model.safetensors").is_file()
    assert Patch.load(folder / "patch") == patch
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "bias-neurons-pruned" in card
    assert f"{len(patch)} of {model.n_neurons:,} neurons" in card


def test_a_scaled_checkpoint(tmp_path: Path) -> None:
    model, patch = save_patched("qwen2", tmp_path / "patched", factor=0.3)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "patched").eval()
    with patch.applied(model):
        assert torch.equal(logits(alone), logits(model.model))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    patch, other = patch_of(tiny.loaded("llama")), tiny.loaded("llama", seed=1)
    with pytest.raises(PatchMismatchError):
        save_checkpoint(other, patch, tmp_path)
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(other, patch, tmp_path, force=True)
    assert load(str(tmp_path)).digest != other.digest


def test_a_chat_template_goes_along(tmp_path: Path) -> None:
    model = tiny.loaded("llama", kind="chat")
    save_checkpoint(model, patch_of(model), tmp_path)
    assert load(str(tmp_path)).chat_template


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_checkpoint_scores_the_same_in_lm_eval(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.api.instance import Instance as Request
    from lm_eval.models.huggingface import HFLM

    model, patch = save_patched(name, tmp_path / "patched")
    theirs = HFLM(pretrained=str(tmp_path / "patched"), device="cpu", dtype="float32", batch_size=1)
    task, instances = tiny.task(), tiny.INSTANCES[:3]
    joint = "" if model.encoder_decoder else " "
    requests = [
        Request("loglikelihood", {}, (task.prompt("Pick.", i), joint + option), 0)
        for i in instances
        for option in i.options
    ]
    got = [value for value, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
    items = encode(model, task, "Pick.", instances, end_token=False)
    if model.encoder_decoder:
        # lm-eval leaves out the end token of an option, which the authors of CRISPR score.
        items = [replace(item, options=tuple(o[:-1] for o in item.options)) for item in items]
    original = [v for row in scorer_for(model).score(items) for v in row]
    with patch.applied(model):
        ours = [v for row in scorer_for(model).score(items) for v in row]
    assert got == pytest.approx(ours, abs=1e-3)
    assert got != pytest.approx(original, abs=1e-1)
