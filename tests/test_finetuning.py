"""Fine-tuning on pairs: what is learnt, what is kept, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from excise.config import FinetuningConfig, RunConfig
from excise.errors import ConfigError, ModelError, PatchMismatchError, TaskFormatError
from excise.methods.finetuning import FineTuned, FineTuning, Pair, load_pairs, trainable, training
from excise.methods.finetuning import pairs as pairs_module
from excise.methods.finetuning.examples import GAP, example, gap, published
from excise.methods.finetuning.method import _Data
from excise.methods.finetuning.objective import (
    IGNORED,
    collate,
    distributions,
    divergence,
    encode_examples,
    likelihood_loss,
    preferences,
    token_means,
)
from excise.methods.finetuning.recipes import RECIPES, recipe
from excise.methods.finetuning.retention import Replay, Retention
from excise.methods.finetuning.training import held_out_loss
from excise.methods.method import Fitting
from excise.methods.table import METHODS, method_named
from excise.models import LoadedModel
from excise.types import Instance, PromptTask, Split, Task

BOTH = ("llama", "t5-gated")
WORDS = (
    ("grandmother", "neighbour"),
    ("old man", "young man"),
    ("widow", "student"),
    ("pensioner", "trainee"),
    ("grandfather", "grandson"),
    ("retired clerk", "new clerk"),
)
PLACES = ("lost the keys again", "was late at the market")
LINES = [
    {"more": f"The {old} {what}.", "less": f"The {young} {what}.", "group": "age"}
    for old, young in WORDS
    for what in PLACES
]
TASK = tiny.task()
SPLIT = Split(TASK.instances[:4], TASK.instances[1:4], TASK.instances[4:], "example")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fitting(loaded: LoadedModel, file: Path, *, seed: int = 0, **options: Any) -> Fitting:
    values = {"pairs": str(file), "steps": 8, "batch_size": 4, "check_every": 4, "tolerance": 9.0}
    config = RunConfig(finetuning=FinetuningConfig(**(values | options)))
    return Fitting(loaded, TASK, SPLIT, config, seed=seed)


def tuned(method: str, given: Fitting) -> FineTuned:
    found = method_named(method)
    assert isinstance(found, FineTuning)
    return found.tune(given)


def weights(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in loaded.model.named_parameters()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# --- what is trained on ---------------------------------------------------------------------------


PAIR = Pair("My grandmother cannot drive.", "My neighbour cannot drive.", "age", "one")
TURNED = replace(PAIR, direction="antistereo")


@pytest.mark.parametrize("pair", [PAIR, TURNED])
@pytest.mark.parametrize("form", ["rewrite", "gap_fill", "choice", "sentence"])
def test_the_target_is_the_less_stereotyped_side_in_both_directions(pair: Pair, form: Any) -> None:
    for seed in range(8):
        made = example(pair, form, TASK, np.random.default_rng(seed))
        assert ("neighbour" in made.target, "grandmother" in made.target) == (True, False)
        assert ("neighbour" in made.other, "grandmother" in made.other) == (False, True)
        if form == "rewrite":
            assert made.prompt is not None
            assert pair.more in made.prompt
            assert pair.less not in made.prompt


def test_options_of_a_choice_stand_in_either_order_in_the_format_of_the_task() -> None:
    prompts = [
        example(PAIR, "choice", TASK, np.random.default_rng(seed)).prompt for seed in range(40)
    ]
    first = [p is not None and p.index(PAIR.less) < p.index(PAIR.more) for p in prompts]
    assert 8 <= sum(first) <= 32
    assert all(p and p.endswith("Your answer:") for p in prompts)
    assert {i for i in TASK.instructions for p in prompts if p and p.startswith(i)} == set(
        TASK.instructions
    )
    # A format that wants other fields cannot be filled.
    other = replace(TASK, prompt_format="{instruction} {premise} {options}")
    made = example(PAIR, "choice", other, np.random.default_rng(0))
    assert made.prompt is not None
    assert f"{PAIR.more}" in made.prompt


@pytest.mark.parametrize(
    ("more", "less", "expected"),
    [
        ("The old man slept.", "The young man slept.", (f"The {GAP} man slept.", "old", "young")),
        ("She was early", "He was late", (GAP, "She was early", "He was late")),
        ("a b c", "a x b c", (f"{GAP} b c", "a", "a x")),
        ("a b", "a b b", (f"a {GAP}", "b", "b b")),
        ("b", "a b", (GAP, "b", "a b")),
        ("a a", "a", (GAP, "a a", "a")),
        (
            "his cat and his dog",
            "her cat and her dog",
            (f"{GAP} dog", "his cat and his", "her cat and her"),
        ),
    ],
)
def test_the_gap_holds_all_words_that_differ(
    more: str, less: str, expected: tuple[str, str, str]
) -> None:
    text, of_more, of_less = gap(Pair(more, less, "", ""))
    assert (text, of_more, of_less) == expected
    assert text.replace(GAP, of_more) == more
    assert text.replace(GAP, of_less) == less


def test_the_published_recipe_turns_antistereo_pairs_round() -> None:
    """The study's defect, kept where the study is repeated and nowhere else."""
    assert published(PAIR, "rewrite").target == PAIR.less
    assert published(TURNED, "rewrite").target == PAIR.more
    assert PAIR.less in (published(TURNED, "rewrite").prompt or "")
    assert published(TURNED, "gap_fill").target == "grandmother"
    two = Pair("She was early and she sang", "He was early and he sang", "", "")
    made = published(two, "gap_fill")
    # The first span only is the gap, but all words that differ are the answer.
    assert made.prompt is not None
    assert made.prompt.endswith("[BLANK] was early and she sang")
    assert (made.target, made.other) == ("He he", "She she")


def test_the_published_recipe_follows_the_architecture() -> None:
    options = FinetuningConfig()
    seq2seq = recipe("finetune-uqac", options, encoder_decoder=True)
    causal = recipe("finetune-uqac", options, encoder_decoder=False)
    assert (seq2seq.formulation, seq2seq.learning_rate, seq2seq.batch_size) == ("rewrite", 0.01, 32)
    assert (causal.formulation, causal.learning_rate, causal.batch_size) == ("gap_fill", 3e-5, 20)
    assert seq2seq.as_published
    assert causal.as_published
    assert not any(r.as_published for name, r in RECIPES.items() if name != "finetune-uqac")
    over = recipe(
        "finetune-uqac", FinetuningConfig(steps=3, learning_rate=1.0), encoder_decoder=True
    )
    assert (over.steps, over.learning_rate, over.batch_size) == (3, 1.0, 32)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("finetune-full", {"objective": "equalised", "formulation": "rewrite"}, "gap_fill, choice"),
        ("finetune-uqac", {"objective": "equalised"}, "published recipe"),
        ("finetune-uqac", {"formulation": "choice"}, "published recipe"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(method, FinetuningConfig(**options), encoder_decoder=True)


# --- masking --------------------------------------------------------------------------------------


def encoded(loaded: LoadedModel, count: int = 3) -> list[Any]:
    generator = np.random.default_rng(0)
    made = [
        example(Pair(line["more"], line["less"], "", ""), form, TASK, generator)  # type: ignore[arg-type]
        for line, form in zip(
            LINES[: 2 * count : 2], ("rewrite", "gap_fill", "choice"), strict=False
        )
    ]
    return encode_examples(loaded, made)


def naive(loaded: LoadedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> list[float]:
    """Log-likelihood of each token of the answer, one unpadded forward pass for each."""
    found = []
    for place, token in enumerate(answer):
        if loaded.encoder_decoder:
            logits = loaded.model(
                input_ids=torch.tensor([prompt]),
                decoder_input_ids=torch.tensor([[tiny.PAD, *answer[:place]]]),
            ).logits
        else:
            logits = loaded.model(input_ids=torch.tensor([[*prompt, *answer[:place]]])).logits
        found.append(float(logits[0, -1].log_softmax(-1)[token]))
    return found


@pytest.mark.parametrize("name", [*BOTH, "bloom"])
@torch.no_grad()
def test_the_loss_is_over_the_answers_tokens_only(name: str) -> None:
    loaded = tiny.loaded(name)
    items = encoded(loaded)
    tokens = [naive(loaded, item.prompt, item.options[0]) for item in items]
    joined = [value for row in tokens for value in row]
    assert float(likelihood_loss(loaded, items)) == pytest.approx(
        -sum(joined) / len(joined), abs=1e-5
    )
    wanted = []
    for item in items:
        target, other = (np.mean(naive(loaded, item.prompt, option)) for option in item.options)
        wanted.append(other - target)
    assert preferences(loaded, items).numpy() == pytest.approx(np.array(wanted), abs=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_labels_hold_the_answer_with_its_end_token_and_nothing_else(name: str) -> None:
    loaded = tiny.loaded(name)
    items = encoded(loaded)
    rows = [(item.prompt, item.options[0]) for item in items]
    labels = collate(loaded, rows).labels
    for row, (_, answer) in zip(labels, rows, strict=True):
        assert tuple(row[row != IGNORED].tolist()) == answer
        assert answer[-1] == tiny.END


def test_the_loss_is_that_of_transformers_with_a_masked_prompt() -> None:
    loaded = tiny.loaded("llama")
    (item,) = encoded(loaded, 1)
    ids = torch.tensor([[*item.prompt, *item.options[0]]])
    labels = ids.clone()
    labels[0, : len(item.prompt)] = -100
    with torch.no_grad():
        oracle = float(loaded.model(input_ids=ids, labels=labels).loss)
        assert float(likelihood_loss(loaded, [item])) == pytest.approx(oracle, abs=1e-6)


def test_prompts_stand_in_the_chat_template() -> None:
    loaded = tiny.loaded("llama", kind="chat")
    item = encoded(loaded, 1)[0]
    text = loaded.tokenizer.decode(item.prompt)
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("<|im_start|>assistant\n")
    assert loaded.tokenizer.decode(item.options[0]).startswith(LINES[0]["less"])


# --- training -------------------------------------------------------------------------------------

RATES = {"finetune-full": 3e-3, "finetune-lora": 2e-2, "finetune-frozen": 5e-2}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("method", RATES)
def test_training_lowers_the_loss_of_pairs_held_out_and_the_model_comes_back(
    method: str, name: str, file: Path
) -> None:
    loaded = tiny.loaded(name)
    before = weights(loaded)
    modules = {key: id(module) for key, module in loaded.model.named_modules()}
    generator = torch.random.get_rng_state()
    fitted = tuned(
        method, fitting(loaded, file, learning_rate=RATES[method], formulation="gap_fill")
    )
    assert changed(before, weights(loaded)) == set()
    assert modules == {key: id(module) for key, module in loaded.model.named_modules()}
    assert all(p.requires_grad and p.grad is None for p in loaded.model.parameters())
    assert not any(module.training for module in loaded.model.modules())
    assert not any("forward" in vars(module) for module in loaded.model.modules())
    assert torch.equal(generator, torch.random.get_rng_state())
    facts = json.loads(json.dumps(fitted.describe()))
    first, *_, last = facts["curve"]
    assert last["held_out_loss"] < 0.9 * first["held_out_loss"]
    assert np.mean(facts["losses"][-2:]) < 0.8 * np.mean(facts["losses"][:2])
    assert facts["changes_weights"]
    assert facts["best_step"] == last["step"] == facts["steps"] == 8
    assert facts["pairs_trained"] + facts["pairs_held_out"] == len(LINES)
    total = sum(p.numel() for p in loaded.model.parameters())
    size = facts["trainable_parameters"]
    assert size == total if method == "finetune-full" else 0 < size < total
    with fitted.applied(loaded):
        assert changed(before, weights(loaded))
    assert changed(before, weights(loaded)) == set()


def test_the_kept_weights_are_those_of_the_best_step(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention is lost after step 4: later steps have less loss, but do not count."""
    kept = iter([0.9, 0.88, 0.88, 0.5, 0.5, 0.5, 0.5])
    monkeypatch.setattr(Retention, "measure", lambda *_: next(kept))
    loaded = tiny.loaded("llama")
    given = fitting(
        loaded, file, steps=40, check_every=2, tolerance=0.05, patience=3, learning_rate=3e-3
    )
    fitted = tuned("finetune-full", given)
    facts = fitted.describe()
    curve = facts["curve"]
    assert [point["step"] for point in curve] == [0, 2, 4, 6, 8, 10]
    assert (facts["best_step"], facts["stopped"]) == (4, "no better step")
    assert curve[5]["held_out_loss"] < curve[2]["held_out_loss"] < curve[1]["held_out_loss"]
    pairs = load_pairs(str(file), data_dir=None)
    options = given.config.finetuning
    chosen = recipe("finetune-full", options, encoder_decoder=False)
    items = _Data.of(given, chosen, pairs).measured()
    with fitted.applied(loaded):
        loss = held_out_loss(loaded, items, options, batch_size=4)
    assert loss == pytest.approx(curve[2]["held_out_loss"], abs=1e-5)


@pytest.mark.parametrize(("tolerance", "best"), [(0.05, 2), (0.04, 0), (0.0, 0)])
def test_the_tolerance_is_what_may_be_lost_at_most(
    tolerance: float, best: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = iter([0.525, 0.475, 0.475])
    monkeypatch.setattr(Retention, "measure", lambda *_: next(kept))
    given = fitting(
        tiny.loaded("llama"), file, steps=2, check_every=1, tolerance=tolerance, learning_rate=3e-3
    )
    assert tuned("finetune-full", given).describe()["best_step"] == best


def test_a_model_that_only_loses_is_left_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = iter([0.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr(Retention, "measure", lambda *_: next(kept))
    loaded = tiny.loaded("llama")
    before = weights(loaded)
    given = fitting(loaded, file, steps=40, check_every=1, tolerance=0.05)
    fitted = tuned("finetune-lora", given)
    assert fitted.describe()["best_step"] == 0
    assert not fitted.describe()["changes_weights"]
    with fitted.applied(loaded):
        assert changed(before, weights(loaded)) == set()


def test_a_loss_that_is_not_finite_ends_training(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([*[1.0] * 3, *[float("nan")] * 9])  # held-out pairs, two updates, the third
    monkeypatch.setattr(
        training, "likelihood_loss", lambda *given: next(calls) * likelihood_loss(*given)
    )
    loaded = tiny.loaded("llama")
    before = weights(loaded)
    facts = tuned("finetune-full", fitting(loaded, file, steps=20)).describe()
    assert facts["stopped"] == "loss not finite"
    assert facts["losses"][-1] is None
    assert (facts["steps"], facts["best_step"], facts["changes_weights"]) == (3, 0, False)
    assert json.dumps(facts, allow_nan=False)
    assert changed(before, weights(loaded)) == set()


@pytest.mark.parametrize("method", ["finetune-full", "finetune-lora", "finetune-frozen"])
def test_an_error_while_training_leaves_the_model_as_it_was(
    method: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([0.5])
    monkeypatch.setattr(Retention, "measure", lambda *_: next(calls))
    loaded = tiny.loaded("llama")
    before = weights(loaded)
    with pytest.raises(StopIteration):
        method_named(method).fit(fitting(loaded, file, learning_rate=1e-2))
    assert changed(before, weights(loaded)) == set()
    assert all(type(m).__module__.split(".")[0] != "peft" for m in loaded.model.modules())
    assert not any(module.training for module in loaded.model.modules())


@pytest.mark.parametrize("method", ["finetune-full", "finetune-lora"])
def test_the_seed_decides_everything(method: str, file: Path) -> None:
    def values(seed: int) -> dict[str, torch.Tensor]:
        loaded = tiny.loaded("t5")  # it has dropout
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        given = fitting(loaded, file, seed=seed, learning_rate=1e-2, steps=3)
        fitted = tuned(method, given)
        with fitted.applied(loaded):
            return weights(loaded)

    one = values(0)
    assert changed(one, values(0)) == set()
    assert changed(one, values(1))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("formulation", ["sentence", "gap_fill"])
def test_equalising_drives_preferences_towards_zero(
    name: str, formulation: str, file: Path
) -> None:
    loaded = tiny.loaded(name)
    given = fitting(
        loaded,
        file,
        objective="equalised",
        formulation=formulation,
        steps=24,
        check_every=12,
        learning_rate=5e-3,
        kl_weight=0.0,
    )
    fitted = tuned("finetune-full", given)
    pairs = load_pairs(str(file), data_dir=None).pairs
    generator = np.random.default_rng(3)
    items = encode_examples(
        loaded,
        [example(pair, formulation, TASK, generator) for pair in pairs],  # type: ignore[arg-type]
    )
    with torch.no_grad():
        before = preferences(loaded, items).square().mean()
        with fitted.applied(loaded):
            after = preferences(loaded, items).square().mean()
    assert float(after) < 0.25 * float(before)


# --- which weights --------------------------------------------------------------------------------


def test_a_low_rank_change_is_what_peft_merges(file: Path) -> None:
    import peft

    loaded = tiny.loaded("llama")
    before = weights(loaded)
    fitted = tuned("finetune-lora", fitting(loaded, file, learning_rate=2e-2, rank=3, alpha=7.5))
    assert set(fitted.change.factors) == {site.module for site in loaded.sites}
    other = tiny.model("llama")
    settings = peft.LoraConfig(r=3, lora_alpha=7.5, target_modules=list(fitted.change.factors))
    wrapped = peft.LoraModel(other, settings, "default")
    with torch.no_grad():
        for module, term in fitted.change.factors.items():
            layer = other.get_submodule(module)
            layer.lora_A["default"].weight.copy_(term.down)
            layer.lora_B["default"].weight.copy_(term.up)
    merged = dict(wrapped.merge_and_unload().named_parameters())
    moved = 0.0
    with fitted.applied(loaded):
        for key, value in loaded.model.named_parameters():
            torch.testing.assert_close(value, merged[key], atol=1e-7, rtol=1e-6)
            moved += float((value - before[key]).detach().abs().sum())
    assert moved > 1.0


@pytest.mark.parametrize(
    ("modules", "sublayers"),
    [("attention", {"self-attention", "cross-attention"}), ("feed-forward", {"feed-forward"})],
)
def test_adapters_go_where_they_are_configured(
    modules: str, sublayers: set[str], file: Path
) -> None:
    loaded = tiny.loaded("t5")
    change = tuned("finetune-lora", fitting(loaded, file, steps=1, modules=modules)).change
    assert set(change.factors) == {s.module for s in loaded.sites if s.sublayer in sublayers}


@pytest.mark.parametrize(
    ("name", "trainable", "expected"),
    [
        ("llama", "norms", lambda key: "norm" in key),
        ("bloom", "biases", lambda key: key.endswith(".bias")),
        (
            "bloom",
            "norms_and_biases",
            lambda key: key.endswith(".bias") or "layernorm" in key or "ln_f" in key,
        ),
        ("llama", "last_layers", lambda key: "layers.1." in key),
        ("t5", "last_layers", lambda key: "encoder.block.1." in key or "decoder.block.2." in key),
        ("t5", "norms", lambda key: "layer_norm" in key),
    ],
)
def test_frozen_weights_stay_bit_for_bit(
    name: str, trainable: str, expected: Any, file: Path
) -> None:
    loaded = tiny.loaded(name)
    before = weights(loaded)
    given = fitting(loaded, file, trainable=trainable, last_layers=1, learning_rate=1e-2)
    fitted = tuned("finetune-frozen", given)
    with fitted.applied(loaded):
        moved = changed(before, weights(loaded))
    assert moved
    assert moved <= {key for key in before if expected(key)}
    assert set(fitted.change.values) == {key for key in before if expected(key)}


def test_a_model_without_biases_cannot_train_them(file: Path) -> None:
    with pytest.raises(ConfigError, match="has no biases"):
        tuned("finetune-frozen", fitting(tiny.loaded("llama"), file, trainable="biases"))


@pytest.mark.parametrize("method", ["finetune-lora", "finetune-frozen"])
@pytest.mark.parametrize("name", BOTH)
def test_packed_weights_train_the_same(
    method: str, name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen linear maps run packed; that is faster and must change nothing else."""
    found = []
    for packed in (True, False):
        if not packed:
            monkeypatch.setattr(trainable, "packed_linears", lambda *_, **__: nullcontext())
        loaded = tiny.loaded(name)
        fitted = tuned(method, fitting(loaded, file, steps=2, check_every=2, learning_rate=1e-3))
        with fitted.applied(loaded):
            found.append(weights(loaded))
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], atol=2e-4, rtol=0)


def test_tied_weights_stay_tied(file: Path) -> None:
    loaded = tiny.loaded("llama")
    fitted = tuned("finetune-full", fitting(loaded, file, learning_rate=1e-2))
    with fitted.applied(loaded):
        assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
        assert "model.embed_tokens.weight" in changed(
            weights(tiny.loaded("llama")), weights(loaded)
        )


def test_what_is_applied_comes_back_after_an_error_and_goes_to_no_other_model(file: Path) -> None:
    loaded = tiny.loaded("llama")
    before = weights(loaded)
    fitted = tuned("finetune-lora", fitting(loaded, file, learning_rate=1e-2))

    def fail() -> None:
        with fitted.applied(loaded):
            assert changed(before, weights(loaded))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert changed(before, weights(loaded)) == set()
    with pytest.raises(PatchMismatchError, match="fine-tuning was done on tiny-llama"):
        fitted.change.check(tiny.loaded("llama", seed=1))
    with fitted.applied(loaded):
        inside = weights(loaded)
    fitted.apply(loaded)
    assert changed(inside, weights(loaded)) == set()


# --- against forgetting ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
def test_divergence_is_that_of_the_answers_distributions(name: str) -> None:
    loaded, other = tiny.loaded(name), tiny.loaded(name, seed=1)
    rows = [(item.prompt, item.options[0]) for item in encoded(loaded)]
    original = [found for row in rows for found in distributions(loaded, [row])]
    with torch.no_grad():
        assert float(divergence(loaded, rows, original)) == pytest.approx(0.0, abs=1e-5)
        found = float(divergence(other, rows, original))
    now = torch.cat([part for row in rows for part in distributions(other, [row])]).double()
    before = torch.cat(original).double()
    wanted = torch.nn.functional.kl_div(now, before, log_target=True, reduction="batchmean")
    assert found == pytest.approx(float(wanted), rel=1e-4)
    assert found > 0.1


def test_divergence_from_the_original_is_held_down_by_its_weight(file: Path) -> None:
    loaded = tiny.loaded("llama")
    drift = {}
    for weight in (0.0, 20.0):
        given = fitting(loaded, file, kl_weight=weight, learning_rate=5e-3, steps=24)
        fitted = tuned("finetune-full", given)
        assert fitted.describe()["replayed_find_items"]["kl"] == (2 if weight else 0)
        replay = replayed(loaded, given, 1.0)
        with torch.no_grad(), fitted.applied(loaded):
            drift[weight] = float(divergence(loaded, replay.kept, replay.original))
    assert drift[20.0] < 0.5 * drift[0.0]


def replayed(loaded: LoadedModel, given: Fitting, kl_weight: float) -> Replay:
    options = given.config.finetuning
    return Replay.of(loaded, given.task, SPLIT.find, options, kl_weight=kl_weight, seed=0)


@pytest.mark.parametrize("name", BOTH)
def test_replay_asks_find_items_in_the_format_of_the_task(name: str, file: Path) -> None:
    loaded = tiny.loaded(name)
    replay = replayed(loaded, fitting(loaded, file, gold_weight=1.0), 1.0)
    decode = loaded.tokenizer.decode
    kept = [decode(prompt) for prompt, _ in replay.kept]
    # Ambiguous items are left to change; their gold answers are replayed all the same.
    assert len(kept) == 2
    assert all("Your answer:" in text for text in kept)
    assert any("The young man was early" in text for text in kept)
    assert not any("The grandson was late" in text for text in kept)
    answers = [decode(answer, skip_special_tokens=True).strip() for _, answer in replay.gold]
    assert answers == [instance.options[instance.gold] for instance in SPLIT.find]


def test_replayed_gold_answers_are_learnt(file: Path) -> None:
    loaded = tiny.loaded("llama")
    options = {"replay_batch": 4, "steps": 16, "learning_rate": 3e-3, "kl_weight": 0.0}
    given = fitting(loaded, file, gold_weight=5.0, **options)
    rows = replayed(loaded, given, 0.0).gold
    likely = {}
    for weight in (0.0, 5.0):
        fitted = tuned("finetune-full", fitting(loaded, file, gold_weight=weight, **options))
        assert fitted.describe()["replayed_find_items"] == {"kl": 0, "gold": 4 if weight else 0}
        with torch.no_grad(), fitted.applied(loaded):
            likely[weight] = float(token_means(loaded, rows).mean())
    assert likely[5.0] > 0.5 * likely[0.0]


def test_the_retention_metric_follows_the_task() -> None:
    config = RunConfig()
    tune = SPLIT.tune
    assert Retention.of(TASK, tune, config, seed=0).metric == "accuracy_disambiguated"
    open_ended = tuple(replace(instance, condition=None) for instance in tune)
    assert Retention.of(TASK, open_ended, config, seed=0).metric == "accuracy"
    no_gold = tuple(replace(instance, gold=-1) for instance in open_ended)
    assert Retention.of(TASK, no_gold, config, seed=0).metric == "likelihood"
    asked = RunConfig(finetuning=FinetuningConfig(retention="accuracy_disambiguated"))
    with pytest.raises(ConfigError, match="not defined for the task 'toy'"):
        Retention.of(TASK, no_gold, asked, seed=0)
    with pytest.raises(ConfigError, match="names no correct answers"):
        Replay.of(
            tiny.loaded("llama"),
            TASK,
            no_gold,
            FinetuningConfig(gold_weight=1.0),
            kl_weight=0.0,
            seed=0,
        )


def test_retention_by_likelihood_is_the_mean_over_correct_options() -> None:
    loaded = tiny.loaded("llama")
    config = RunConfig(finetuning=FinetuningConfig(retention="likelihood"))
    task = replace(TASK, instructions=TASK.instructions[:1])
    found = Retention.of(task, SPLIT.tune, config, seed=0).measure(loaded)
    from excise.scoring import encode

    items = encode(loaded, task, task.instructions[0], SPLIT.tune, end_token=True)
    with torch.no_grad():
        wanted = [
            np.mean(naive(loaded, item.prompt, item.options[instance.gold]))
            for item, instance in zip(items, SPLIT.tune, strict=True)
        ]
    assert found == pytest.approx(np.mean(wanted), abs=1e-5)


# --- what is refused ------------------------------------------------------------------------------


def crows(name: str = "crows-pairs", digest: str = "c" * 64) -> Task:
    instances = tuple(
        Instance(
            id=f"pair-{number}",
            fields={"direction": "antistereo" if number == 0 else "stereo"},
            options=(line["more"], line["less"]),
            gold=-1,
            template=f"pair-{number}",
            block=f"pair-{number}",
            group=line["group"],
        )
        for number, line in enumerate(LINES)
    )
    return Task(name, instances, ("",), "", "none", "none", digest, kind="sentences")


def test_crows_pairs_is_never_reported_of_a_model_trained_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs_module, "load_task", lambda name, data_dir: crows(name))
    loaded = tiny.loaded("llama")
    given = fitting(loaded, Path("crows-pairs"), steps=1)
    fitted = tuned("finetune-lora", given)
    assert fitted.trained_on == {"crows-pairs", "c" * 64}
    assert fitted.pairs.pairs[0].direction == "antistereo"
    for task in (
        crows(digest="d" * 64),  # by name
        crows("crows-pairs-age", digest="d" * 64),
        crows("renamed"),  # by digest
        crows("renamed", digest="d" * 64),  # by its sentences
    ):
        reason = fitted.refuses(task)
        assert reason is not None
        assert "\n" not in reason
        assert "fine-tuned on 'crows-pairs'" in reason
        with pytest.raises(ConfigError, match="would measure what it memorised"):
            fitted.answers(loaded, task, task.instances, given.config.scoring)
        with pytest.raises(ConfigError, match="finetune-lora: the model was fine-tuned on"):
            tuned("finetune-lora", replace(given, task=task))
    assert fitted.refuses(TASK) is None
    texts = PromptTask("honest", (), "honest", "", "", "e" * 64, ())
    assert fitted.refuses(texts) is None
    assert fitted.answers(loaded, TASK, SPLIT.tune, given.config.scoring).choice.shape == (2, 3)


def test_the_users_own_pairs_are_refused_by_digest_and_sentence(file: Path) -> None:
    pairs = load_pairs(str(file), data_dir=None)
    assert (pairs.name, len(pairs.pairs)) == ("mine", len(LINES))
    assert pairs.refuses(crows("crows-pairs"))
    elsewhere = replace(
        crows("crows-pairs"),
        instances=(tiny.instance(0, "", ("Another sentence.", "One more."), gold=-1),),
    )
    assert pairs.refuses(elsewhere) is None
    assert pairs.refuses(replace(elsewhere, digest=next(iter(pairs.trained_on))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"more": "a b"}\n', r"mine.jsonl, line 1, field 'less': missing; give the less"),
        ('{"more": "a b", "less": "a c"}\n{"more": " ", "less": "b"}\n', "line 2, field 'more'"),
        ('{"more": "a b", "less": 3}\n', "line 1, field 'less': must be"),
        ('{"more": "a b", "less": "a  b"}\n', "field 'less': is the same sentence"),
        ('{"more": "a b", "less": "a c", "grup": "x"}\n', "field 'grup': unknown; did you mean"),
        ('{"more": "a", "less": "b"}\n{"more": "a", "less": "b"}\n', "line 2.*given before"),
        ('{"more": "a", "less": "b"}\n{"more": "b", "less": "a"}\n', "line 2.*the other way"),
        ('{"more": "a b", "less": "a c"}\n', "fewer than two templates"),
        ("nonsense\n", "line 1: not valid JSON"),
        ("", "fewer than two templates"),
    ],
)
def test_a_bad_file_of_pairs_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaskFormatError, match=message):
        load_pairs(str(path), data_dir=None)


def test_pairs_come_from_csv_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('more,less,template\n"Old, slow",New,one\nOld cat,New cat,two\n', "utf-8")
    pairs = load_pairs(str(path), data_dir=None).pairs
    assert pairs == (Pair("Old, slow", "New", "", "one"), Pair("Old cat", "New cat", "", "two"))
    with pytest.raises(ConfigError, match="neither 'crows-pairs' nor a"):
        load_pairs("crows-pear", data_dir=None)
    with pytest.raises(TaskFormatError, match="cannot be read"):
        load_pairs(str(tmp_path / "none.csv"), data_dir=None)


def test_pairs_of_one_template_are_held_out_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [{**line, "template": f"t{number // 3}"} for number, line in enumerate(LINES)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    given = fitting(tiny.loaded("llama"), path)
    chosen = recipe("finetune-full", given.config.finetuning, encoder_decoder=False)
    held = set()
    for seed in range(6):
        data = _Data.of(replace(given, seed=seed), chosen, load_pairs(str(path), data_dir=None))
        trained = {pair.template for pair in data.trained}
        out = {pair.template for pair in data.held_out}
        assert len(out) == 1
        assert trained | out == {"t0", "t1", "t2", "t3"}
        assert not trained & out
        held |= out
    assert len(held) > 1


def test_a_missing_package_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'excise\[train\]'"):
        tuned("finetune-lora", fitting(tiny.loaded("llama"), file))


def test_models_that_cannot_be_trained_are_refused(file: Path) -> None:
    loaded = tiny.loaded("llama")
    masked = replace(loaded, architecture=replace(loaded.architecture, kind="masked"))
    with pytest.raises(ModelError, match="masked"):
        tuned("finetune-full", fitting(masked, file))
    loaded.model.to(torch.bfloat16)
    with pytest.raises(ConfigError, match="float32"):
        tuned("finetune-full", fitting(loaded, file))


def test_every_recipe_is_a_method_of_the_table() -> None:
    assert [name for name in METHODS if name.startswith("finetune-")] == list(RECIPES)


def test_crows_pairs_of_the_authors_can_be_trained_on(bbq_data_dir: Path | None) -> None:
    if bbq_data_dir is None or not (bbq_data_dir / "crows_pairs").is_dir():
        pytest.skip("real CrowS-Pairs: set EXCISE_DATA")
    pairs = load_pairs("crows-pairs", data_dir=bbq_data_dir)
    # 1,508 rows, of which one stands twice; 218 are antistereo.
    assert len(pairs.pairs) == 1507
    assert sum(pair.direction == "antistereo" for pair in pairs.pairs) == 218
    for pair in pairs.pairs:
        text, more, less = gap(pair)
        assert more != less
        assert text.replace(GAP, more, 1).split() == pair.more.split()
        assert text.replace(GAP, less, 1).split() == pair.less.split()


def test_the_published_recipe_runs_on_both_architectures(file: Path) -> None:
    for name in BOTH:
        loaded = tiny.loaded(name)
        fitted = tuned("finetune-uqac", fitting(loaded, file, steps=None, check_every=None))
        facts = fitted.describe()
        assert facts["recipe"]["as_published"]
        # 10 pairs in batches of 4 are 3 updates an epoch.
        assert facts["steps"] == 3 * (3 if loaded.encoder_decoder else 5)
        assert [point["step"] for point in facts["curve"]][:3] == [0, 3, 6]
        assert facts["best_step"] > 0
        assert facts["stopped"] == "all steps done"
