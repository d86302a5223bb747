"""The straight line on tiny models, from Python."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from cli_models import WORKPLACE
from excise.config import resolve
from excise.errors import ConfigError, OutputError
from excise.metrics import METRICS, value
from excise.pipeline import run, work
from excise.questioning import TestQuestions
from excise.results import over_instructions
from excise.tasks import load_task

BASE = {
    "tasks": [str(WORKPLACE)],
    "limit": 16,
    "test_instructions": 2,
    "controls": 2,
    "resamples": 100,
    "attribution": {"instances": 4, "instructions": 2},
    "selection": {"grid": [0, 2, 40], "tune_instances": 8, "tune_instructions": 1},
}


def _config(**overrides):
    return resolve({**BASE, **overrides})


class Watcher:
    """Counts what a progress bar would show."""

    def __init__(self) -> None:
        self.total, self.done, self.stages = 0, 0, []

    def plan(self, total: int) -> None:
        self.total = total

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def advance(self, amount: int) -> None:
        self.done += amount


def _run(name="llama", **overrides):
    model = tiny.model(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    watcher = Watcher()
    tokenizer = tiny.tokenizer("eos" if name in tiny.SEQ2SEQ else "bos")
    result = run(_config(**overrides), model=model, tokenizer=tokenizer, progress=watcher)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    return result, model, watcher


@pytest.mark.parametrize("name", ["llama", "t5", "bloom"])
def test_a_run_leaves_the_weights_alone_and_its_patch_does_what_it_measured(name):
    result, model, watcher = _run(name, selection={**BASE["selection"], "n": 12})
    trial = result.tasks[0].trials[0]
    assert len(result.patch) == 12
    assert result.patch == trial.patch
    assert len(trial.controls) == 2
    assert watcher.done == watcher.total  # the ETA is honest
    config = result.config
    task = load_task(str(WORKPLACE))
    tokenizer = tiny.tokenizer("eos" if name in tiny.SEQ2SEQ else "bos")
    from excise.models import wrap

    loaded = wrap(model, tokenizer)
    again = TestQuestions.of(task, config).ask(loaded, result.patch, Watcher())
    assert (again.choice == trial.patched.choice).all()
    with result.patch.applied(model):
        weight = model.get_submodule(result.patch.neurons[0].module).weight
        assert not weight[result.patch.neurons[0].index].any()


def test_find_tune_and_test_share_no_template_and_controls_match_per_module():
    result, _, _ = _run(selection={**BASE["selection"], "n": 12})
    split = result.tasks[0].trials[0].split
    parts = [{i.template for i in part} for part in (split.find, split.tune, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    asked = result.tasks[0].trials[0].original.instances
    assert {i.template for i in asked} <= parts[2]


def test_n_is_chosen_on_tune_and_the_whole_curve_is_kept():
    result, _, _ = _run()
    trial = result.tasks[0].trials[0]
    assert [point.n for point in trial.curve] == [0, 2, 40]
    best = max(point.objective for point in trial.curve)
    assert len(trial.patch) == min(p.n for p in trial.curve if p.objective == best)
    for point in trial.curve:
        assert point.metrics["accuracy"] == point.objective


def test_trials_share_their_test_items_and_draw_other_find_and_tune_templates():
    result, _, _ = _run(trials=3, selection={**BASE["selection"], "n": 3})
    trials = result.tasks[0].trials
    assert len(trials) == 3
    assert len({tuple(i.id for i in t.original.instances) for t in trials}) == 1
    assert len({frozenset(i.template for i in t.split.find) for t in trials}) > 1
    pooled = next(e for e in result.estimates() if e.metric == "accuracy")
    metric = METRICS["accuracy"]
    differences = [value(metric, t.patched) - value(metric, t.original) for t in trials]
    assert pooled.difference == pytest.approx(sum(differences) / 3)
    assert len(pooled.controls) == 2


def test_official_averages_its_trials_and_ranks_once():
    result, _, _ = _run(
        preset="official",
        trials=2,
        split_by="example",
        scoring={"mode": "scoring"},
        selection={**BASE["selection"], "search": "grid", "trials": "average"},
    )
    assert len(result.tasks[0].trials) == 1
    assert result.tasks[0].trials[0].split.leaks


def test_golden_section_searches_and_keeps_the_order_of_evaluation():
    result, _, _ = _run(
        selection={**BASE["selection"], "search": "golden_section", "golden_section": [0, 20, 4]}
    )
    tried = [point.n for point in result.tasks[0].trials[0].curve]
    assert tried[:2] == [8, 12]  # 20 - 12.36 and 0 + 12.36, rounded
    assert len(tried) == len(set(tried))


def test_several_tasks_get_a_patch_each_and_their_union_is_measured(tmp_path):
    second = tmp_path / "second.jsonl"
    second.write_text(WORKPLACE.read_text())
    result, _, _ = _run(
        tasks=[str(WORKPLACE), str(second)], selection={**BASE["selection"], "n": 4}
    )
    assert [task.task for task in result.tasks] == ["workplace", "second"]
    assert set(result.patch.neurons) == {
        neuron for task in result.tasks for neuron in task.best.patch.neurons
    }
    assert all(task.union is not None for task in result.tasks)
    assert Counter(len(e.controls) for e in result.estimates()) == {2: len(result.estimates())}


def test_two_tasks_of_one_name_are_refused(tmp_path):
    twin = tmp_path / "workplace.jsonl"
    twin.write_text(WORKPLACE.read_text())
    with pytest.raises(ConfigError, match="share a name"):
        _run(tasks=[str(WORKPLACE), str(twin)])


def test_too_many_neurons_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="larger than the number of neurons"):
        run(
            _config(selection={**BASE["selection"], "n": 10**6}),
            model=tiny.model("llama"),
            tokenizer=tiny.tokenizer("bos"),
            out=tmp_path / "runs" / "out",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_holds_something_is_refused_first(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match="not one of ours"):
        run(_config(), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_the_spread_over_instructions_is_that_of_the_trials():
    result, _, _ = _run(selection={**BASE["selection"], "n": 2})
    task = result.tasks[0]
    expected = task.trials[0].original
    right = (expected.choice == expected.gold).mean(axis=1)
    found = over_instructions(METRICS["accuracy"], task, "original")
    assert found == pytest.approx(right.std())


def test_work_counts_every_state():
    task = load_task(str(WORKPLACE))
    config = _config(controls=2)
    asked = len(TestQuestions.of(task, config).instances) * 2
    # find 4 x 2 prompts at 8 each, tune 8 x 1 x 3 numbers, test original + patched + 2 controls
    assert work(config, task) == asked + 4 * 2 * 8 + 8 * 3 + asked * 3


def test_readable_by_colleagues(tmp_path: Path):
    run(
        _config(selection={**BASE["selection"], "n": 2}),
        model=tiny.model("llama"),
        tokenizer=tiny.tokenizer("bos"),
        out=tmp_path / "out",
    )
    folder = tmp_path / "out"
    reference = tmp_path / "reference"
    reference.mkdir()
    (reference / "file").touch()
    assert folder.stat().st_mode == reference.stat().st_mode
    for path in folder.rglob("*"):
        expected = reference if path.is_dir() else reference / "file"
        assert path.stat().st_mode == expected.stat().st_mode, path


GOLDEN = {
    "llama": (
        [
            ("model.layers.0.mlp.gate_proj", 29, 9.762e-82),
            ("model.layers.0.mlp.up_proj", 29, 7.764e-82),
            ("model.layers.0.mlp.gate_proj", 25, 7.276e-82),
        ],
        -155.4968,
        -156.9815,
    ),
    "t5": (
        [
            ("decoder.block.0.layer.0.SelfAttention.o", 22, 2.0469e-40),
            ("decoder.block.0.layer.0.SelfAttention.v", 19, 1.9957e-40),
            ("decoder.block.1.layer.0.SelfAttention.q", 19, 1.9069e-40),
        ],
        -70.2687,
        -70.4773,
    ),
}
"""First neurons with their scores, and mean log-likelihoods before and after, of seed 0."""


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_values(name):
    result, _, _ = _run(name, selection={**BASE["selection"], "n": 5})
    neurons, original, patched = GOLDEN[name]
    trial = result.tasks[0].trials[0]
    found = list(zip(result.patch.neurons, result.patch.scores, strict=True))[: len(neurons)]
    assert [(neuron.module, neuron.index) for neuron, _ in found] == [(m, i) for m, i, _ in neurons]
    assert [score for _, score in found] == pytest.approx([s for *_, s in neurons], rel=1e-2)
    assert np.nanmean(trial.original.log_likelihood) == pytest.approx(original, abs=2e-3)
    assert np.nanmean(trial.patched.log_likelihood) == pytest.approx(patched, abs=2e-3)
