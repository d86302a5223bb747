"""Greedy answers against an unbatched loop, and the option that an answer names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from excise.config import ScoringConfig
from excise.evaluation import predict
from excise.generation import _generate, generate_choices, match, normalise
from excise.metrics import METRICS, value
from excise.models import LoadedModel
from excise.scoring import prompt_text


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("The old man", 0),
        ("  the OLD man\n", 0),
        (" ..The old man. ", 0),
        ("The young man.", 1),
        ("Not known", 2),
        (". The old man", -1),  # white space goes before full stops do, not after
        ("The old man!", -1),
        ("The old", -1),
        ("The old man or the young man", -1),
        ("", -1),
        ("0", -1),
    ],
)
def test_an_answer_names_an_option_by_the_authors_rule(answer: str, index: int) -> None:
    assert match(answer, ("The old man", "the young man", "Not known.")) == index


def test_of_equal_options_the_first_is_named() -> None:
    assert match("yes", ("no", "Yes.", "yes")) == 1


def test_normalise_by_hand() -> None:
    assert normalise(" \t..Mr. Smith.. \n") == "mr. smith"


def loaded(name: str) -> LoadedModel:
    if name == "llama-chat":
        return tiny.loaded("llama", kind="chat")
    # transformers 5.23 cannot generate with more decoder layers than encoder layers.
    layers = {"num_decoder_layers": tiny.LAYERS} if name in tiny.SEQ2SEQ else {}
    return tiny.loaded(name, **layers)


@torch.no_grad()
def one_by_one(model: LoadedModel, text: str, steps: int) -> str:
    """Argmax, one token at a time, no batch, no cache."""
    special = not model.chat_template
    prompt = model.tokenizer(text, add_special_tokens=special).input_ids
    made: list[int] = []
    for _ in range(steps):
        if model.encoder_decoder:
            start = model.model.config.decoder_start_token_id
            logits = model.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *made]])
            ).logits
        else:
            logits = model.model(torch.tensor([prompt + made])).logits
        made.append(int(logits[0, -1].argmax()))
        if made[-1] == model.model.generation_config.eos_token_id:
            break
    answer: str = model.tokenizer.decode(made, skip_special_tokens=True)
    return answer


NAMES = ["llama", "mistral-window", "qwen2", "bloom", "t5", "mt5"]


def texts_of(model: LoadedModel) -> list[str]:
    task = tiny.task()
    return [prompt_text(model, task.prompt("Pick.", i)) for i in tiny.INSTANCES]


@pytest.mark.parametrize("name", [*NAMES, "llama-chat"])
def test_batched_answers_equal_those_one_by_one(name: str) -> None:
    model = loaded(name)
    texts = texts_of(model)
    expected = [one_by_one(model, text, 8) for text in texts]
    assert _generate(model, texts, 8) == expected
    assert any(expected)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_an_answer_stops_at_the_end_token(name: str) -> None:
    model = loaded(name)
    texts = texts_of(model)
    # Take a token that one prompt soon answers with as the end token.
    free = model.tokenizer(one_by_one(model, texts[0], 8), add_special_tokens=False).input_ids
    for token in free:
        model.model.generation_config.eos_token_id = token
        expected = [one_by_one(model, text, 8) for text in texts]
        assert _generate(model, texts, 8) == expected


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_choices_are_the_options_that_answers_equal(name: str, batch_size: int) -> None:
    model, task = loaded(name), tiny.task(prompt_format="{instruction} {context}")
    instances = []
    for number, instance in enumerate(tiny.INSTANCES):
        answer = one_by_one(model, prompt_text(model, task.prompt("Pick.", instance)), 5)
        # Every second answer is an option, at another place each time.
        options = ["no", "none", "never"]
        if number % 2 == 0:
            options[number // 2] = f" {answer.upper()}."
        instances.append(replace(instance, options=tuple(options), gold=0))
    told: list[int] = []
    got = generate_choices(
        model,
        task,
        "Pick.",
        instances,
        max_new_tokens=5,
        batch_size=batch_size,
        advance=told.append,
    )
    assert got == [0, -1, 1, -1, 2]
    assert sum(told) == 5
    config = ScoringConfig(mode="generation", max_new_tokens=5)
    predicted = predict(model, task, instances, config, instructions=["Pick.", "Who?"])
    assert predicted.choice[0].tolist() == got
    assert predicted.choice.shape == (2, 5)
    assert predicted.choice.dtype == np.int64
    assert predicted.log_likelihood is None
    assert predicted.n_tokens is None


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_unmatched_answers_are_counted_apart_and_never_as_unknown(name: str) -> None:
    """Half of what a real model generates equals an option, half equals none."""
    model, task = loaded(name), tiny.task(prompt_format="{instruction} {context}")
    instances = []
    for number, instance in enumerate(tiny.INSTANCES[:4]):
        said = one_by_one(model, prompt_text(model, task.prompt("Pick.", instance)), 5)
        # Items 0 and 1 are answered with the stereotyped option, items 2 and 3 with no option.
        options = ("never", said if number < 2 else "nothing that is said", "Cannot be known")
        ambiguous = number % 2 == 0
        instances.append(
            replace(
                instance,
                options=options,
                gold=2 if ambiguous else 1,
                unknown=2,
                stereotyped=1,
                condition="ambiguous" if ambiguous else "disambiguated",
            )
        )
    config = ScoringConfig(mode="generation", max_new_tokens=5)
    predicted = predict(model, task, instances, config, instructions=["Pick."])
    assert predicted.choice.tolist() == [[1, 1, -1, -1]]
    expected = {
        "unmatched": 2 / 4,
        # wrong answers: only item 1 is right
        "accuracy": 1 / 4,
        "accuracy_ambiguous": 0.0,
        "accuracy_disambiguated": 1 / 2,
        # item 0 alone is counted: accuracy 0, leans 1; with item 2 as unknown it would be 1/2
        "s_amb": 1.0,
        "s_dis": 1.0,
        "unknown_ambiguous": 0.0,
        "unknown_disambiguated": 0.0,
        "gold_probability_ambiguous": None,
    }
    assert {metric: value(METRICS[metric], predicted) for metric in expected} == expected


def test_encoder_decoder_prompts_are_the_same_in_both_modes() -> None:
    model = tiny.loaded("t5")
    assert prompt_text(model, "Your answer: ") == "Your answer: "
