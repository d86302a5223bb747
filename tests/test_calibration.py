"""CC and DC: by hand, against loops, and on a scorer with a planted bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import tiny
from excise.config import RunConfig, ScoringConfig, resolve
from excise.errors import ConfigError
from excise.evaluation import predict
from excise.methods import Fitting
from excise.methods.calibration import (
    Calibrated,
    ContentFree,
    ContextualCalibration,
    DomainCalibration,
    calibrated,
    random_texts,
)
from excise.types import Instance, Predictions, Split

SCORING = ScoringConfig()
TASK = tiny.task()
loaded = cache(tiny.loaded)
METHODS = (ContextualCalibration(), DomainCalibration())


def fitting(config: RunConfig | None = None, *, seed: int = 0, name: str = "llama") -> Fitting:
    split = Split(tiny.INSTANCES[:3], tiny.INSTANCES[3:4], tiny.INSTANCES[4:], "template")
    return Fitting(loaded(name), TASK, split, config or RunConfig(), seed)


def logs(values: Any) -> np.ndarray:
    return np.log(np.array(values, dtype=np.float64))


# --- the formula ----------------------------------------------------------------------------------


def test_two_options_by_hand() -> None:
    # p = 0.3 and 0.2 of everything a model could say: 0.6 and 0.4 of the two options. Without
    # content: means 0.2 and 0.1, that is 2/3 and 1/3. So q = 0.6 / (2/3) and 0.4 / (1/3).
    compared = logs([[[0.3, 0.2]]])
    content_free = logs([[[[0.2, 0.1]]], [[[0.1, 0.1]]], [[[0.3, 0.1]]]])
    q = np.exp(calibrated(compared, content_free))
    assert q == pytest.approx(np.array([[[0.9, 1.2]]]))


def test_the_mean_is_that_of_probabilities_before_they_are_normalised() -> None:
    # 0.88 to 0.32; were they normalised first, 0.8 + 0.4 to 0.2 + 0.6.
    content_free = logs([[[[0.8, 0.2]]], [[[0.08, 0.12]]]])
    q = np.exp(calibrated(logs([[[0.5, 0.5]]]), content_free))
    assert q == pytest.approx(np.array([[[0.5 / (0.88 / 1.2), 0.5 / (0.32 / 1.2)]]]))


def test_equal_content_free_scores_leave_the_order_alone() -> None:
    generator = np.random.default_rng(0)
    compared = generator.normal(-5, 3, (2, 50, 3))
    content_free = np.broadcast_to(generator.normal(-9, 2, (4, 2, 50, 1)), (4, 2, 50, 3))
    got = calibrated(compared, content_free)
    assert (got.argmax(-1) == compared.argmax(-1)).all()
    assert np.ptp(got - compared, axis=-1).max() < 1e-12


def test_tiny_probabilities_and_missing_options() -> None:
    compared = np.array([[[-900.0, -903.0, np.nan]]])
    content_free = np.array([[[[-2000.0, -2004.0, np.nan]]], [[[-2001.0, -2009.0, np.nan]]]])
    got = calibrated(compared, content_free)
    prior = [np.logaddexp(-2000, -2001), np.logaddexp(-2004, -2009)]
    assert got[0, 0, 1] - got[0, 0, 0] == pytest.approx(-3 - (prior[1] - prior[0]))
    assert np.isnan(got[0, 0, 2])
    assert np.isfinite(got[0, 0, :2]).all()


# --- asking ---------------------------------------------------------------------------------------


# Three options twice, the same ones, and two.
MIXED = (tiny.INSTANCES[0], tiny.INSTANCES[3], tiny.INSTANCES[1])


def by_hand(
    method: Calibrated, name: str, config: ScoringConfig, instructions: Sequence[str]
) -> np.ndarray:
    """Loops over instructions, instances and texts; every prompt scored by itself."""
    model = loaded(name)
    result = np.full((len(instructions), len(MIXED), 3), np.nan)
    for row, instruction in enumerate(instructions):
        for column, instance in enumerate(MIXED):

            def p(fields: dict[str, str], instance=instance, instruction=instruction) -> Any:
                asked = replace(instance, fields=fields)
                got = predict(model, TASK, [asked], config, instructions=[instruction])
                assert got.compared is not None
                return np.exp(got.compared[0, 0])

            own = p(dict(instance.fields))
            free: Any = 0.0
            for k in range(len(method.content_free)):
                texts = {
                    field: method.content_free.by_field.get(field, method.content_free.others)[k]
                    for field in instance.fields
                }
                free = free + p(texts)
            q = (own / own.sum()) / (free / free.sum())
            result[row, column, : len(q)] = np.log(q)
    return result


@pytest.mark.parametrize(
    ("method", "normalisation", "name"),
    [
        (METHODS[0], "auto", "llama"),
        (METHODS[0], "total", "llama"),
        (METHODS[0], "per_byte", "t5"),
        (METHODS[1], "auto", "llama"),
        (METHODS[1], "auto", "t5"),
    ],
)
def test_answers_equal_loops(method: Any, normalisation: str, name: str) -> None:
    config = resolve(
        {
            "calibration": {"random_texts": 3},
            "scoring": {"normalisation": normalisation},
        }
    )
    made = fitting(config, name=name)
    fitted = method.fit(made)
    got = fitted.answers(made.loaded, TASK, MIXED, config.scoring)
    assert got.compared is not None
    expected = by_hand(fitted, name, config.scoring, TASK.instructions)
    np.testing.assert_allclose(got.compared, expected, rtol=1e-3, atol=1e-3)
    assert (got.choice == np.nanargmax(got.compared, -1)).all()
    assert got.instructions == TASK.instructions
    # The log-likelihoods are those of the model.
    plain = predict(made.loaded, TASK, MIXED, config.scoring)
    np.testing.assert_array_equal(got.log_likelihood, plain.log_likelihood)
    np.testing.assert_array_equal(got.n_tokens, plain.n_tokens)
    assert (got.compared != plain.compared).any()


class Biased:
    """A scorer in the place of a model: what a question says, plus what options are by themselves.

    `by_place` favours the first place, `by_label` some words, wherever they stand.
    """

    def __init__(self, instances: Sequence[Instance], *, place: float, label: float) -> None:
        generator = np.random.default_rng(3)
        self.signal = {i.id: generator.normal(size=len(i.options)) for i in instances}
        self.place, self.label = place, label
        self.asked: list[tuple[str, Instance]] = []

    def __call__(
        self,
        loaded: Any,
        task: Any,
        instances: Any,
        config: Any,
        *,
        instructions: Any,
        advance: Any,
    ) -> Predictions:
        compared = np.full((len(instructions), len(instances), 3), np.nan)
        for i, instruction in enumerate(instructions):
            for n, instance in enumerate(instances):
                self.asked.append((instruction, instance))
                for o, option in enumerate(instance.options):
                    prior = self.place * (o == 0) + self.label * (hash_of(option + instruction))
                    compared[i, n, o] = prior + self.signal.get(instance.id, np.zeros(9))[o]
        if advance:
            advance(len(instructions) * len(instances))
        return Predictions(
            tuple(instances),
            tuple(instructions),
            np.nanargmax(compared, -1),
            compared,
            None,
            compared,
        )


def hash_of(text: str) -> float:
    return sum(map(ord, text)) % 7 / 7


def many() -> tuple[Instance, ...]:
    words = ("The old man", "The young man", "Cannot be known", "Nobody")
    return tuple(
        tiny.instance(
            n, f"Context {n}.", tuple(words[(n + k) % 4] for k in range(2 + n % 3 % 2)), 0
        )
        for n in range(24)
    )


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize(("place", "label"), [(0.0, 0.0), (5.0, 0.0), (0.0, 5.0), (4.0, 4.0)])
def test_a_planted_bias_of_place_or_label_is_removed(
    method: Any, place: float, label: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = many()
    scorer = Biased(instances, place=place, label=label)
    monkeypatch.setattr("excise.methods.calibration.predict", scorer)
    done: list[int] = []
    got = method.fit(fitting()).answers(
        loaded("llama"),
        TASK,
        instances,
        SCORING,
        instructions=("a", "b"),
        advance=done.append,
    )
    right = [int(scorer.signal[i.id].argmax()) for i in instances]
    assert got.choice.tolist() == [right, right]
    plain = [
        int(np.argmax(scorer.signal[i.id] + place * np.eye(9)[0, : len(i.options)]))
        for i in instances
    ]
    assert (plain != right) == (place > 0)
    # Options repeat: 4 pairs and 4 triples, each asked once for every text.
    distinct = len({i.options for i in instances})
    texts = len(method.fit(fitting()).content_free)
    assert distinct == 8
    assert sum(done) == len(scorer.asked) == 2 * (len(instances) + texts * distinct)


def test_fields_of_any_task_are_replaced_and_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = replace(tiny.INSTANCES[3], fields={"sentence1": "A cat sat.", "sentence2": "It sat."})
    scorer = Biased([pair], place=1.0, label=0.0)
    monkeypatch.setattr("excise.methods.calibration.predict", scorer)
    method = ContextualCalibration().fit(fitting())
    method.answers(loaded("llama"), TASK, [pair], SCORING, instructions=("a",))
    assert [i.fields for _, i in scorer.asked[1:]] == [
        {"sentence1": text, "sentence2": text} for text in ("N/A", "[MASK]", "")
    ]
    assert {i.options for _, i in scorer.asked} == {pair.options}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_generated_answers_are_refused_in_one_line(method: Any) -> None:
    generation = resolve({"scoring": {"mode": "generation"}})
    with pytest.raises(ConfigError, match=r"^method '.c' divides .* leave the method out\.$"):
        method.fit(fitting(generation))
    with pytest.raises(ConfigError, match="generated answers have none"):
        method.fit(fitting()).answers(loaded("llama"), TASK, tiny.INSTANCES, generation.scoring)


# --- random texts ---------------------------------------------------------------------------------


def texts_of(*pairs: tuple[str, str]) -> list[Instance]:
    return [
        replace(tiny.INSTANCES[0], fields={"context": context, "question": question})
        for context, question in pairs
    ]


def test_random_texts_have_the_mean_length_and_the_words_of_their_field() -> None:
    instances = texts_of(("One two  THREE four", "who"), ("five\tsix seven", "what is it"))
    made = random_texts(instances, 200, seed=0)
    words = {"context": "one two three four five six seven", "question": "who what is it"}
    for field, vocabulary in words.items():
        drawn = [text.split(" ") for text in made.by_field[field]]
        # 3.5 words are 3, and the full stop; 2 words are 2.
        assert {len(text) for text in drawn} == {{"context": 3, "question": 2}[field] + 1}
        assert {text[-1] for text in drawn} == {"."}
        assert {word for text in drawn for word in text[:-1]} == set(vocabulary.split())
    # Fields of another task: 11 words in 4 texts.
    others = [text.split(" ") for text in made.others]
    assert {len(text) for text in others} == {2 + 1}
    assert {w for t in others for w in t[:-1]} == set(" ".join(words.values()).split())


def test_words_are_drawn_by_their_frequency() -> None:
    made = random_texts(texts_of(("a a a b", "x"), ("a a a b", "x")), 2000, seed=1)
    counts = Counter(word for text in made.by_field["context"] for word in text.split())
    assert counts["."] == 2000
    assert counts["a"] / (counts["a"] + counts["b"]) == pytest.approx(0.75, abs=0.02)


def test_the_seed_decides_and_fewer_texts_are_the_first_of_more() -> None:
    same = [random_texts(tiny.INSTANCES, 20, seed=4) for _ in range(2)]
    assert same[0] == same[1]
    assert random_texts(tiny.INSTANCES, 20, seed=5) != same[0]
    few = random_texts(tiny.INSTANCES, 7, seed=4)
    assert few.others == same[0].others[:7]
    assert few.by_field == {name: t[:7] for name, t in same[0].by_field.items()}


def test_a_field_without_words_becomes_a_full_stop() -> None:
    made = random_texts(texts_of(("", "who"), ("", "who")), 2, seed=0)
    assert made.by_field == {"context": (".", "."), "question": ("who .", "who .")}


def test_domain_words_come_from_find_alone() -> None:
    fitted = DomainCalibration().fit(fitting())
    assert isinstance(fitted, Calibrated)
    assert len(fitted.content_free) == 20
    find = {w for i in tiny.INSTANCES[:3] for text in i.fields.values() for w in text.split()}
    drawn = {w for t in fitted.content_free.by_field["context"] for w in t.split()}
    assert drawn <= {word.lower() for word in find} | {"."}
    assert "zebra" not in drawn  # stands in tune only
    other = DomainCalibration().fit(fitting(seed=1))
    assert other.describe() != fitted.describe()


def test_another_task_gets_a_text_for_every_field() -> None:
    made = ContentFree({"context": ("c0", "c1")}, ("o0", "o1"))
    pair = replace(tiny.INSTANCES[0], fields={"context": "x", "sentence": "y"})
    assert made.put_into(pair, 1).fields == {"context": "c1", "sentence": "o1"}
    assert made.put_into(pair, 1).options == pair.options
