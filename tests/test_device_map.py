"""Models on several devices, and models of which a part is kept elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from transformers.integrations import accelerate as placing

import excise
import tiny
from cli_models import excise as command
from cli_models import save
from excise.attribution import attribute, competing_sites
from excise.comparing import compare
from excise.config import PRESETS, AttributionConfig, RunConfig, ScoringConfig, TextConfig
from excise.dissection.candidates import Candidates
from excise.dissection.contributions import Contributions, contributions
from excise.errors import ConfigError, ModelError, PatchError
from excise.evaluation.choices import predict
from excise.evaluation.passages import read_passages
from excise.generation import generate_choices
from excise.methods.gated.gates import Gates
from excise.models import LoadedModel, load, weights_digest, wrap
from excise.patches import Patch
from excise.scoring.masked import MaskedScorer, every_token
from excise.types import Neuron, Passage, TextTask
from fake_devices import devices, spread

TASK = tiny.task()
V2 = PRESETS["v2"].attribution
CPU = torch.device("cpu")
INSTANCES = tiny.INSTANCES[:2]
"""Few: every operation on the fake devices is looked at."""


# Several devices: everything is where it has to be, and nothing else changes.


def two_devices(loaded: LoadedModel) -> LoadedModel:
    """The second layer of every stack, and what follows the last, on another device."""
    behind = (
        *("layers.1", "h.1", "block.1", "layer.1"),
        *("model.norm", "final_layer_norm", "ln_f", "embed_out"),
    )
    names = [name for name, _ in loaded.model.named_modules()]
    there = [name for name in names if name.endswith(behind) and name.count(".1") < 2]
    if not loaded.model.config.tie_word_embeddings:
        there.append("lm_head")
    spread(loaded.model, {"": "cuda:0", **dict.fromkeys(there, "cuda:1")})
    return loaded


def test_the_fake_devices_refuse_what_cuda_refuses() -> None:
    with devices():
        one, other = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
        for mixed in (
            lambda: one + other,
            lambda: one + torch.ones(2),
            lambda: torch.cat([one, other]),
            lambda: torch.ones(2)[torch.tensor([0], device="cuda:1")],
            lambda: one[torch.tensor([0], device="cuda:1")],
        ):
            with pytest.raises(RuntimeError, match="tensors on"):
                mixed()
        with pytest.raises(TypeError, match="not in the CPU's memory"):
            one.numpy()
        assert (one + 1).device == one[torch.tensor([0])].device == torch.device("cuda:0")
        assert (one + other.to(one.device)).device == torch.device("cuda:0")
        assert (one * torch.tensor(2.0)).cpu().device == CPU
        assert torch.ones(1).to(other).device == torch.device("cuda:1")
    assert torch.ones(1).device == CPU


@pytest.mark.parametrize("name", ["llama", "mistral-window", "bloom", "gpt2", "t5", "bart"])
def test_choices_on_two_devices_are_those_on_one(name: str) -> None:
    config = ScoringConfig(max_tokens=96)  # more than one pass
    here = predict(tiny.loaded(name), TASK, INSTANCES, config)
    with devices():
        model = two_devices(tiny.loaded(name))
        assert {str(p.device) for p in model.model.parameters()} == {"cuda:0", "cuda:1"}
        there = predict(model, TASK, INSTANCES, config)
    np.testing.assert_allclose(there.log_likelihood, here.log_likelihood, atol=1e-4)  # type: ignore[arg-type]
    assert (there.choice == here.choice).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("bloom", {"probability": "option_softmax", "tokens": "sum"}),
        ("t5-gated", {}),
        ("t5", {"order": "subtract_then_max"}),
    ],
    ids=str,
)
def test_scores_of_neurons_on_two_devices_are_those_on_one(
    name: str, options: dict[str, Any]
) -> None:
    config = AttributionConfig(**options)
    here = attribute(tiny.loaded(name), TASK, INSTANCES, config)
    with devices():
        there = attribute(two_devices(tiny.loaded(name)), TASK, INSTANCES, config)
    largest = max(np.abs(values).max() for values in here.by_module.values())
    assert largest > 0
    for module, values in here.by_module.items():
        np.testing.assert_allclose(
            there.by_module[module],
            values,
            rtol=1e-3,
            atol=1e-3 * np.abs(values).max() + 1e-6 * largest,
        )


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_a_patch_over_two_devices_is_applied_and_undone(name: str) -> None:
    patch = Patch(
        tuple(Neuron(site.module, 1) for site in tiny.loaded(name).sites),
        tuple(1.0 for _ in tiny.loaded(name).sites),
        "tiny",
        tiny.loaded(name).digest,
    )
    model = tiny.loaded(name)
    with patch.applied(model):
        here = predict(model, TASK, INSTANCES, ScoringConfig())
    with devices():
        model = two_devices(tiny.loaded(name))
        with patch.applied(model):
            there = predict(model, TASK, INSTANCES, ScoringConfig())
        assert weights_digest(model.model) == model.digest
    np.testing.assert_allclose(there.log_likelihood, here.log_likelihood, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_generated_answers_on_two_devices_are_those_on_one(name: str) -> None:
    ask = partial(
        generate_choices, task=TASK, instruction="Pick.", instances=INSTANCES, max_new_tokens=4
    )
    # As many layers in both stacks: accelerate's hooks let generation count those of the encoder.
    alike = {"num_decoder_layers": 2} if name == "t5" else {}
    here = ask(tiny.loaded(name, **alike))
    with devices():
        there = ask(two_devices(tiny.loaded(name, **alike)))
    assert there == here


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_passages_on_two_devices_are_read_as_on_one(name: str) -> None:
    text = "An old man and a young man met at the market. The young man was early. " * 3
    passage = Passage(id="one", text=text, template="one", block="one")
    task = TextTask("toy", (passage,), "none", "none", "0" * 64, ())
    config = TextConfig(window=32)
    here = read_passages(tiny.loaded(name), task, [passage], config)
    with devices():
        there = read_passages(two_devices(tiny.loaded(name)), task, [passage], config)
    np.testing.assert_allclose(there.log_likelihood, here.log_likelihood, atol=1e-3)


def test_gaps_on_two_devices_are_filled_as_on_one() -> None:
    def scored(model: LoadedModel) -> list[float]:
        return MaskedScorer(model).score(every_token(model, "", "The old man was late."))

    here = scored(tiny.loaded("bert"))
    with devices():
        there = scored(two_devices(tiny.loaded("bert")))
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_gates_follow_their_modules_to_their_devices() -> None:
    neurons = tuple(Neuron(site.module, 0) for site in tiny.loaded("llama").sites)

    def gradients(model: LoadedModel) -> list[float]:
        gates = Gates.of(model, neurons)
        with gates.applied(model), torch.enable_grad():
            ids = torch.arange(5, 9, device=model.device)[None]
            model.model(ids).logits.logsumexp(-1).sum().backward()
        return [float(v.grad) for v in gates.values.values() if v.grad is not None]

    here = gradients(tiny.loaded("llama"))
    with devices():
        there = gradients(two_devices(tiny.loaded("llama")))
    assert len(here) == len(neurons)
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-6)


def test_contributions_on_two_devices_are_those_on_one() -> None:
    def found(model: LoadedModel) -> Contributions:
        sites = competing_sites(model, V2)
        columns = {site.module: np.arange(0, site.size, 2) for site in sites}
        candidates = Candidates(columns)
        return contributions(
            model,
            TASK,
            INSTANCES,
            TASK.instructions[:1],
            V2,
            sites=sites,
            candidates=candidates,
            watched=candidates.neurons[-2:],
        )

    here = found(tiny.loaded("llama"))
    with devices():
        there = found(two_devices(tiny.loaded("llama")))
    # Rounding is relative to the terms that cancel in a score.
    np.testing.assert_allclose(there.scale, here.scale, rtol=1e-3)
    np.testing.assert_allclose(there.values, here.values, rtol=1e-3, atol=1e-4)
    assert [(p.neuron, p.column) for p in there.peaks] == [(p.neuron, p.column) for p in here.peaks]


def test_fine_tuning_needs_one_device() -> None:
    with devices():
        model = two_devices(tiny.loaded("llama"))
        with pytest.raises(ModelError, match=r"fine-tuning needs all of .* cuda:0, cuda:1"):
            model.refuse_spread("fine-tuning")
    tiny.loaded("llama").refuse_spread("fine-tuning")


# Offloaded: evaluation and its digest as with all weights in place; nothing else.


def part_on_disk(model: Any, folder: Path) -> Any:
    """The second layer of a llama on disk, the rest in memory."""
    places = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    return dispatch_model(
        model, places, main_device="cpu", offload_dir=str(folder), skip_keys="past_key_values"
    )


def in_memory(model: Any, _folder: Path) -> Any:
    return cpu_offload(model, execution_device=CPU)


def on_disk(model: Any, folder: Path) -> Any:
    return disk_offload(model, str(folder), execution_device=CPU)


@pytest.mark.parametrize(
    ("name", "offload"),
    [("llama", part_on_disk), ("gpt2", in_memory), ("t5", on_disk), ("t5-gated", in_memory)],
)
def test_an_offloaded_model_answers_as_one_in_memory(
    name: str, offload: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    kept = tiny.loaded(name)
    here = predict(kept, TASK, tiny.INSTANCES, ScoringConfig())
    model = wrap(offload(tiny.model(name), tmp_path), kept.tokenizer, name="offloaded")
    assert any(parameter.is_meta for parameter in model.model.parameters())
    assert model.digest == kept.digest
    assert model.device == CPU
    there = predict(model, TASK, tiny.INSTANCES, ScoringConfig())
    np.testing.assert_allclose(there.log_likelihood, here.log_likelihood, atol=1e-4)  # type: ignore[arg-type]
    # A forward pass leaves other empty weights behind, tied ones no longer as one.
    assert weights_digest(model.model) == kept.digest


def test_offloaded_weights_are_neither_attributed_nor_changed(tmp_path: Path) -> None:
    model = wrap(part_on_disk(tiny.model("llama"), tmp_path), tiny.tokenizer("bos"))
    with pytest.raises(ModelError, match=r"attribution needs all weights .* offloaded"):
        attribute(model, TASK, tiny.INSTANCES, V2)
    module = next(site.module for site in model.sites if "layers.1" in site.module)
    patch = Patch((Neuron(module, 0),), (1.0,), "tiny", model.digest)
    with pytest.raises(PatchError, match="are offloaded, so they cannot be changed"):
        patch.check(model)
    with pytest.raises(PatchError, match="offloaded"), patch.applied(model):
        pass
    config = RunConfig(tasks=("testbed",))
    with pytest.raises(ModelError, match="locating and excising neurons needs all weights"):
        excise.run(config, model=model.model, tokenizer=model.tokenizer)
    with pytest.raises(ModelError, match="comparing methods needs all weights"):
        compare(config, ["crispr"], model=model.model, tokenizer=model.tokenizer)


def test_weights_that_nothing_keeps_are_refused() -> None:
    model = tiny.model("llama")
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(ModelError, match=r"'model\.layers\.1\.mlp.* is not in memory"):
        wrap(model, tiny.tokenizer("bos"))


# What is asked for, and what contradicts it.


@pytest.mark.parametrize("device_map", ["auto", "sequential"])
def test_a_device_map_on_a_machine_without_gpus_is_the_cpu(device_map: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "t5")
    one, other = load(str(folder)), load(str(folder), device_map=device_map)
    assert other.digest == one.digest
    assert other.device == CPU
    here, there = (predict(m, TASK, tiny.INSTANCES, ScoringConfig()) for m in (one, other))
    assert (here.log_likelihood == there.log_likelihood)[~np.isnan(here.log_likelihood)].all()  # type: ignore[arg-type, index]
    attribute(other, TASK, tiny.INSTANCES[:1], V2)


def test_what_does_not_fit_is_offloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "model")
    here = load(str(folder))
    size = sum(p.numel() * p.itemsize for p in here.model.parameters())
    monkeypatch.setattr(placing, "get_max_memory", lambda _=None: {"cpu": int(0.7 * size)})
    there = load(str(folder), device_map="sequential")
    assert "disk" in there.model.hf_device_map.values()
    assert there.digest == here.digest
    expected, got = (predict(m, TASK, tiny.INSTANCES, ScoringConfig()) for m in (here, there))
    np.testing.assert_allclose(got.log_likelihood, expected.log_likelihood, atol=1e-4)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="offloaded"):
        attribute(there, TASK, tiny.INSTANCES, V2)


def test_what_contradicts_a_device_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'cpu' and device map 'auto' exclude each other"):
        load("testbed-causal", device="cpu", device_map="auto")
    with pytest.raises(ConfigError, match="'everywhere' is not known; use one of auto, balanced"):
        load("testbed-causal", device_map="everywhere")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started, each with a model"):
        load("testbed-causal", device_map="auto")


def test_the_command_line_takes_a_device_map(tmp_path: Path) -> None:
    asked = ("evaluate", "testbed-causal", "--limit", 24, "--test-instructions", 1)
    found = command(*asked, "--device-map", "auto", "--json", "--quiet", "--out", tmp_path / "a")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["config"]["device_map"] == "auto"
    assert 'device_map = "auto"' in (tmp_path / "a" / "config.toml").read_text()


@pytest.mark.parametrize("verb", ["run", "evaluate", "compare", "locate", "plan"])
def test_the_command_line_refuses_contradictions_in_one_line(verb: str) -> None:
    found = command(verb, "testbed-causal", "--device", "cuda", "--device-map", "auto")
    assert found.exit_code == 2
    assert "exclude each other" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    found = command(verb, "testbed-causal", "--device-map", "cuda:0")
    assert found.exit_code == 2
    assert "device_map" in found.stderr
