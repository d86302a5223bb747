"""Sampled continuations against a loop that draws one token at a time, without batch or cache."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from excise.config import ContinuationConfig
from excise.errors import ConfigError, NonFiniteError
from excise.models import LoadedModel
from excise.sampling import draw, sample_continuations, uniform_noise
from excise.types import FloatArray

TEXTS = (
    "The old man was late. ",
    "An old man and a young man met at the market, and the young man",
    "Zebra 17",
    "The grandson",
)
IDS = ("one", "two", "three", "four")


def config(**given: Any) -> ContinuationConfig:
    usual = {"continuations": 2, "max_new_tokens": 6, "top_p": 0.8, "temperature": 3.0}
    return ContinuationConfig(**usual | given)


def loaded(name: str, **given: Any) -> LoadedModel:
    # transformers 5.23 cannot generate with more decoder layers than encoder layers.
    layers = {"num_decoder_layers": tiny.LAYERS} if name in tiny.SEQ2SEQ else {}
    return tiny.loaded(name, **layers, **given)


# --- one token ------------------------------------------------------------------------------------


def nucleus(p: FloatArray, top_p: float) -> list[int]:
    """The definition: sort, add up, stop when there is enough."""
    order = sorted(range(len(p)), key=lambda token: (-p[token], token))
    kept, mass = [], 0.0
    for token in order:
        kept.append(token)
        mass += p[token]
        if mass >= top_p:
            break
    return kept


def by_hand(logits: FloatArray, uniform: FloatArray, temperature: float, top_p: float) -> int:
    """Softmax, nucleus by sorting, Gumbel noise, argmax."""
    shifted = np.exp((logits - logits.max()) / temperature)
    p = shifted / shifted.sum()
    allowed = range(len(p)) if top_p >= 1 else nucleus(p, top_p)
    with np.errstate(divide="ignore"):
        return max(allowed, key=lambda t: np.log(p[t]) - np.log(-np.log(uniform[t])))


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_a_drawn_token_is_the_best_of_the_sorted_nucleus(top_p: float) -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(300, 40)) * 2
    logits[:100] = np.round(logits[:100])  # many ties
    logits[100:150, 7:] = -np.inf
    uniform = generator.uniform(0.001, 0.999, size=logits.shape)
    got = draw(torch.tensor(logits), torch.tensor(uniform), temperature=1.3, top_p=top_p).tolist()
    assert got == [by_hand(*row, 1.3, top_p) for row in zip(logits, uniform, strict=True)]


def frequencies(p: list[float], temperature: float, top_p: float, n: int = 20_000) -> FloatArray:
    uniform = np.stack([uniform_noise(3, "prompt", 0, step, len(p)) for step in range(n)])
    logits = torch.tensor(p).log().expand(n, -1)
    tokens = draw(logits, torch.tensor(uniform), temperature=temperature, top_p=top_p)
    return np.bincount(tokens.numpy(), minlength=len(p)) / n


# The standard error of a share of 20,000 draws is at most 0.0036.
P = [0.05, 0.5, 0.15, 0.3]


def test_without_a_nucleus_tokens_come_as_often_as_softmax_says() -> None:
    np.testing.assert_allclose(frequencies(P, 1.0, 1.0), P, atol=0.014)


def test_temperature_is_an_exponent_of_the_probabilities() -> None:
    powers = np.array(P) ** 2
    np.testing.assert_allclose(frequencies(P, 0.5, 1.0), powers / powers.sum(), atol=0.014)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, [1]), (0.6, [1, 3]), (0.79, [1, 3]), (0.81, [1, 2, 3])]
)
def test_the_nucleus_is_kept_exactly_and_renormalised(top_p: float, kept: list[int]) -> None:
    found = frequencies(P, 1.0, top_p)
    assert np.flatnonzero(found).tolist() == kept
    expected = [p / sum(P[t] for t in kept) for p in (P[t] for t in kept)]
    np.testing.assert_allclose(found[kept], expected, atol=0.014)


def test_noise_depends_on_everything_that_names_it_and_on_nothing_else() -> None:
    named = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    drawn = [uniform_noise(*name, 1000) for name in named]
    again = [uniform_noise(*name, 1000) for name in reversed(named)][::-1]
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)
    correlations = np.corrcoef(drawn) - np.eye(5)
    assert np.abs(correlations).max() < 0.15
    flat = np.concatenate(drawn)
    assert flat.min() > 0
    assert flat.max() < 1
    assert abs(flat.mean() - 0.5) < 0.02
    assert abs(flat.var() - 1 / 12) < 0.005
    # One continuation's noise is not another's, shifted.
    long = uniform_noise(0, "a", 0, 0, 5000)
    assert not set(long) & set(drawn[4])


# --- whole continuations --------------------------------------------------------------------------


@torch.no_grad()
def tokens_one_by_one(
    model: LoadedModel, text: str, id: str, k: int, how: ContinuationConfig
) -> list[int]:
    """No batch, no cache, no padding, the nucleus by sorting."""
    prompt = model.tokenizer(text.rstrip()).input_ids
    ends = {model.model.generation_config.eos_token_id, model.tokenizer.eos_token_id}
    if not model.encoder_decoder:
        ends |= set(model.tokenizer.all_special_ids)
    made: list[int] = []
    for step in range(how.max_new_tokens):
        if model.encoder_decoder:
            start = model.model.config.decoder_start_token_id
            logits = model.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *made]])
            ).logits
        else:
            logits = model.model(torch.tensor([prompt + made])).logits
        last = logits[0, -1].double().numpy()
        uniform = uniform_noise(how.seed, id, k, step, len(last))
        token = by_hand(last, uniform, how.temperature, how.top_p)
        if token in ends:
            break
        made.append(token)
    return made


def one_by_one(model: LoadedModel, how: ContinuationConfig) -> tuple[tuple[str, ...], ...]:
    """All texts, as strings."""
    return tuple(
        tuple(
            model.tokenizer.decode(
                tokens_one_by_one(model, text, id, k, how), skip_special_tokens=True
            ).strip()
            for k in range(how.continuations)
        )
        for text, id in zip(TEXTS, IDS, strict=True)
    )


NAMES = ["llama", "mistral-window", "qwen2", "bloom", "t5", "mt5"]


@pytest.mark.parametrize("name", NAMES)
def test_batched_continuations_equal_those_one_by_one(name: str) -> None:
    model, how = loaded(name), config(seed=7, batch_size=3)
    found = sample_continuations(model, TEXTS, IDS, how)
    assert found == one_by_one(model, how)
    assert len({text for row in found for text in row}) == 8


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_continuation_ends_at_the_end_token(name: str) -> None:
    model, how = loaded(name), config(top_p=1.0)
    free = tokens_one_by_one(model, TEXTS[0], IDS[0], 1, how)
    before = sample_continuations(model, TEXTS, IDS, how)
    model.model.generation_config.eos_token_id = free[-1]
    got = sample_continuations(model, TEXTS, IDS, how)
    assert got == one_by_one(model, how)
    assert got[0][1] == model.tokenizer.decode(free[: free.index(free[-1])]).strip()
    assert got[0][1] != before[0][1]


@pytest.mark.parametrize("ends", [None, [tiny.END, 5]])
def test_end_tokens_may_be_several_or_none(ends: list[int] | None) -> None:
    model = loaded("llama")
    model.model.generation_config.eos_token_id = ends
    assert all(map(all, sample_continuations(model, TEXTS, IDS, config())))


def test_a_decoder_stops_where_another_text_begins() -> None:
    model = loaded("llama")
    # The head is made to want nothing but the token that opens a text.
    with torch.no_grad():
        model.model.lm_head.weight.data = torch.zeros(tiny.VOCABULARY, tiny.HIDDEN)
        bias = torch.full((tiny.VOCABULARY,), -50.0)
        bias[tiny.BEGIN] = 50.0
        model.model.lm_head.bias = torch.nn.Parameter(bias)
    assert sample_continuations(model, TEXTS, IDS, config()) == ((("",) * 2),) * 4


@pytest.mark.parametrize("name", ["llama", "bloom", "t5"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_samples_depend_on_neither_batch_nor_order_nor_company(name: str, batch_size: int) -> None:
    model = loaded(name)
    whole = sample_continuations(model, TEXTS, IDS, config(batch_size=16))
    assert whole == sample_continuations(model, TEXTS, IDS, config(batch_size=batch_size))
    backwards = sample_continuations(model, TEXTS[::-1], IDS[::-1], config(batch_size=batch_size))
    assert whole == backwards[::-1]
    assert whole[2:3] == sample_continuations(model, TEXTS[2:3], IDS[2:3], config())
    fewer = sample_continuations(model, TEXTS, IDS, config(continuations=1))
    assert [row[0] for row in whole] == [row[0] for row in fewer]


def test_samples_depend_on_seed_name_and_number() -> None:
    model = loaded("llama")
    one, other = (sample_continuations(model, TEXTS, IDS, config(seed=seed)) for seed in (0, 1))
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert all(first != second for first, second in one)
    renamed = sample_continuations(model, TEXTS, ("v", "w", "x", "y"), config())
    assert all(a != b for a, b in zip(one, renamed, strict=True))


def test_two_states_of_a_model_see_the_same_noise() -> None:
    model = loaded("llama")
    how = config(continuations=20, max_new_tokens=2)
    before = sample_continuations(model, TEXTS, IDS, how)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(1.001)
    after = sample_continuations(model, TEXTS, IDS, how)
    pairs = [(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(a == b for a, b in pairs) > 0.9 * len(pairs)
    fresh = sample_continuations(model, TEXTS, IDS, how.model_copy(update={"seed": 1}))
    chance = [(a, b) for x, y in zip(before, fresh, strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(a == b for a, b in chance) < 0.2 * len(chance)


def test_the_checkpoints_own_generation_settings_do_not_count_and_come_back() -> None:
    model = loaded("llama")
    plain = sample_continuations(model, TEXTS, IDS, config())
    own = model.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.min_new_tokens = 5.0, 1, 6
    kept = copy.deepcopy(own.to_dict())
    assert sample_continuations(model, TEXTS, IDS, config()) == plain
    assert model.model.generation_config is own
    assert own.to_dict() == kept


def test_no_chat_template_is_applied() -> None:
    chat, bare = loaded("qwen2", kind="chat"), loaded("qwen2", kind="bare")
    assert chat.chat_template
    assert not bare.chat_template
    one, other = (sample_continuations(m, TEXTS, IDS, config()) for m in (chat, bare))
    assert one == other


def test_a_closing_token_of_the_tokenizer_is_not_read_by_a_decoder() -> None:
    closing, bare = loaded("qwen2", kind="eos"), loaded("qwen2", kind="bare")
    one, other = (sample_continuations(m, TEXTS, IDS, config()) for m in (closing, bare))
    assert one == other


@pytest.mark.parametrize("batch_size", [1, 3, 5, 16])
def test_progress_counts_finished_prompts(batch_size: int) -> None:
    told: list[int] = []
    how = config(batch_size=batch_size, max_new_tokens=1)
    sample_continuations(loaded("llama"), TEXTS, IDS, how, advance=told.append)
    assert sum(told) == 4
    assert min(told) >= 1


def test_no_prompts_give_no_continuations() -> None:
    assert sample_continuations(loaded("llama"), (), (), config()) == ()


@pytest.mark.parametrize(
    ("texts", "ids", "message"),
    [
        (("fine", " \n "), ("a", "b"), "prompt 'b' has no text to continue; leave it out."),
        (("fine", "too"), ("a", "a"), "prompts need names of their own"),
        (("the market " * 300,), ("a",), r"prompt 'a' needs \d+ tokens .* has 512 positions"),
    ],
)
def test_prompts_that_cannot_be_continued(
    texts: tuple[str, ...], ids: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_continuations(loaded("llama"), texts, ids, config())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_distribution_that_is_none_is_an_error(broken: float) -> None:
    model = loaded("qwen2")
    own = model.model.generation_config
    with torch.no_grad():
        model.model.lm_head.weight[3] = broken
    with pytest.raises(NonFiniteError, match="prompt 'three' is not finite; use --dtype float32"):
        sample_continuations(model, TEXTS[2:3], IDS[2:3], config())
    assert model.model.generation_config is own
