"""What every method of the table promises, and what CRISPR's variants change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from cli_models import WORKPLACE
from excise.attribution import attribute
from excise.config import PRESETS, RunConfig, resolve
from excise.errors import ConfigError
from excise.evaluation import predict
from excise.methods import METHODS, Excision, Fitted, Fitting, locate, method_named
from excise.methods.ablations import VARIANTS
from excise.models import LoadedModel, weights_digest
from excise.patches import Patch
from excise.pipeline import run
from excise.selection import rank
from excise.types import Instance, Predictions, Split, Task

SMALL: dict[str, Any] = {
    "attribution": {"instances": 4, "instructions": 1},
    "selection": {
        "grid": [0, 2, 20],
        "golden_section": [0, 12, 4],
        "factors": [0.0, 2.0],
        "tune_instances": 4,
        "tune_instructions": 1,
    },
    "calibration": {"random_texts": 2},
    "finetuning": {"steps": 2, "batch_size": 2, "tune_instances": 4, "check_every": 1},
}
PEOPLE = ("grandfather", "student", "farmer", "singer", "neighbour", "teacher", "visitor", "clerk")


def instances() -> tuple[Instance, ...]:
    """24 items of 12 templates; the word in a context tells the item."""
    return tuple(
        tiny.instance(
            n,
            f"The old {PEOPLE[n // 3]} met number{n}here.",
            (f"The {PEOPLE[n // 3]}", "The young man", "Cannot be known"),
            (2, 0)[n % 2],
            unknown=2,
            stereotyped=n % 3 % 2,
        )
        for n in range(24)
    )


ITEMS = instances()
TASK = tiny.task(ITEMS)
FIND, TUNE, TEST = ITEMS[:8], ITEMS[8:16], ITEMS[16:]


class Sealed(tuple[Instance, ...]):
    """The test split during a fit: nobody looks into it."""

    def __iter__(self) -> Iterator[Instance]:
        raise AssertionError("a method iterates over the test split while it is fitted")

    def __getitem__(self, place: Any) -> Any:
        raise AssertionError("a method looks into the test split while it is fitted")


def fitting(loaded: LoadedModel, config: RunConfig, *, seed: int = 0) -> Fitting:
    return Fitting(loaded, TASK, Split(FIND, TUNE, Sealed(TEST), "template"), config, seed)


@contextmanager
def spied() -> Iterator[list[str]]:
    """Every prompt that is made from an item meanwhile."""
    asked: list[str] = []
    original = Task.prompt

    def prompt(self: Task, instruction: str, instance: Instance) -> str:
        asked.append(original(self, instruction, instance))
        return asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "prompt", prompt)
        yield asked


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Small numbers of everything, and hand-written pairs for fine-tuning."""
    pairs = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"more": f"The old {who} forgot it.", "less": f"The young {who} forgot it."}
        for who in PEOPLE
    ]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    finetuning = {**SMALL["finetuning"], "pairs": str(pairs)}
    return resolve({**SMALL, "finetuning": finetuning})


@dataclass(frozen=True)
class Kept:
    """A method that was fitted twice on one model."""

    loaded: LoadedModel
    fitted: Fitted
    again: Fitted
    prompts: tuple[str, ...]
    """All that the model was asked meanwhile."""


@pytest.fixture(scope="module", params=METHODS)
def kept(request: pytest.FixtureRequest, config: RunConfig) -> Kept:
    loaded = tiny.loaded("llama")
    method = method_named(request.param)
    with spied() as prompts:
        fitted, again = (method.fit(fitting(loaded, config)) for _ in range(2))
    return Kept(loaded, fitted, again, tuple(prompts))


def answers(kept: Kept, fitted: Fitted, config: RunConfig) -> Predictions:
    return fitted.answers(
        kept.loaded, TASK, TEST, config.scoring, instructions=TASK.instructions[:1]
    )


def test_names_and_descriptions_fit_a_table() -> None:
    assert list(METHODS) == [method.name for method in METHODS.values()]
    assert all(0 < len(method.description) <= 80 for method in METHODS.values())
    assert len({method.description for method in METHODS.values()}) == len(METHODS)


def test_fitting_reads_no_test_item(kept: Kept) -> None:
    assert [i.id for i in TEST if any(i.fields["context"] in text for text in kept.prompts)] == []


def test_the_model_comes_back_bit_for_bit(kept: Kept, config: RunConfig) -> None:
    assert weights_digest(kept.loaded.model) == kept.loaded.digest
    answers(kept, kept.fitted, config)
    assert weights_digest(kept.loaded.model) == kept.loaded.digest
    assert not any(m._forward_hooks for m in kept.loaded.model.modules())


def test_it_says_whether_weights_change(kept: Kept) -> None:
    facts = kept.fitted.describe()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    with kept.fitted.applied(kept.loaded):
        changed = weights_digest(kept.loaded.model) != kept.loaded.digest
    assert facts["changes_weights"] is changed
    with pytest.raises(RuntimeError, match="inside"), kept.fitted.applied(kept.loaded):
        raise RuntimeError("inside")
    assert weights_digest(kept.loaded.model) == kept.loaded.digest


def test_answers_are_complete(kept: Kept, config: RunConfig) -> None:
    got = answers(kept, kept.fitted, config)
    assert got.instances == TEST
    assert got.instructions == TASK.instructions[:1]
    assert got.choice.shape == (1, len(TEST))
    assert set(np.unique(got.choice)) <= {0, 1, 2}
    for values in (got.log_likelihood, got.compared):
        assert values is not None
        assert values.shape == (1, len(TEST), 3)
        assert np.isfinite(values).all()
    if kept.fitted.describe()["changes_weights"]:
        with kept.fitted.applied(kept.loaded):
            same = predict(
                kept.loaded, TASK, TEST, config.scoring, instructions=TASK.instructions[:1]
            )
        np.testing.assert_array_equal(got.log_likelihood, same.log_likelihood)


def test_the_same_seed_gives_the_same(kept: Kept, config: RunConfig) -> None:
    assert kept.fitted.name == kept.again.name
    first_facts, second_facts = (
        {name: value for name, value in fitted.describe().items() if name != "seconds"}
        for fitted in (kept.fitted, kept.again)
    )
    assert first_facts == second_facts
    if isinstance(kept.fitted, Excision):
        assert isinstance(kept.again, Excision)
        assert kept.fitted.patch == kept.again.patch
    first, second = answers(kept, kept.fitted, config), answers(kept, kept.again, config)
    np.testing.assert_array_equal(first.log_likelihood, second.log_likelihood)
    np.testing.assert_array_equal(first.compared, second.compared)
    np.testing.assert_array_equal(first.choice, second.choice)


@pytest.mark.parametrize("name", METHODS)
def test_it_fits_an_encoder_decoder(name: str, config: RunConfig) -> None:
    loaded = tiny.loaded("t5-gated")
    fitted = METHODS[name].fit(fitting(loaded, config))
    got = fitted.answers(loaded, TASK, TEST, config.scoring, instructions=TASK.instructions[:1])
    assert got.choice.shape == (1, len(TEST))
    assert weights_digest(loaded.model) == loaded.digest


# --- variants of CRISPR ---------------------------------------------------------------------------


@cache
def llama() -> LoadedModel:
    return tiny.loaded("llama")


def excised(name: str, config: RunConfig) -> Excision:
    found = METHODS[name].fit(fitting(llama(), config))
    assert isinstance(found, Excision)
    return found


def fixed(config: RunConfig, n: int = 6) -> RunConfig:
    return config.model_copy(update={"selection": config.selection.model_copy(update={"n": n})})


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("crispr-mean", {"tokens": "mean"}),
        ("crispr-unweighted", {"instance_weight": "uniform"}),
        ("crispr-no-skill", {"skill_weight": 0.0}),
    ],
)
def test_an_ablation_is_crispr_with_one_option(
    name: str, option: dict[str, Any], config: RunConfig
) -> None:
    fix = fixed(config)
    got = excised(name, fix)
    changed = fix.model_copy(update={"attribution": fix.attribution.model_copy(update=option)})
    assert got.patch.neurons == excised("crispr", changed).patch.neurons
    assert got.patch != excised("crispr", fix).patch
    assert got.describe()["options"] == {"attribution": option, "selection": {}}
    assert got.patch.provenance["method"] == name


KEPT_FROM_THE_RUN = {
    "crispr-v1": {"trials"},
    "crispr-official": {
        "selection.trials",
        "selection.tune_instances",
        "selection.tune_instructions",
        "scoring.mode",
        "split_by",
        "seed",
    },
}
"""What a comparison decides for all methods."""


@pytest.mark.parametrize("name", KEPT_FROM_THE_RUN)
def test_presets_as_methods_take_attribution_and_selection(name: str) -> None:
    preset, default = PRESETS[name.removeprefix("crispr-")], PRESETS["v2"]
    (variant,) = [v for v in VARIANTS if v.name == name]
    taken = {
        **{f"attribution.{key}": value for key, value in variant.attribution.items()},
        **{f"selection.{key}": value for key, value in variant.selection.items()},
    }
    for option, value in taken.items():
        section, key = option.split(".")
        assert getattr(getattr(preset, section), key) == value
    assert differences(preset.model_dump(), default.model_dump()) <= (
        taken.keys() | KEPT_FROM_THE_RUN[name]
    )


def differences(one: dict[str, Any], other: dict[str, Any], above: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in one.items():
        if isinstance(value, dict):
            found |= differences(value, other[key], f"{above}{key}.")
        elif value != other[key]:
            found.add(above + key)
    return found


def test_the_first_version_excises_fifty(config: RunConfig) -> None:
    found = excised("crispr-v1", config)
    assert len(found.patch) == 50
    assert found.describe()["curve"] == []
    ten = config.attribution.model_copy(update={"instance_weight": "uniform", "instances": 10})
    scores = attribute(llama(), TASK, FIND, ten)  # find has fewer than ten
    assert found.patch.neurons == tuple(e.neuron for e in rank(scores.by_module, limit=50))


def test_the_authors_code_searches_by_golden_section_even_where_n_is_fixed(
    config: RunConfig,
) -> None:
    tried = [point.n for point in excised("crispr-official", fixed(config)).curve]
    assert tried[:2] == [5, 7]  # 0 + 12 -/+ round(0.618 * 12)
    assert set(tried) - set(config.selection.grid)


def test_lowest_takes_as_many_from_the_other_end(config: RunConfig) -> None:
    crispr, lowest = excised("crispr", config), excised("lowest", config)
    assert len(lowest.patch) == len(crispr.patch) > 0
    scores = locate(llama(), TASK, FIND, config, seed=0)
    order = rank(scores.by_module)
    assert set(lowest.patch.neurons) == {e.neuron for e in order[-len(crispr.patch) :]}
    assert list(lowest.patch.scores) == sorted(lowest.patch.scores)
    assert lowest.curve == crispr.curve
    assert lowest.patch.provenance["method"] == "lowest"
    assert not set(lowest.patch.neurons) & set(crispr.patch.neurons)


def test_lowest_of_an_empty_patch_is_empty(config: RunConfig) -> None:
    empty = excised("lowest", fixed(config, 0))
    assert empty.describe()["neurons"] == 0
    assert empty.describe()["changes_weights"] is False


# --- scaling --------------------------------------------------------------------------------------


def small_run(**overrides: Any) -> RunConfig:
    return resolve(
        {
            **{name: SMALL[name] for name in ("attribution", "selection")},
            "tasks": [str(WORKPLACE)],
            "limit": 8,
            "test_instructions": 1,
            "controls": 1,
            "resamples": 100,
            **overrides,
        }
    )


@pytest.mark.parametrize("factor", [0.5, -1.0, 2.0])
def test_crispr_can_scale_instead_of_excising(factor: float) -> None:
    config = fixed(small_run(patch={"removal": "scale", "scale": factor}), 20)
    model = tiny.model("llama")
    before = weights_digest(model)
    (result,) = run(config, model=model, tokenizer=tiny.tokenizer("bos")).tasks
    (trial,) = result.trials
    assert weights_digest(model) == before
    assert trial.patch.factor == factor
    neuron = trial.patch.neurons[0]
    weight = model.get_submodule(neuron.module).weight
    row = weight[neuron.index].clone()
    with trial.patch.applied(model):
        assert (weight[neuron.index] == factor * row).all()
    assert (trial.patched.log_likelihood != trial.original.log_likelihood).any()
    assert trial.controls[0].log_likelihood is not None
    assert (trial.controls[0].log_likelihood != trial.patched.log_likelihood).any()


@pytest.mark.parametrize("name", ["contrastive", "lowest", "crispr-scaled", "crispr-mean"])
def test_a_method_that_excises_neurons_fills_a_run_folder(name: str, tmp_path: Path) -> None:
    config = small_run(method=name)
    model, tokenizer = tiny.model("t5"), tiny.tokenizer("eos")
    result = run(config, model=model, tokenizer=tokenizer, out=tmp_path / "run")
    written = Patch.load(tmp_path / "run" / "patch")
    assert written.neurons == result.patch.neurons
    assert written.provenance["method"] == name
    (trial,) = result.tasks[0].trials
    assert len(trial.curve) == 3
    assert trial.scores is not None


def test_the_factor_is_chosen_on_tune_with_n(config: RunConfig) -> None:
    found = excised("crispr-scaled", config)
    facts = found.describe()
    curve = facts["tried"]
    assert [(point["factor"], point["n"]) for point in curve] == [
        (factor, n) for factor in (0.0, 2.0) for n in (0, 2, 20)
    ]
    best = max(point["objective"] for point in curve)
    (first, *_) = sorted(
        (point["n"], place) for place, point in enumerate(curve) if point["objective"] == best
    )
    assert len(found.patch) == first[0]
    assert facts["factor"] == found.patch.factor == curve[first[1]]["factor"]
    # The part with factor 0 is CRISPR's own curve.
    own = excised("crispr", config).curve
    assert [point["objective"] for point in curve[:3]] == [point.objective for point in own]
    assert [p.objective for p in found.curve] == [
        p["objective"] for p in curve if p["factor"] == found.patch.factor
    ]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Accuracies on tune, in the order in which they are measured."""
    accuracies: list[float] = []

    def value(metric: Any, predictions: Predictions) -> float:
        # Other metrics are measured too, the accuracy first.
        return accuracies.pop(0) if metric.name == "accuracy" else 0.0

    monkeypatch.setattr("excise.methods.crispr.value", value)
    return accuracies


def test_a_fixed_n_still_chooses_the_factor(config: RunConfig, told: list[float]) -> None:
    told += [0.2, 0.6]
    found = excised("crispr-scaled", fixed(config, 3))
    assert (len(found.patch), found.patch.factor) == (3, 2.0)
    assert [(p["factor"], p["objective"]) for p in found.facts["tried"]] == [(0.0, 0.2), (2.0, 0.6)]
    assert [(point.n, point.objective) for point in found.curve] == [(3, 0.6)]


@pytest.mark.parametrize(
    ("zeroed", "doubled", "n", "factor"),
    [
        ([0.2, 0.3, 0.6], [0.2, 0.5, 0.7], 20, 2.0),
        ([0.2, 0.3, 0.6], [0.2, 0.6, 0.5], 2, 2.0),  # of equals the smaller n
        ([0.2, 0.6, 0.5], [0.2, 0.6, 0.6], 2, 0.0),  # then the factor that stands first
    ],
)
def test_ties_between_factors(
    zeroed: list[float],
    doubled: list[float],
    n: int,
    factor: float,
    config: RunConfig,
    told: list[float],
) -> None:
    told += zeroed + doubled
    found = excised("crispr-scaled", config)
    assert (len(found.patch), found.patch.factor) == (n, factor)


def test_factors_are_checked() -> None:
    for wrong in ([], [float("nan")], [float("inf")]):
        with pytest.raises(ConfigError, match=r"option selection"):
            resolve({"selection": {"factors": wrong}})
    with pytest.raises(ConfigError, match=r"option patch\.scale"):
        resolve({"patch": {"scale": float("nan")}})
