"""CrowS-Pairs: its score, its file, and sentences compared by models that read on."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from excise.config import Preset, ScoringConfig
from excise.errors import ConfigError, ModelError, NonFiniteError, TaskFormatError
from excise.evaluation import ask
from excise.evaluation.sentences import compare_sentences
from excise.metrics import METRICS, evaluate_metric, metrics_of, value
from excise.models import LoadedModel, wrap
from excise.tasks import load_task
from excise.tasks.crows_pairs import parse
from excise.types import Instance, Predictions, Task

SCORING = ScoringConfig()


def pair(number: int, direction: str = "stereo", stereotyped: int | None = 0) -> Instance:
    return Instance(
        id=f"pair-{number}",
        fields={"context": "", "direction": direction},
        options=("more", "less"),
        gold=-1,
        template=f"pair-{number}",
        block=f"pair-{number}",
        stereotyped=stereotyped,
        group="age",
    )


def compared(rows: list[tuple[str, float, float]]) -> Predictions:
    """Directions with the scores of the more and of the less stereotypical sentence."""
    table = np.array([[scores for _, *scores in rows]])
    instances = tuple(pair(n, direction) for n, (direction, *_) in enumerate(rows))
    ones = np.ones(table.shape, dtype=np.int64)
    return Predictions(instances, ("",), table.argmax(-1), table, ones, table)


def point(name: str, predictions: Predictions, weights: Any = None) -> float | None:
    return value(METRICS[name], predictions, weights)


# The score, by hand.

ROWS = [
    ("stereo", -1.0, -2.0),
    ("stereo", -3.0, -2.0),
    ("stereo", -4.0, -4.0),
    ("stereo", -1.0, -5.0),
    ("antistereo", -1.0, -2.0),
    ("antistereo", -2.0, -2.0),
]


def test_a_tie_counts_in_the_denominator_of_all_pairs_only() -> None:
    predictions = compared(ROWS)
    assert point("crows_pairs", predictions) == pytest.approx(3 / 6)
    assert point("crows_pairs_stereo", predictions) == pytest.approx(2 / 3)
    assert point("crows_pairs_antistereo", predictions) == pytest.approx(1 / 1)
    assert point("crows_pairs_ties", predictions) == pytest.approx(2 / 6)


def test_the_place_of_the_sentence_does_not_matter() -> None:
    predictions = compared(ROWS)
    assert predictions.compared is not None
    swapped = replace(
        predictions,
        instances=tuple(replace(i, stereotyped=1) for i in predictions.instances),
        compared=predictions.compared[..., ::-1],
    )
    for name in ("crows_pairs", "crows_pairs_stereo", "crows_pairs_antistereo"):
        assert point(name, swapped) == point(name, predictions)


def test_weights_repeat_pairs() -> None:
    weights = np.array([[1.0, 0.0, 2.0, 0.0, 0.0, 1.0], [0.0, 0.0, 3.0, 0.0, 0.0, 0.0]])
    values = evaluate_metric(METRICS["crows_pairs"], compared(ROWS), weights)[:, 0]
    assert values == pytest.approx([1 / 4, 0.0])
    stereo = evaluate_metric(METRICS["crows_pairs_stereo"], compared(ROWS), weights)[:, 0]
    assert stereo[0] == 1.0
    assert np.isnan(stereo[1])  # ties only: nothing is decided


def test_per_token_is_another_order() -> None:
    predictions = compared([("stereo", -4.0, -3.0), ("stereo", -3.0, -4.0)])
    longer = replace(predictions, n_tokens=np.array([[[4, 2], [3, 5]]]))
    assert point("crows_pairs", longer) == 0.5
    # -1 against -1.5, and -1 against -0.8
    assert point("crows_pairs_per_token", longer) == 0.5
    both = replace(predictions, n_tokens=np.array([[[4, 2], [5, 4]]]))
    assert point("crows_pairs_per_token", both) == 1.0
    nothing_shared = replace(
        predictions, log_likelihood=np.zeros((1, 2, 2)), n_tokens=np.zeros((1, 2, 2), dtype=int)
    )
    assert point("crows_pairs_per_token", nothing_shared) == 0.0


def test_scores_of_nothing_are_undefined() -> None:
    predictions = compared(ROWS)
    bare = replace(predictions, compared=None, log_likelihood=None, n_tokens=None)
    for name in METRICS:
        if name.startswith("crows_pairs"):
            assert point(name, predictions, np.zeros(6)) is None
            assert point(name, bare) is None
    only_stereo = compared(ROWS[:2])
    assert point("crows_pairs_antistereo", only_stereo) is None
    unknown = replace(only_stereo, instances=(pair(0, stereotyped=None), pair(1)))
    assert point("crows_pairs", unknown) == 0.0  # the first pair does not enter


# The file.

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"
GOOD = (
    f"{HEADER}"
    '0,"The old clerk, as ever, forgot.","The young clerk, as ever, forgot.",stereo,age,[]\n'
    "1,The old clerk learns quickly.,The young clerk learns quickly.,antistereo,age,[]\n"
    '2,"The old clerk, as ever, forgot.","The young clerk, as ever, forgot.",stereo,age,[]\n'
)


def test_pairs_of_a_file() -> None:
    first, second, again = parse(GOOD)
    assert first.options == (
        "The old clerk, as ever, forgot.",
        "The young clerk, as ever, forgot.",
    )
    assert (first.stereotyped, first.unrelated, first.gold) == (0, None, -1)
    assert first.group == "age"
    assert [i.fields["direction"] for i in (first, second, again)] == [
        "stereo",
        "antistereo",
        "stereo",
    ]
    # A pair that stands twice is drawn as one.
    assert [i.id for i in (first, second, again)] == ["pair-0", "pair-1", "pair-2"]
    assert [i.template for i in (first, second, again)] == ["pair-0", "pair-1", "pair-0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pairs"),
        (HEADER, "holds no pairs"),
        (f"{HEADER}0,a b,a c,stereo\n", r"line 2: has 4 cells but the header has 6"),
        (f"{HEADER}0,a b,a c,both,age,[]\n", r"line 2, field 'stereo_antistereo': must be \"ster"),
        (f"{HEADER}0,a b,,stereo,age,[]\n", r"line 2, field 'sent_less': missing; give the less"),
        (f"{HEADER}0,a b,a b,stereo,age,[]\n", r"line 2, field 'sent_less': equals sent_more"),
        ("sent_more\nx\n", r"line 2, field 'sent_less': missing"),
        (f'{HEADER}0,"a b,a c,stereo,age,[]\n', "not valid CSV"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(TaskFormatError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.real_data
def test_the_published_file() -> None:
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EXCISE_DATA", shared))
    if not (folder / "crows_pairs").is_dir():
        pytest.skip(f"no CrowS-Pairs in {folder}: set EXCISE_DATA")
    task = load_task("crows-pairs", data_dir=folder)
    assert isinstance(task, Task)
    assert (task.kind, task.normalisation, task.licence) == ("sentences", "total", "CC BY-SA 4.0")
    assert Counter(i.group for i in task.instances) == {
        "race-color": 516,
        "gender": 262,
        "socioeconomic": 172,
        "nationality": 159,
        "religion": 105,
        "age": 87,
        "sexual-orientation": 84,
        "physical-appearance": 63,
        "disability": 60,
    }
    directions = Counter(i.fields["direction"] for i in task.instances)
    assert directions == {"stereo": 1290, "antistereo": 218}
    assert len({i.template for i in task.instances}) == 1507  # one pair stands twice
    assert len({i.id for i in task.instances}) == 1508
    assert [m.name for m in metrics_of(task)] == [n for n in METRICS if n.startswith("crows")]


# Likelihoods of models that read on.


def sentences_task(
    instances: tuple[Instance, ...], normalisation: Any = "total", name: str = "pairs"
) -> Task:
    return Task(
        name=name,
        instances=instances,
        instructions=("",),
        prompt_format="{context}",
        licence="",
        citation="",
        digest="",
        kind="sentences",
        normalisation=normalisation,
    )


PAIRS = sentences_task(parse(GOOD))
TRIPLES = sentences_task(
    tuple(
        Instance(
            id=f"triple-{number}",
            fields={"context": context},
            options=("The old man was late.", "He met the young man", "Zebra?"),
            gold=-1,
            template="man",
            block=f"triple-{number}",
            stereotyped=0,
            unrelated=2,
        )
        for number, context in enumerate(["", "A market opened.", "", "An old man went by. "])
    ),
    "per_token",
    name="triples",
)


@torch.no_grad()
def naive(model: LoadedModel, context: str, sentence: str) -> tuple[float, int]:
    """Log-likelihood and number of tokens of one sentence on its own."""
    tokenizer = model.tokenizer
    if model.encoder_decoder:
        read = tokenizer(context).input_ids
        written = tokenizer(sentence).input_ids
        start = model.model.config.decoder_start_token_id
        logits = model.model(
            input_ids=torch.tensor([read]),
            decoder_input_ids=torch.tensor([[start, *written[:-1]]]),
        ).logits[0]
    else:
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else 1
        before = tokenizer(context, add_special_tokens=False).input_ids if context else []
        joint = f"{context} {sentence}" if context else sentence
        written = tokenizer(joint, add_special_tokens=False).input_ids[len(before) :]
        logits = model.model(torch.tensor([[begin, *before, *written[:-1]]])).logits[0]
        logits = logits[len(before) :]
    logs = logits.double().log_softmax(-1)
    return sum(float(logs[k, token]) for k, token in enumerate(written)), len(written)


@pytest.mark.parametrize("name", tiny.ALL)
@pytest.mark.parametrize("task", [PAIRS, TRIPLES], ids=["pairs", "triples"])
def test_sentences_are_scored_as_one_by_one(name: str, task: Task) -> None:
    model = tiny.loaded(name)
    finished: list[int] = []
    predictions = compare_sentences(
        model, task, task.instances, ScoringConfig(max_tokens=60), advance=finished.append
    )
    assert sum(finished) == len(task.instances)
    assert predictions.compared is not None
    assert predictions.n_tokens is not None
    assert predictions.log_likelihood is not None
    for n, instance in enumerate(task.instances):
        for c, option in enumerate(instance.options):
            total, count = naive(model, instance.fields["context"].strip(), option)
            assert predictions.n_tokens[0, n, c] == count
            assert predictions.log_likelihood[0, n, c] == pytest.approx(total, abs=1e-3)
            whole = task is PAIRS and not model.encoder_decoder
            expected = total if whole else total / count
            assert predictions.compared[0, n, c] == pytest.approx(expected, abs=1e-3)
    np.testing.assert_array_equal(predictions.choice, predictions.compared.argmax(-1))


@pytest.mark.parametrize(
    ("name", "task", "variant"),
    [
        ("llama", PAIRS, "causal: total log-likelihood of the sentence"),
        (
            "llama",
            TRIPLES,
            "causal: geometric mean token probability of the sentence; "
            "causal, no NSP head: mean log P(sentence | context)",
        ),
        ("t5", PAIRS, "encoder-decoder, mean log P(sentence | empty input)"),
        (
            "t5",
            TRIPLES,
            "encoder-decoder, mean log P(sentence | empty input); "
            "encoder-decoder, no NSP head: mean log P(sentence | context)",
        ),
    ],
)
def test_the_variant_is_that_of_the_task(name: str, task: Task, variant: str) -> None:
    """Named the same for every part of the task, whatever items it holds."""
    model = tiny.loaded(name)
    for instances in (task.instances[:1], task.instances[1:2], task.instances):
        assert compare_sentences(model, task, instances, SCORING).variant == variant


def test_what_precedes_a_sentence() -> None:
    """The beginning token, else the end token; never what the tokenizer adds, nor a template."""
    model = tiny.model("llama")
    expected = compare_sentences(tiny.loaded("llama", kind="bos"), PAIRS, PAIRS.instances, SCORING)
    for kind in ("bare", "chat", "eos"):
        loaded = wrap(model, tiny.tokenizer(kind))
        assert loaded.chat_template == (kind == "chat")
        got = compare_sentences(loaded, PAIRS, PAIRS.instances, SCORING)
        np.testing.assert_array_equal(got.log_likelihood, expected.log_likelihood)
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = None
    ended = compare_sentences(wrap(model, tokenizer), PAIRS, PAIRS.instances, SCORING)
    assert ended.log_likelihood is not None
    for n, instance in enumerate(PAIRS.instances):
        for c, option in enumerate(instance.options):
            total, _ = naive(wrap(model, tokenizer), "", option)
            assert ended.log_likelihood[0, n, c] == pytest.approx(total, abs=1e-3)
    assert not np.allclose(ended.log_likelihood, expected.log_likelihood)  # type: ignore[arg-type]
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither a beginning nor an end token"):
        compare_sentences(wrap(model, tokenizer), PAIRS, PAIRS.instances, SCORING)


def test_sentences_that_cannot_be_scored() -> None:
    instance = replace(PAIRS.instances[0], options=("Fine.", ""))
    with pytest.raises(ConfigError, match=r"'pair-0' has no tokens of its own"):
        compare_sentences(tiny.loaded("llama"), PAIRS, (instance,), SCORING)
    short = tiny.loaded("llama", max_position_embeddings=8)
    with pytest.raises(ConfigError, match=r"'pair-0' needs \d+ tokens, but 'tiny-llama' has 8"):
        compare_sentences(short, PAIRS, PAIRS.instances, SCORING)
    broken = tiny.loaded("llama")
    with torch.no_grad():
        broken.model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="'pair-0' is not finite"):
        compare_sentences(broken, PAIRS, PAIRS.instances, SCORING)


def test_a_task_of_sentences_is_asked_as_any_other() -> None:
    model = tiny.loaded("t5")
    answers = ask(model, TRIPLES, TRIPLES.instances, Preset())
    assert isinstance(answers, Predictions)
    whole = compare_sentences(model, TRIPLES, TRIPLES.instances, SCORING)
    np.testing.assert_array_equal(answers.compared, whole.compared)
    assert answers.instructions == ("",)
    assert point("stereoset_ss", answers) in (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.filterwarnings("ignore")
def test_totals_are_those_of_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval compares the likelihoods of both sentences behind nothing, too."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.api.instance import Instance as Request
    from lm_eval.models.huggingface import HFLM

    model = tiny.loaded("llama", kind="bare")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    theirs = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=1)
    requests = [
        Request("loglikelihood", {}, ("", option), 0)
        for instance in PAIRS.instances
        for option in instance.options
    ]
    got = [total for total, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
    ours = compare_sentences(model, PAIRS, PAIRS.instances, SCORING)
    assert ours.compared is not None
    assert ours.compared[0].ravel() == pytest.approx(got, abs=1e-3)
