"""Masked language models: neurons, loading, what they are asked and what they are refused."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertForQuestionAnswering

import tiny
from cli_models import WORKPLACE, excise
from excise.attribution import attribute
from excise.config import AttributionConfig, Preset, ScoringConfig
from excise.errors import ConfigError, ModelError, UnsupportedArchitectureError
from excise.evaluation import ask, predict
from excise.evaluation.sentences import compare_sentences
from excise.models import LoadedModel, load, sites, weights_digest, wrap
from excise.models.architectures import architecture_of
from excise.patches import Patch, scaled_outputs
from excise.scoring.masked import (
    Gap,
    MaskedScorer,
    every_token,
    filled_word,
    longest_text,
    shared_tokens,
)
from excise.types import Instance, Neuron, Passage, Prompt, PromptTask, Task, TextTask
from test_cli import assert_one_line

SCORING = ScoringConfig()
loaded = cache(tiny.loaded)


def save(folder: Path, name: str) -> Path:
    tiny.model(name).save_pretrained(folder)
    tiny.masked_tokenizer(name).save_pretrained(folder)
    return folder


# Neurons.

NEURONS = tiny.LAYERS * (3 * tiny.HIDDEN + tiny.HIDDEN + tiny.FEED_FORWARD + tiny.HIDDEN)


@pytest.mark.parametrize("name", tiny.MASKED)
def test_neurons_are_counted_as_by_hand(name: str) -> None:
    model = loaded(name)
    assert model.n_neurons == NEURONS == 416
    named = {s.module for s in model.sites}
    linears = {n for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)}
    heads = {
        "bert": {"cls.predictions.transform.dense", "cls.predictions.decoder"},
        "roberta": {"lm_head.dense", "lm_head.decoder"},
    }
    assert linears - named == heads[name]
    sublayers = {s.module.split(".", 4)[-1]: s.sublayer for s in model.sites if s.layer == 1}
    assert sublayers == {
        "attention.self.query": "self-attention",
        "attention.self.key": "self-attention",
        "attention.self.value": "self-attention",
        "attention.output.dense": "self-attention",
        "intermediate.dense": "feed-forward",
        "output.dense": "feed-forward",
    }
    assert not any(s.over_input for s in model.sites)


def test_bert_base_has_as_many_neurons_as_its_shape_says() -> None:
    with torch.device("meta"):
        model = BertForPreTraining(BertConfig()).bert
    wrapped = torch.nn.ModuleDict({"bert": model})
    found = sites(wrapped, architecture_of("bert"))  # its pooler holds none
    assert sum(site.size for site in found) == 12 * (4 * 768 + 3072 + 768)


def test_an_extra_linear_map_is_refused() -> None:
    model = tiny.model("bert")
    model.bert.encoder.layer[0].extra = torch.nn.Linear(4, 4)
    with pytest.raises(UnsupportedArchitectureError, match=r"layer\.0\.extra"):
        wrap(model, tiny.masked_tokenizer("bert"))


@torch.no_grad()
def logits(model: LoadedModel) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    result: torch.Tensor = model.model(input_ids=ids).logits
    return result


@pytest.mark.parametrize("name", tiny.MASKED)
def test_a_patch_equals_a_hook_and_is_undone_bit_for_bit(name: str) -> None:
    model = tiny.loaded(name)
    original = logits(model)
    before = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}

    def hook(indices: list[int]) -> Callable[..., torch.Tensor]:
        def zero(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[..., indices] = 0.0
            return output

        return zero

    for site in model.sites:
        indices = [0, 7, site.size - 1]
        neurons = [Neuron(site.module, index) for index in indices]
        handle = model.linear(site.module).register_forward_hook(hook(indices))
        expected = logits(model)
        handle.remove()
        with scaled_outputs(model.model, neurons, 0.0):
            got = logits(model)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        if not site.module.endswith(("query", "key")):
            assert not torch.allclose(got, original, atol=1e-4), site.module
    patch = Patch(
        neurons=tuple(Neuron(site.module, 3) for site in model.sites),
        scores=(1.0,) * len(model.sites),
        base_model=model.name,
        base_digest=model.digest,
    )
    with patch.applied(model):
        patched = compare_sentences(model, PAIRS, PAIRS.instances, SCORING)
    plain = compare_sentences(model, PAIRS, PAIRS.instances, SCORING)
    assert not np.allclose(patched.log_likelihood, plain.log_likelihood)  # type: ignore[arg-type]
    for key, tensor in model.model.state_dict().items():
        assert torch.equal(tensor.view(torch.int32), before[key].view(torch.int32)), key


# Loading.


@pytest.mark.parametrize("name", tiny.MASKED)
def test_a_local_folder_makes_the_round_trip(name: str, tmp_path: Path) -> None:
    got = load(str(save(tmp_path / name, name)))
    assert got.masked
    assert not got.encoder_decoder
    assert not got.branches
    assert not got.chat_template
    assert got.digest == weights_digest(tiny.model(name))
    assert got.tokenizer.mask_token_id is not None
    ours = compare_sentences(got, PAIRS, PAIRS.instances, SCORING)
    theirs = compare_sentences(tiny.loaded(name), PAIRS, PAIRS.instances, SCORING)
    np.testing.assert_array_equal(ours.log_likelihood, theirs.log_likelihood)


def pretraining() -> BertForPreTraining:
    return BertForPreTraining(
        BertConfig(
            vocab_size=tiny.VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def test_a_checkpoint_with_the_head_of_pretraining_loads(tmp_path: Path) -> None:
    """The published BERT checkpoints hold a next-sentence head too, which is not used."""
    model = pretraining().eval()
    model.save_pretrained(tmp_path)
    tiny.masked_tokenizer("bert").save_pretrained(tmp_path)
    got = load(str(tmp_path))
    assert type(got.model).__name__ == "BertForMaskedLM"
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(got.model(ids).logits, model(ids).prediction_logits)


def test_other_heads_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny.masked_tokenizer("bert")
    with pytest.raises(ModelError, match=r"BertForPreTraining is no masked .*AutoModelForMaskedLM"):
        wrap(pretraining(), tokenizer)
    config = pretraining().config
    BertForQuestionAnswering(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"incomplete: .*'cls\.predictions"):
        load(str(tmp_path))


def test_masked_models_have_no_chat_template() -> None:
    tokenizer = tiny.masked_tokenizer("bert")
    tokenizer.chat_template = tiny.CHAT_TEMPLATE
    assert not wrap(tiny.model("bert"), tokenizer).chat_template
    with pytest.raises(ModelError, match="masked models are asked without a chat template"):
        wrap(tiny.model("bert"), tokenizer, apply_chat_template="yes")


# What they are refused.


def test_prompts_are_refused() -> None:
    model = loaded("bert")
    choice = tiny.task()
    message = "'toy' needs a model that continues a text, and 'tiny-bert' is a masked"
    for mode in ("scoring", "generation"):
        with pytest.raises(ModelError, match=message):
            predict(model, choice, choice.instances, ScoringConfig(mode=mode))
    with pytest.raises(ModelError, match=message):
        attribute(model, choice, choice.instances, AttributionConfig())
    prompts = PromptTask(
        "toy", (Prompt("p", "The", "g", "t", "b"),), "toxicity", "", "", "", metrics=()
    )
    text = TextTask("toy", (Passage("p", "The man.", "t", "b"),), "", "", "", metrics=())
    for task in (choice, prompts, text):
        with pytest.raises(ModelError, match=message) as caught:
            ask(model, task, task.instances, Preset())
        assert "\n" not in str(caught.value)
    assert not loaded("bert").model.training
    tiny.loaded("llama").refuse_masked("nothing")


def test_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path / "bert", "bert")
    result = excise("run", folder, "--task", WORKPLACE, "--out", tmp_path / "out", "--quiet")
    assert_one_line(result, "is a masked language model")
    assert not (tmp_path / "out").exists()
    listed = excise("ls", "models", columns=200)
    assert re.search(r"bert +bert +masked", listed.stdout)
    assert re.search(r"roberta +roberta, xlm-roberta +masked", listed.stdout)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    model = wrap(tiny.model("bert"), tiny.tokenizer(), name="maskless")
    with pytest.raises(ModelError, match="the tokenizer of 'maskless' has no mask token"):
        compare_sentences(model, PAIRS, PAIRS.instances, SCORING)


# Gaps, one at a time.


@torch.no_grad()
def naive(model: LoadedModel, gap: Gap) -> float:
    """One gap on its own, without padding."""
    given = {"input_ids": torch.tensor([gap.tokens])}
    if model.architecture.name == "bert":
        given["token_type_ids"] = torch.tensor([gap.segments])
    row = model.model(**given).logits[0, gap.place]
    return float(row.double().log_softmax(-1)[gap.target])


@pytest.mark.parametrize("name", tiny.MASKED)
@pytest.mark.parametrize("max_tokens", [1, 40, 4000])
def test_gaps_are_scored_as_one_by_one(name: str, max_tokens: int) -> None:
    model = loaded(name)
    gaps = [
        *every_token(model, "", "The old man met a grandson."),
        *every_token(model, "The grandfather was early.", "Who?"),
        *filled_word(model, "The BLANK was late.", "grandfather"),
        *filled_word(model, "The BLANK was late.", "market"),
        *every_token(model, "", "The old man met a grandson."),  # the same again
    ]
    scored = MaskedScorer(model, max_tokens=max_tokens).score(gaps)
    assert scored == pytest.approx([naive(model, gap) for gap in gaps], abs=1e-4)


def test_one_forward_pass_serves_all_targets() -> None:
    model = tiny.loaded("bert")
    seen: list[int] = []
    model.model.register_forward_hook(
        lambda _m, _a, given, _out: seen.append(len(given["input_ids"])), with_kwargs=True
    )
    one, *_ = filled_word(model, "The BLANK was late.", "man")
    other, *_ = filled_word(model, "The BLANK was late.", "keys")
    assert one.target != other.target
    first, second = MaskedScorer(model).score([one, other])
    assert first != second
    assert seen == [1]


@pytest.mark.parametrize("name", tiny.MASKED)
def test_every_token_of_a_sentence_is_masked_once(name: str) -> None:
    model = loaded(name)
    tokenizer = model.tokenizer
    sentence, context = "The young man was early.", "An old man met."
    own = tokenizer(sentence, add_special_tokens=False).input_ids
    gaps = every_token(model, "", sentence)
    assert [gap.target for gap in gaps] == own
    assert [gap.place for gap in gaps] == list(range(1, len(own) + 1))
    whole = tokenizer(sentence).input_ids
    for gap in gaps:
        assert gap.tokens[gap.place] == tokenizer.mask_token_id
        filled = [*gap.tokens[: gap.place], gap.target, *gap.tokens[gap.place + 1 :]]
        assert filled == whole
        assert not any(gap.segments)
    behind = every_token(model, context, sentence)
    assert [gap.target for gap in behind] == own
    before = tokenizer(context).input_ids
    for gap in behind:
        assert list(gap.tokens[: len(before)]) == before
        # BERT marks the second text, RoBERTa knows one type only.
        marked = len(own) + 1 if name == "bert" else 0
        assert sum(gap.segments) == marked
        assert gap.segments[gap.place] == (name == "bert")


def shared_by_opcodes(first: list[int], second: list[int]) -> list[tuple[int, int]]:
    """Places of the shared tokens by another way through difflib."""
    found = []
    matcher = difflib.SequenceMatcher(None, list(map(str, first)), list(map(str, second)))
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            found += list(zip(range(a, b), range(c, d), strict=True))
    return found[1:-1]


@pytest.mark.parametrize("name", tiny.MASKED)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The old man was late.", "The young man was late."),
        ("The grandson met the man.", "The man met the grandson, early."),
        ("Old?", "Yes."),
    ],
)
def test_shared_tokens_are_masked_in_both(name: str, first: str, second: str) -> None:
    model = loaded(name)
    ids = [model.tokenizer(text).input_ids for text in (first, second)]
    expected = shared_by_opcodes(*ids)
    gaps = shared_tokens(model, first, second)
    assert [(a.place, b.place) for a, b in zip(*gaps, strict=True)] == expected
    assert [a.target for a in gaps[0]] == [b.target for b in gaps[1]]
    for row, text in zip(gaps, ids, strict=True):
        for gap in row:
            assert gap.target == text[gap.place]
            assert gap.tokens.count(model.tokenizer.mask_token_id) == 1


def test_the_changed_word_is_no_gap() -> None:
    model = loaded("bert")
    gaps, _ = shared_tokens(model, "The old man was late.", "The young man was late.")
    masked = model.tokenizer.convert_ids_to_tokens([gap.target for gap in gaps])
    assert "".join(masked).replace("##", "") == "themanwaslate."


def test_a_word_is_filled_left_to_right() -> None:
    model = loaded("bert")
    tokenizer = model.tokenizer
    pieces = tokenizer.tokenize("grandson")
    assert len(pieces) >= 3
    gaps = filled_word(model, "The BLANK was late.", "grandson")
    assert tokenizer.convert_ids_to_tokens([gap.target for gap in gaps]) == pieces
    for known, gap in enumerate(gaps):
        text = tokenizer.convert_ids_to_tokens(gap.tokens)
        # What is known of the word, one mask, and nothing of what is still to come.
        assert text[2 : 2 + known] == pieces[:known]
        assert gap.place == 2 + known
        assert text[3 + known] == "was"
        assert text.count("[MASK]") == 1


def test_a_word_that_is_missing_twice_is_asked_for_twice() -> None:
    model = loaded("bert")
    (pieces,) = {len(model.tokenizer.tokenize("man"))}
    gaps = filled_word(model, "BLANK met BLANK.", "man")
    assert len(gaps) == 2 * pieces
    assert [gap.target for gap in gaps[:2]] == [gaps[0].target] * 2
    assert gaps[0].place < gaps[1].place


# Sentences.


def sentences(instances: tuple[Instance, ...], normalisation: Any) -> Task:
    return Task("toy", instances, ("",), "{context}", "", "", "", "sentences", (), normalisation)


def instance(number: int, options: tuple[str, ...], **fields: str) -> Instance:
    return Instance(
        id=f"item-{number}",
        fields={"context": "", **fields},
        options=options,
        gold=-1,
        template=f"t-{number}",
        block=f"item-{number}",
        stereotyped=0,
        unrelated=2 if len(options) == 3 else None,
    )


PAIRS = sentences(
    (
        instance(0, ("The old man was late.", "The young man was late."), direction="stereo"),
        # Which token of these counts as shared depends on the sentence that comes first.
        instance(1, ("a?", "?a"), direction="antistereo"),
        instance(2, ("Old?", "Yes."), direction="stereo"),
        instance(3, ("Who? Who?", "Who? Who?"), direction="stereo"),
    ),
    "total",
)
BLANKS = sentences(
    (
        instance(
            0,
            ("The grandson was late.", "The man was late.", "The undetermined was late."),
            blank="The BLANK was late.",
        ),
        instance(
            1,
            ("An old, old market.", "An early, early market.", "An a, a market."),
            blank="An BLANK, BLANK market.",
        ),
    ),
    "per_token",
)
CONTEXTS = sentences(
    (
        instance(0, ("He was late.", "He met the grandfather.", "Who?"), context="A man met."),
        instance(1, ("He was late.", "He met the grandfather.", "Who?"), context=""),
    ),
    "per_token",
)


@pytest.mark.parametrize("name", tiny.MASKED)
def test_pairs_are_compared_by_their_shared_tokens(name: str) -> None:
    model = loaded(name)
    predictions = compare_sentences(model, PAIRS, PAIRS.instances, SCORING)
    assert predictions.variant == "masked: sum of log P(token | rest) over the shared tokens"
    assert predictions.compared is not None
    assert predictions.log_likelihood is not None
    assert predictions.n_tokens is not None
    for n, item in enumerate(PAIRS.instances):
        texts = [model.tokenizer(option).input_ids for option in item.options]
        if item.fields["direction"] == "antistereo":  # the script aligns these the other way
            places = [(a, b) for b, a in shared_by_opcodes(*texts[::-1])]
            assert places != shared_by_opcodes(*texts)
        else:
            places = shared_by_opcodes(*texts)
        for c, text in enumerate(texts):
            total = 0.0
            for both in places:
                place = both[c]
                masked = [*text[:place], model.tokenizer.mask_token_id, *text[place + 1 :]]
                total += naive(model, Gap(tuple(masked), (0,) * len(text), place, text[place]))
            assert predictions.log_likelihood[0, n, c] == pytest.approx(total, abs=1e-3)
            assert predictions.n_tokens[0, n, c] == len(places)
            kept = float(predictions.log_likelihood[0, n, c])
            assert predictions.compared[0, n, c] == round(kept, 3)
    assert predictions.compared[0, 3, 0] == predictions.compared[0, 3, 1]  # a tie


def test_scores_closer_than_a_thousandth_are_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([-1.0001, -1.0004] * 100)
    monkeypatch.setattr(MaskedScorer, "score", lambda self, gaps: [next(values) for _ in gaps])
    task = replace(PAIRS, instances=(instance(0, ("man .", "men ."), direction="stereo"),))
    model = loaded("bert")
    monkeypatch.setattr(
        "excise.evaluation.sentences.shared_tokens",
        lambda *_: ([Gap((1,), (0,), 0, 1)], [Gap((1,), (0,), 0, 1)]),
    )
    predictions = compare_sentences(model, task, task.instances, SCORING)
    assert predictions.log_likelihood is not None
    assert predictions.log_likelihood[0, 0].tolist() == [-1.0001, -1.0004]
    assert predictions.compared is not None
    assert predictions.compared[0, 0].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("name", tiny.MASKED)
def test_a_blank_is_compared_by_the_mean_probability_of_its_word(name: str) -> None:
    model = loaded(name)
    predictions = compare_sentences(model, BLANKS, BLANKS.instances, SCORING)
    assert predictions.variant == "masked: mean probability of the filled word's tokens"
    assert predictions.compared is not None
    words = [("grandson", "man", "undetermined"), ("old", "early", "a")]
    for n, item in enumerate(BLANKS.instances):
        for c, word in enumerate(words[n]):
            gaps = filled_word(model, item.fields["blank"], word)
            mean = np.mean([math.exp(naive(model, gap)) for gap in gaps])
            assert math.exp(predictions.compared[0, n, c]) == pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("name", tiny.MASKED)
def test_sentences_behind_a_context_are_compared_token_by_token(name: str) -> None:
    model = loaded(name)
    finished: list[int] = []
    predictions = compare_sentences(
        model, CONTEXTS, CONTEXTS.instances, SCORING, advance=finished.append
    )
    assert sum(finished) == 2
    assert predictions.variant == (
        "masked, no NSP head: mean log P(token | rest) over the sentence; "
        "masked, mean log P(token | rest) over the sentence"
    )
    assert predictions.compared is not None
    for n, item in enumerate(CONTEXTS.instances):
        for c, option in enumerate(item.options):
            gaps = every_token(model, item.fields["context"], option)
            mean = np.mean([naive(model, gap) for gap in gaps])
            assert predictions.compared[0, n, c] == pytest.approx(mean, abs=1e-3)
    before, without = predictions.compared[0]
    assert not np.allclose(before, without)  # the context is seen


def test_long_sentences_are_refused_not_cut() -> None:
    """RoBERTa's positions begin behind its padding: 62 of 64 are left."""
    assert longest_text(loaded("bert")) == 64
    assert longest_text(loaded("roberta")) == 62
    for name in tiny.MASKED:
        model = loaded(name)
        limit = longest_text(model)
        one = model.tokenizer("?", add_special_tokens=False).input_ids
        assert len(one) == 1
        fitting, longer = "?" * (limit - 2), "?" * (limit - 1)
        task = sentences((instance(0, (fitting, "?", "??")),), "per_token")
        compare_sentences(model, task, task.instances, SCORING)
        task = sentences((instance(0, (longer, "?", "??")),), "per_token")
        with pytest.raises(
            ConfigError, match=rf"'item-0' needs {limit + 1} tokens, .* {limit} pos"
        ):
            compare_sentences(model, task, task.instances, SCORING)


def test_an_option_without_tokens_is_refused() -> None:
    task = sentences((instance(0, ("Who?", "", "?")),), "per_token")
    with pytest.raises(ConfigError, match="'item-0' has no tokens of its own"):
        compare_sentences(loaded("bert"), task, task.instances, SCORING)
