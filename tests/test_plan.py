"""What a run will cost, against what it does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import excise
import excise.attribution.scores
import excise.evaluation.choices
from cli_models import excise as invoke
from excise.config import RunConfig, resolve
from excise.errors import ConfigError
from excise.forecast import SHAPES, Speed, forecast, shaped, stages
from excise.forecast.shapes import Pieces
from excise.models import load
from excise.scoring import EncodedPrompt, encode
from excise.tasks import load_task
from excise.types import Task

SMALL: dict[str, Any] = {
    "preset": "quick",
    "model": "testbed-causal",
    "tasks": ["testbed"],
    "limit": 24,
    "controls": 2,
    "trials": 2,
    "attribution": {"instances": 3, "instructions": 2, "batch_size": 2},
    "selection": {"n": 4},
}


def task() -> Task:
    found = load_task("testbed")
    assert isinstance(found, Task)
    return found


def counted_tokens(items: list[EncodedPrompt]) -> int:
    return sum(len(i.prompt) + sum(len(o) - 1 for o in i.options) for i in items)


@pytest.mark.parametrize("model", ["testbed-causal", "testbed-t5"])
def test_the_plan_counts_the_prompts_and_tokens_that_a_run_asks(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve({**SMALL, "model": model})
    done: Counter[str] = Counter()
    for module, kind in ((excise.attribution.scores, "find"), (excise.evaluation.choices, "test")):

        def counting(*args: Any, kind: str = kind, **options: Any) -> list[EncodedPrompt]:
            items = encode(*args, **options)
            done[f"{kind} prompts"] += len(items)
            done[f"{kind} tokens"] += counted_tokens(items)
            return items

        monkeypatch.setattr(module, "encode", counting)
    excise.run(config)
    monkeypatch.undo()
    planned = {stage.name: stage for stage in stages(load(model), task(), config)}
    assert list(planned) == ["find", "original", "patched", "controls"]
    assert planned["find"].prompts == done["find prompts"] == 2 * 3 * 2
    assert planned["find"].tokens == done["find tokens"]
    test = [planned[name] for name in ("original", "patched", "controls")]
    assert [stage.prompts // test[0].prompts for stage in test] == [1, 2, 4]
    assert sum(stage.prompts for stage in test) == done["test prompts"]
    assert sum(stage.tokens for stage in test) == done["test tokens"]


def test_choosing_n_is_counted_as_it_is_searched() -> None:
    loaded, grid = load("testbed-causal"), (0, 1, 2, 3, 5, 8, 12, 20, 30, 50)

    def prompts(**selection: Any) -> int:
        config = resolve({**SMALL, "trials": 1, "selection": {"grid": grid, **selection}})
        return {s.name: s.prompts for s in stages(loaded, task(), config)}["tune"]

    once = prompts() // len(grid)
    assert once > 0
    assert prompts(search="racing") == 5 * once
    # 500 -> 309 -> 191 -> ... -> 4: ten widths of two probes, and five that are left.
    assert prompts(search="golden_section") == 25 * once


def test_flops_memory_and_time_follow_from_the_shape() -> None:
    config = resolve(SMALL)
    loaded = load("testbed-causal")
    counted = stages(loaded, task(), config)
    found = forecast(loaded, [counted], config, Speed(scoring=1e9, attribution=1e9))
    assert found.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert found.weights_bytes == 4 * found.parameters
    assert found.memory_bytes > found.weights_bytes
    by_name = {stage.name: stage for stage in counted}
    settings = loaded.model.config
    linear = sum(loaded.linear(site.module).weight.numel() for site in loaded.sites)
    original = by_name["original"]
    least = 2 * (
        original.computed * linear + original.predicted * settings.hidden_size * settings.vocab_size
    )
    assert least < found.flops["original"] < 1.5 * least
    assert found.flops["controls"] == pytest.approx(4 * found.flops["original"])
    assert found.seconds is not None
    assert found.seconds["original"] == pytest.approx(found.flops["original"] / 1e9)
    twice = forecast(loaded, [counted, counted], config)
    assert twice.seconds is None
    assert twice.flops["find"] == pytest.approx(2 * found.flops["find"])


@pytest.mark.parametrize(
    ("name", "billions", "neurons"),
    [
        # 24 x (48.2 + 65.0) million and 65.8 of embeddings; its head is not among them.
        ("shape:flan-t5-xl", 2.783, None),
        # 32 layers of 4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096 outputs.
        ("shape:llama-8b", 8.03, 1_376_256),
        ("shape:llama-70b", 70.55, 80 * (8192 + 1024 + 1024 + 8192 + 28672 + 28672 + 8192)),
    ],
)
def test_shapes_have_the_sizes_of_what_they_are_named_after(
    name: str, billions: float, neurons: int | None
) -> None:
    assert name in SHAPES
    loaded = shaped(RunConfig(model=name))
    assert loaded.device.type == "meta"
    count = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert count / 1e9 == pytest.approx(billions, abs=0.006)
    if neurons is not None:
        assert loaded.n_neurons == neurons


def test_pieces_stand_for_tokens_and_share_beginnings() -> None:
    one, other = Pieces()(["The grandfather was late", "The grandfather was early"]).input_ids
    assert len(one) == 5  # The| grandf|ather| was| late
    assert one[:4] == other[:4]
    assert one[4] != other[4]


def test_a_configuration_alone_is_enough(tmp_path: Path) -> None:
    loaded = load("testbed-causal")
    loaded.model.config.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    config = resolve(SMALL)
    alone = shaped(config.model_copy(update={"model": str(tmp_path)}))
    assert alone.device.type == "meta"
    assert stages(alone, task(), config) == stages(loaded, task(), config)


def test_the_verb_prints_a_table_or_json() -> None:
    arguments = ["plan", "shape:llama-8b", "--task", "testbed", "--preset", "quick"]
    told = invoke(*arguments, "--flops", "1e14")
    assert told.exit_code == 0
    assert "8,030,261,248 parameters" in told.stdout
    assert [line.split()[0] for line in told.stdout.splitlines()[3:8]] == [
        *("find", "tune", "original", "patched", "controls")
    ]
    record = json.loads(invoke(*arguments, "--flops", "1e14", "--json").stdout)
    assert record["seconds"] == pytest.approx(record["flops"] / 1e14)
    assert record["stages"]["find"]["backwards"] == 2 * record["stages"]["find"]["forwards"]
    assert json.loads(invoke(*arguments, "--json").stdout)["seconds"] is None


def test_the_verb_measures_the_machine() -> None:
    told = invoke(
        *("plan", "testbed-causal", "--preset", "quick", "--limit", "8"), "--measure", "--json"
    )
    assert told.exit_code == 0
    record = json.loads(told.stdout)
    assert 0 < record["seconds"] < 3600
    assert set(record["stages"]["find"]) >= {"prompts", "tokens", "flops", "seconds"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model": "shape:llama-9b"}, "unknown shape 'shape:llama-9b'; known: shape:flan-t5-xl"),
        ({"model": "/no/such/folder"}, "no configuration of '/no/such/folder' can be read"),
    ],
)
def test_what_has_no_shape_is_told(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shaped(resolve({**SMALL, **overrides}))


def test_what_is_not_counted_is_refused() -> None:
    config = resolve({**SMALL, "scoring": {"mode": "generation"}})
    with pytest.raises(ConfigError, match="counts what `crispr` does"):
        stages(load("testbed-causal"), task(), config)
