"""Judges: a lexicon by hand, classifiers against their own logits, offline scorers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaModel

import tiny
from excise.config import ContinuationConfig
from excise.errors import ConfigError, ModelError
from excise.judges import CLASSIFIERS, SCORERS, judge_for
from excise.judges import classifier as classifiers
from excise.judges.classifier import load_classifier
from excise.judges.lexicon import LexiconJudge
from excise.judges.offline import ProfanityJudge, VaderJudge
from excise.types import PromptTask

TEXTS = ["The old man was late.", "", "Zebra", "The young man forgot the keys at the market. " * 20]


def save_classifier(folder: Path, classes: tuple[str, ...], kind: Any = None, **given: Any) -> Path:
    """A tiny random classifier like the published ones, in a folder."""
    config = RobertaConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=tiny.PAD,
        bos_token_id=tiny.BEGIN,
        eos_token_id=tiny.END,
        **{"id2label": dict(enumerate(classes)), "label2id": {c: n for n, c in enumerate(classes)}}
        | given,
    )
    torch.manual_seed(0)
    model = (kind or RobertaForSequenceClassification)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tiny.tokenizer("bos").save_pretrained(folder)
    return folder


REGARD = ("negative", "neutral", "positive", "other")


def task(judge: Any = "toxicity", lexicon: frozenset[str] = frozenset()) -> PromptTask:
    return PromptTask("toy", (), judge, "none", "none", "0" * 64, (), lexicon=lexicon)


def chosen(folder: Path | str, judge: str = "toxicity", label: str | None = None) -> Any:
    how = ContinuationConfig(classifier=str(folder), classifier_label=label)
    return judge_for(task(judge), how)


# --- lexicon --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("slug", True),
        ("a slug", True),
        ("He is a SLUG", False),
        ("Slug", False),
        ("a slug, of course!", True),
        ("a slug/toad", True),
        ("(slug)", True),
        ("“slug”—", True),
        ("_slug_", True),
        ("slugs", False),
        ("a sl-ug", False),
        ("naive", True),
        ("naïve", True),
        ("crème", True),
        ("rotten apple", False),
        ("half-wit", False),
        ("", False),
        ("slug slug naive", True),
    ],
)
def test_a_text_is_hit_by_a_word_of_the_lexicon(text: str, hit: bool) -> None:
    judge = LexiconJudge(["slug", "naïve", "creme", "rotten apple", "half-wit"])
    assert judge.score([text])["hurtful"].tolist() == [float(hit)]


def test_the_lexicon_is_that_of_the_task_and_no_classifier_replaces_it() -> None:
    how = ContinuationConfig(classifier="vader")
    judge = judge_for(task("honest", frozenset({"slug"})), how)
    assert judge.name == "HurtLex EN 1.2, conservative"
    assert judge.labels == ("hurtful",)
    assert judge.score(["a slug", "a snail"])["hurtful"].tolist() == [1.0, 0.0]
    assert judge.score([])["hurtful"].shape == (0,)


# --- classifiers ----------------------------------------------------------------------------------


def by_hand(folder: Path, texts: list[str]) -> list[torch.Tensor]:
    """Logits of one text at a time, cut to the 64 tokens that 66 positions leave."""
    model = RobertaForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tiny.tokenizer("bos")
    with torch.no_grad():
        return [
            model(torch.tensor([tokenizer(text).input_ids[:64]])).logits[0].double()
            for text in texts
        ]


def test_probabilities_are_the_softmax_of_the_classifier(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", ("nothate", "hate"))
    judge = chosen(folder)
    assert judge.name == str(folder)
    assert judge.labels == ("toxicity",)
    scores = judge.score(TEXTS)
    expected = [logits.softmax(-1)[1].item() for logits in by_hand(folder, TEXTS)]
    np.testing.assert_allclose(scores["toxicity"], expected, atol=1e-6)
    assert np.ptp(expected) > 0.01
    assert judge.score([])["toxicity"].shape == (0,)


def test_texts_are_judged_each_on_its_own(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", ("nothate", "hate"))
    judge = chosen(folder)
    many = [TEXTS[number % 4] + " man" * (number % 7) for number in range(70)]
    together = judge.score(many)["toxicity"]
    alone = [judge.score([text])["toxicity"].item() for text in many]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_regard_has_every_class_under_its_own_name(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", ("Neutral", "other", "Negative", "positive"))
    judge = chosen(folder, "regard")
    wanted = ("regard_neutral", "regard_other", "regard_positive", "regard_negative")
    assert judge.labels == wanted
    expected = torch.stack(by_hand(folder, TEXTS)).softmax(-1).numpy()
    scores = judge.score(TEXTS)
    for label, output in zip(wanted, (0, 1, 3, 2), strict=True):
        np.testing.assert_allclose(scores[label], expected[:, output], atol=1e-6)


def test_where_several_classes_may_hold_each_has_its_own_sigmoid(tmp_path: Path) -> None:
    folder = save_classifier(
        tmp_path / "classifier",
        ("toxic", "insult", "threat"),
        problem_type="multi_label_classification",
    )
    expected = [logits.sigmoid()[1].item() for logits in by_hand(folder, TEXTS)]
    judge = chosen(folder, label="Insult")
    np.testing.assert_allclose(judge.score(TEXTS)["toxicity"], expected, atol=1e-6)


def test_a_label_may_stand_for_harm_beside_one_of_the_usual_name(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", ("negative", "bad", "good"))
    judge = chosen(folder, "regard", "bad")
    expected = [logits.softmax(-1)[1].item() for logits in by_hand(folder, TEXTS)]
    np.testing.assert_allclose(judge.score(TEXTS)["regard_negative"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("judge", "label", "missing"),
    [("toxicity", None, "hate"), ("regard", "rude", "rude"), ("toxicity", "LABEL_9", "LABEL_9")],
)
def test_a_class_that_is_not_there(
    tmp_path: Path, judge: str, label: str | None, missing: str
) -> None:
    folder = save_classifier(tmp_path / "classifier", ("clean", "toxic"))
    with pytest.raises(ConfigError) as caught:
        chosen(folder, judge, label)
    assert str(caught.value) == (
        f"classifier {str(folder)!r} has no class {missing!r}, which toy needs; choose one with "
        "--set continuation.classifier_label=CLASS from its classes: clean, toxic."
    )


def test_a_classifier_is_loaded_once(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", ("nothate", "hate"))
    assert chosen(folder).classifier is chosen(folder, label="nothate").classifier


def test_the_published_classifiers_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool, bool]] = []

    def unreachable(name: str, trust_remote_code: bool, use_safetensors: bool = True) -> None:
        asked.append((name, trust_remote_code, use_safetensors))
        raise OSError("We could not connect to the Hub.\nSecond line.")

    load_classifier.cache_clear()
    monkeypatch.setattr(classifiers.AutoTokenizer, "from_pretrained", unreachable)
    for judge, name in CLASSIFIERS.items():
        with pytest.raises(ModelError) as caught:
            judge_for(task(judge), ContinuationConfig())
        assert str(caught.value) == (
            f"cannot load classifier {name!r}: We could not connect to the Hub. Give a folder with "
            "--classifier DIR, or an offline scorer: --classifier vader or "
            "--classifier profanity-check."
        )
    assert asked == [
        ("facebook/roberta-hate-speech-dynabench-r4-target", False, True),
        ("sasha/regardv3", False, True),
    ]


def test_weights_other_than_safetensors_are_not_read(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", ("nothate", "hate"))
    model = RobertaForSequenceClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot load classifier .* Give a folder") as caught:
        chosen(folder)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "base", ("nothate", "hate"), kind=RobertaModel)
    with pytest.raises(ModelError, match=r"is incomplete: .* 'classifier\.dense\.bias'"):
        chosen(folder)


@pytest.mark.parametrize(
    ("classes", "problem"), [(("hate",), None), (("nothate", "hate"), "regression")]
)
def test_a_regression_is_refused(
    tmp_path: Path, classes: tuple[str, ...], problem: str | None
) -> None:
    folder = save_classifier(tmp_path / "regression", classes, problem_type=problem)
    with pytest.raises(ModelError, match="gives one number and no probabilities"):
        chosen(folder)


def test_a_tokenizer_that_marks_no_texts_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "decoder", ("nothate", "hate"))
    tiny.tokenizer("bare").save_pretrained(folder)
    with pytest.raises(ModelError, match="is no encoder classifier"):
        chosen(folder)


# --- offline scorers ------------------------------------------------------------------------------


def test_vader_is_chosen_by_name_and_has_labels_of_its_own() -> None:
    judge = judge_for(task("regard"), ContinuationConfig(classifier="vader"))
    assert judge is judge_for(task("toxicity"), ContinuationConfig(classifier="vader"))
    assert judge.name == "vader"
    scores = judge.score(["horrible and disgusting", "wonderful and kind", "a table", ""])
    assert tuple(scores) == judge.labels
    assert scores["sentiment_negative"].tolist() == [1, 0, 0, 0]
    assert scores["sentiment_positive"].tolist() == [0, 1, 0, 0]
    # Two rated words: s / sqrt(s^2 + 15), the published normalisation of their summed ratings.
    summed = np.array([-2.5 - 2.4, 2.7 + 2.4, 0, 0])
    expected = summed / np.sqrt(summed**2 + 15)
    np.testing.assert_allclose(scores["sentiment_compound"], expected, atol=1e-4)


def test_profanity_is_a_probability_of_its_own_name() -> None:
    judge = judge_for(task("toxicity"), ContinuationConfig(classifier="profanity-check"))
    assert (judge.name, judge.labels) == ("profanity-check", ("profanity",))
    scores = judge.score(["what a damn stupid bastard", "a pleasant walk in the park", ""])
    assert scores["profanity"][0] > 0.9
    assert scores["profanity"][1] < 0.1
    assert 0 <= scores["profanity"][2] < 0.5
    assert judge.score([])["profanity"].shape == (0,)


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (VaderJudge, "vaderSentiment.vaderSentiment", "vaderSentiment"),
        (ProfanityJudge, "profanity_check", "alt-profanity-check"),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, make: Any, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError) as caught:
        make()
    assert str(caught.value) == (
        f"the offline scorer {make.name!r} needs the package {package}; "
        "install it with: pip install 'excise[offline]'"
    )


def test_no_offline_scorer_passes_for_a_published_classifier() -> None:
    for make in SCORERS.values():
        assert not [n for n in make().labels if n.startswith(("toxicity", "regard", "hurtful"))]
