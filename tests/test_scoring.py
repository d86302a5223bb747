"""Scoring engines against a naive loop, token ids of prompts and options, choice of an option."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from excise.config import ScoringConfig
from excise.errors import ConfigError, NonFiniteError
from excise.evaluation import predict
from excise.evaluation.choices import byte_counts, likeliest, normalised
from excise.models import LoadedModel
from excise.scoring import EncodedPrompt, encode, prompt_text, scorer_for
from excise.scoring.memory import Budget, budget
from excise.scoring.plain import PlainScorer
from excise.scoring.prefix_tree import PrefixTreeScorer
from excise.scoring.rows import log_likelihoods
from excise.scoring.seq2seq import Seq2SeqScorer
from excise.scoring.tree import prefix_tree

loaded = cache(tiny.loaded)


@torch.no_grad()
def naive(model: LoadedModel, item: EncodedPrompt) -> list[float]:
    """Every option on its own, no padding, no sharing, no mask."""
    totals = []
    for option in item.options:
        if model.encoder_decoder:
            start = model.model.config.decoder_start_token_id
            logits = model.model(
                input_ids=torch.tensor([item.prompt]),
                decoder_input_ids=torch.tensor([(start, *option[:-1])]),
            ).logits[0]
            first = 0
        else:
            logits = model.model(torch.tensor([item.prompt + option])).logits[0]
            first = len(item.prompt) - 1
        total = 0.0
        for place, token in enumerate(option):
            total += float(logits[first + place].double().log_softmax(-1)[token])
        totals.append(total)
    return totals


def assert_scores(
    model: LoadedModel, items: list[EncodedPrompt], max_tokens: int, scorer: Any = None
) -> None:
    scorer = scorer or scorer_for(model, max_tokens=max_tokens)
    finished: list[int] = []
    scored = scorer.score(items, finished.append)
    assert sum(finished) == len(items) == len(scored)
    for item, values in zip(items, scored, strict=True):
        assert values == pytest.approx(naive(model, item), abs=1e-4, rel=2e-6)


def hard_items() -> list[EncodedPrompt]:
    """Options of one to nine tokens, duplicates, prompts that are prefixes of others."""
    rng = random.Random(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, tiny.VOCABULARY) for _ in range(n))

    system = tokens(30)
    short = system + tokens(5)
    longer = short + tokens(9)
    return [
        EncodedPrompt(longer, (tokens(1), tokens(4), tokens(9))),
        EncodedPrompt(short, (tokens(2), tokens(3))),
        EncodedPrompt(tokens(3), tuple(tokens(n) for n in (1, 2, 3, 4, 5))),
        EncodedPrompt(longer, (tokens(1), tokens(2), tokens(3))),  # the same prompt again
        EncodedPrompt(system + tokens(20), ((7, 8, 9), (7, 8, 10), (7, 8))),  # shared starts
        EncodedPrompt(short, (longer[len(short) :], longer[len(short) : -2])),  # a prompt goes on
        EncodedPrompt(system, (tokens(1), tokens(1))),  # one-token options, and a prefix of all
        EncodedPrompt((5,), (tokens(1), tokens(3))),  # a prompt of one token
        EncodedPrompt(longer, (tokens(1), tokens(2), tokens(3))),
    ]


@pytest.mark.parametrize("name", tiny.ALL)
@pytest.mark.parametrize("max_tokens", [1, 60, 5000])
def test_the_engine_equals_a_naive_loop(name: str, max_tokens: int) -> None:
    model = loaded(name)
    items = hard_items()
    if model.encoder_decoder:
        items = [EncodedPrompt(i.prompt, tuple((*o, tiny.END) for o in i.options)) for i in items]
    assert_scores(model, items, max_tokens)


@pytest.mark.parametrize("name", tiny.ALL)
@pytest.mark.parametrize("max_tokens", [100, 768])
def test_the_engine_equals_a_naive_loop_on_texts(name: str, max_tokens: int) -> None:
    model = loaded(name)
    for instruction in tiny.task().instructions:
        items = encode(model, tiny.task(), instruction, tiny.INSTANCES, end_token=True)
        assert_scores(model, items, max_tokens)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_the_plain_engine_equals_a_naive_loop(name: str) -> None:
    for max_tokens in (1, 90, 5000):
        assert_scores(
            loaded(name), hard_items(), 0, PlainScorer(loaded(name), max_tokens=max_tokens)
        )


@pytest.mark.parametrize("max_tokens", [1, 40, 80, 120, 5000])
def test_the_order_of_prompts_changes_nothing(max_tokens: int) -> None:
    model = loaded("llama")
    items = hard_items()
    for seed in range(4):
        random.Random(seed).shuffle(items)
        assert_scores(model, items, max_tokens)


def test_one_scorer_serves_several_lists() -> None:
    # The cached trunk of one list must not leak into the next.
    model = loaded("llama")
    scorer = scorer_for(model, max_tokens=60)
    items = hard_items()
    assert_scores(model, items, 0, scorer)
    assert_scores(model, items[::-1], 0, scorer)
    assert_scores(model, items[4:5], 0, scorer)
    assert scorer.score([]) == []


def test_a_scorer_follows_changed_weights() -> None:
    # As when the same one is asked before and after a patch: the cached trunk is of old weights.
    model = tiny.loaded("llama")
    scorer = scorer_for(model, max_tokens=60)
    assert_scores(model, hard_items(), 0, scorer)
    with torch.no_grad():
        model.linear("model.layers.0.self_attn.v_proj").weight.mul_(-1)
    assert_scores(model, hard_items(), 0, scorer)


TOKEN = st.integers(3, 9)  # few tokens, so that prefixes are shared often
OPTION = st.lists(TOKEN, min_size=1, max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(
    shared=st.lists(TOKEN, max_size=24),
    drawn=st.lists(
        st.tuples(
            st.booleans(), st.lists(TOKEN, min_size=1, max_size=6), st.lists(OPTION, min_size=2)
        ),
        min_size=1,
        max_size=7,
    ),
    max_tokens=st.sampled_from([1, 20, 50, 1000]),
)
def test_any_tokens_score_as_in_a_naive_loop(
    shared: list[int],
    drawn: list[tuple[bool, list[int], list[tuple[int, ...]]]],
    max_tokens: int,
) -> None:
    items = [
        EncodedPrompt(tuple(shared * begins + own), tuple(options[:4]))
        for begins, own, options in drawn
    ]
    assert_scores(loaded("llama"), items, max_tokens)


@pytest.mark.parametrize("name", tiny.ALL)
def test_the_company_of_a_prompt_changes_nothing(name: str) -> None:
    model = loaded(name)
    items = encode(model, tiny.task(), "Pick.", tiny.INSTANCES, end_token=False)
    together = scorer_for(model, max_tokens=5000).score(items)
    for item, values in zip(items, together, strict=True):
        assert scorer_for(model).score([item])[0] == pytest.approx(values, abs=1e-4)


def test_each_model_gets_the_fastest_exact_engine() -> None:
    engines = {
        name: type(scorer_for(loaded(name))) for name in (*tiny.CAUSAL, "t5", "t5-gated", "mt5")
    }
    expected = {
        "llama": PrefixTreeScorer,
        "mistral": PrefixTreeScorer,
        "qwen2": PrefixTreeScorer,
        "mistral-window": PrefixTreeScorer,
        "bloom": PlainScorer,
        "t5": Seq2SeqScorer,
        "t5-gated": Seq2SeqScorer,
        "mt5": Seq2SeqScorer,
    }
    assert {name: engines[name] for name in expected} == expected


@pytest.mark.parametrize("max_tokens", [30, 768])
def test_windows_of_some_layers_are_followed_in_the_tree(max_tokens: int) -> None:
    window = tiny.loaded("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert window.model.config.layer_types == ["full_attention", "sliding_attention"]
    assert isinstance(scorer_for(window), PrefixTreeScorer)
    assert_scores(window, hard_items(), max_tokens)


def test_a_window_changes_the_scores() -> None:
    # Otherwise the tests above would be of windows that nothing reaches beyond.
    model = tiny.loaded("mistral-window")
    with_window = scorer_for(model).score(hard_items())
    model.model.config.sliding_window = None
    assert scorer_for(model).score(hard_items())[0] != pytest.approx(with_window[0], abs=1e-2)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("llama", "attn_logit_softcapping", 30.0),
        ("llama", "layer_types", ["full_attention", "chunked_attention"]),
        ("llama", "rope_parameters", {"rope_type": "dynamic", "factor": 2.0}),
        ("llama", "rope_parameters", {"full_attention": {"rope_type": "longrope"}}),
    ],
)
def test_what_a_tree_would_compute_wrongly_is_scored_plainly(
    name: str, setting: str, value: Any
) -> None:
    model = tiny.loaded(name)
    assert isinstance(scorer_for(model), PrefixTreeScorer)
    setattr(model.model.config, setting, value)
    assert isinstance(scorer_for(model), PlainScorer)


def test_attention_that_cannot_be_replaced_is_scored_plainly() -> None:
    model = tiny.loaded("llama")
    model.model._supports_attention_backend = False
    assert isinstance(scorer_for(model), PlainScorer)


def test_positions_that_depend_on_the_length_would_be_wrong_in_a_tree() -> None:
    # Why they are scored plainly: the longest prompt of a tree would rescale the others.
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    model = tiny.loaded("llama", rope_parameters=rope, max_position_embeddings=24)
    items = hard_items()[:3]
    assert isinstance(scorer_for(model), PlainScorer)
    tree = PrefixTreeScorer(model, max_tokens=5000).score(items)
    assert tree[2] != pytest.approx(naive(model, items[2]), abs=1e-3)


def test_eager_attention_scores_the_same() -> None:
    # Eager attention adds its mask: a boolean one would forbid nothing.
    model = tiny.loaded("llama")
    model.model.set_attn_implementation("eager")
    assert_scores(model, hard_items(), 90)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_model_gets_its_own_attention_back(kernel: str) -> None:
    model = tiny.loaded("llama")
    model.model.set_attn_implementation(kernel)
    scorer_for(model).score(hard_items())
    assert model.model.config._attn_implementation == kernel
    with pytest.raises(IndexError):
        scorer_for(model).score([EncodedPrompt((5, tiny.VOCABULARY), ((3,), (4,)))])
    assert model.model.config._attn_implementation == kernel


# What is computed.


def token_embeddings(model: LoadedModel) -> list[torch.nn.Embedding]:
    """All of them: the encoder's and the decoder's may be two modules that share weights."""
    return [
        module
        for module in model.model.modules()
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == tiny.VOCABULARY
    ]


class Counted:
    """Tokens that go into a model and rows of logits that come out, while a test runs."""

    def __init__(self, model: LoadedModel) -> None:
        self.tokens: list[int] = []
        self.rows: list[int] = []
        for embeddings in token_embeddings(model):
            embeddings.register_forward_pre_hook(self._embed)
        model.model.get_output_embeddings().register_forward_hook(self._score)

    def _embed(self, _module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self.tokens.append(inputs[0].numel())

    def _score(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self.rows.append(output.shape[:-1].numel())


def distinct(items: list[EncodedPrompt]) -> tuple[int, int]:
    """Distinct prefixes of all prompts with options, and those that predict an option's token."""
    texts = [(item.prompt, option) for item in items for option in item.options]
    prefixes = {(p + o[:-1])[:n] for p, o in texts for n in range(1, len(p) + len(o))}
    predicting = {(p + o)[:n] for p, o in texts for n in range(len(p), len(p) + len(o))}
    return len(prefixes), len(predicting)


@pytest.mark.parametrize("max_tokens", [7, 64, 5000])
def test_each_distinct_prefix_is_computed_once(max_tokens: int) -> None:
    model = tiny.loaded("llama")
    items = hard_items() + encode(model, tiny.task(), "P.", tiny.INSTANCES, end_token=True)
    expected_tokens, expected_rows = distinct(items)
    assert expected_tokens < sum(len(i.prompt) + len(o) - 1 for i in items for o in i.options) / 3
    counted = Counted(model)
    scorer_for(model, max_tokens=max_tokens).score(items)
    assert sum(counted.tokens) == expected_tokens
    assert max(counted.tokens) <= max_tokens
    # A run that predicts nothing still has a row of logits.
    silent = sum(rows == 1 for rows in counted.rows)
    assert expected_rows <= sum(counted.rows) <= expected_rows + silent


def test_the_tree_lists_nodes_in_preorder() -> None:
    items = [
        EncodedPrompt((5, 6), ((7, 8), (9,))),
        EncodedPrompt((5, 6, 7), ((4,), (3, 3))),
    ]
    # 5 - 6 - 7 - 3: the option "7 8" begins as the longer prompt does.
    tree = prefix_tree(items)
    assert tree.tokens.tolist() == [5, 6, 7, 3]
    assert tree.depths.tolist() == [0, 1, 2, 3]
    assert tree.ends.tolist() == [4, 4, 4, 4]
    scored = zip(tree.predicting, tree.targets, tree.prompts, tree.options, strict=True)
    assert sorted((int(a), int(b), int(c), int(d)) for a, b, c, d in scored) == [
        (1, 7, 0, 0),
        (1, 9, 0, 1),
        (2, 3, 1, 1),
        (2, 4, 1, 0),
        (2, 8, 0, 0),
        (3, 3, 1, 1),
    ]
    assert tree.finished().tolist() == [2, 3]


def test_a_run_ends_at_either_limit() -> None:
    tree = prefix_tree([EncodedPrompt((5, 6, 7), ((1, 2, 3), (4, 4)))])
    assert tree.tokens.tolist() == [5, 6, 7, 1, 2, 4]  # nodes 2 to 5 predict something
    assert tree.cut(0, 4, 100) == 4
    assert tree.cut(0, 100, 100) == 6
    assert tree.cut(0, 100, 2) == 4
    assert tree.cut(2, 100, 1) == 3
    assert tree.cut(5, 100, 1) == 6


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_the_encoder_reads_a_prompt_once_and_the_decoder_a_beginning_once(name: str) -> None:
    model = tiny.loaded(name)
    prompt = (5, 6, 7, tiny.END)
    items = [
        EncodedPrompt(prompt, ((8, 9, tiny.END), (8, 10, tiny.END), (11, tiny.END))),
        EncodedPrompt(prompt, ((8, 9, tiny.END), (tiny.END,))),
        EncodedPrompt((3, 4, 6, tiny.END), ((8, tiny.END), (9, tiny.END))),
    ]
    assert_scores(model, items, 768)
    counted, read = Counted(model), []
    model.model.get_encoder().register_forward_pre_hook(
        lambda _m, _a, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    scorer_for(model).score(items)
    assert sum(read) == 8  # two distinct prompts of four tokens
    # 8; the start token twice; behind it "8", "9", "11" of one token and "8 9", "8 10" of two.
    assert sum(counted.tokens) == 8 + 2 + 3 + 2 * 2
    # After the starts, after "8" and "11" of the first prompt, "8 9", "8 10"; "8", "9".
    assert sum(counted.rows) == 2 + 4 + 2


def test_texts_of_unlike_length_are_not_padded_to_each_other() -> None:
    model = tiny.loaded("t5")
    items = [
        EncodedPrompt((5,) * n + (tiny.END,), ((8, tiny.END), (9, tiny.END)))
        for n in (60, 20, 59, 21, 58)
    ]
    read: list[tuple[int, ...]] = []
    model.model.get_encoder().register_forward_pre_hook(
        lambda _m, _a, inputs: read.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    scorer_for(model, max_tokens=5000).score(items)
    assert read == [(3, 61), (2, 22)]


@pytest.mark.parametrize("name", ["bloom", "t5"])
def test_rows_of_logits_are_those_that_are_scored(name: str) -> None:
    model = tiny.loaded(name)
    items = encode(model, tiny.task(), "Pick.", tiny.INSTANCES, end_token=False)
    counted = Counted(model)
    scorer_for(model).score(items)
    assert sum(counted.rows) <= sum(len(o) for i in items for o in i.options)


def test_log_likelihoods_of_rows_in_any_order() -> None:
    logits = torch.randn(70, 11, generator=torch.Generator().manual_seed(0))
    rows, targets = torch.tensor([69, 0, 33, 0, 32]), torch.tensor([1, 2, 3, 4, 10])
    expected = [
        float(logits[r].double().log_softmax(-1)[t]) for r, t in zip(rows, targets, strict=True)
    ]
    assert log_likelihoods(logits, rows, targets).tolist() == pytest.approx(expected, abs=1e-5)


# Memory.


def test_the_memory_rule_by_hand() -> None:
    model = loaded("llama")
    # A token: (12 * 32 + 4 * 48) * 4 bytes = 2,304; a row of logits: 352 * (4 + 4) = 2,816.
    assert budget(model, max_tokens=10_000, max_memory_mib=1) == Budget(
        2**19 // 2304, 2**19 // 2816
    )
    assert budget(model, max_tokens=50, max_memory_mib=1).tokens == 50
    assert budget(model, max_tokens=10_000, max_memory_mib=2) == Budget(
        2**20 // 2304, 2**20 // 2816
    )


@pytest.mark.parametrize("name", ["llama", "bloom", "t5"])
def test_little_memory_changes_no_score(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("excise.scoring.memory._MIB", 2**13)
    model = tiny.loaded(name)
    items = encode(model, tiny.task(), "Pick.", tiny.INSTANCES, end_token=False)
    expected = scorer_for(model).score(items)
    counted = Counted(model)
    scored = scorer_for(model, max_memory_mib=1).score(items)
    # One row of logits fits: one option of a row, one prompt of an encoder.
    assert max(counted.rows) <= (
        1 if name == "llama" else max(len(o) for i in items for o in i.options)
    )
    for values, wanted in zip(scored, expected, strict=True):
        assert values == pytest.approx(wanted, abs=1e-4)


class Cramped:
    """Makes a model run out of memory where more than so many tokens go in at once."""

    def __init__(self, model: LoadedModel, tokens: int, error: Exception) -> None:
        self.tokens, self.error = tokens, error
        self.refused = 0
        for embeddings in token_embeddings(model):
            embeddings.register_forward_pre_hook(self._embed)

    def _embed(self, _module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].numel() > self.tokens:
            self.refused += 1
            raise self.error


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 4000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=["device", "cpu"])
@pytest.mark.parametrize(("name", "fits"), [("llama", 20), ("bloom", 170), ("t5", 150)])
def test_out_of_memory_goes_on_with_half(
    name: str, fits: int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.loaded(name)
    items = encode(model, tiny.task(), "Pick.", tiny.INSTANCES, end_token=False)
    expected = scorer_for(model).score(items)
    cramped = Cramped(model, fits, error)
    finished: list[int] = []
    scored = scorer_for(model, max_tokens=5000).score(items, finished.append)
    assert cramped.refused > 0
    assert sum(finished) == len(items)
    for values, wanted in zip(scored, expected, strict=True):
        assert values == pytest.approx(wanted, abs=1e-4)
    assert "out of memory" in caplog.text


@pytest.mark.parametrize("name", ["llama", "bloom", "t5"])
def test_what_does_not_fit_alone_and_other_errors_come_through(name: str) -> None:
    for error, words in ((ERRORS[0], "out of memory"), (RuntimeError("shapes differ"), "shapes")):
        model = tiny.loaded(name)
        cramped = Cramped(model, 0, error)
        with pytest.raises(RuntimeError, match=words):
            scorer_for(model).score(hard_items())
        assert cramped.refused == 1 or words == "out of memory"


# Token ids.


def decode(model: LoadedModel, tokens: tuple[int, ...]) -> str:
    text: str = model.tokenizer.decode(list(tokens))
    return text


@pytest.mark.parametrize("kind", ["bare", "bos"])
def test_bare_prompts_join_the_option_with_one_space(kind: str) -> None:
    model = tiny.loaded("llama", kind=kind)
    task = tiny.task(prompt_format="{instruction} {context} {question} {options} Your answer: ")
    for end_token in (False, True):
        items = encode(model, task, "Pick.", tiny.INSTANCES, end_token=end_token)
        for item, instance in zip(items, tiny.INSTANCES, strict=True):
            prompt = task.prompt("Pick.", instance).rstrip()
            begin = "<s>" if kind == "bos" else ""
            assert decode(model, item.prompt) == begin + prompt
            end = "</s>" if end_token else ""
            assert [decode(model, o) for o in item.options] == [
                f" {option}{end}" for option in instance.options
            ]


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_a_chat_template_wraps_the_prompt(name: str) -> None:
    model = tiny.loaded(name, kind="chat")
    assert model.chat_template
    items = encode(model, tiny.task(), "Pick.", tiny.INSTANCES, end_token=True)
    for item, instance in zip(items, tiny.INSTANCES, strict=True):
        text = tiny.task().prompt("Pick.", instance)
        expected = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        assert decode(model, item.prompt) == expected == prompt_text(model, text)
        assert [decode(model, o) for o in item.options] == [f"{o}</s>" for o in instance.options]


def test_a_tokenizer_that_closes_every_text_is_not_scored_on_it() -> None:
    model = tiny.loaded("qwen2", kind="eos")
    (item,) = encode(model, tiny.task(), "Pick.", tiny.INSTANCES[:1], end_token=False)
    assert tiny.END not in item.prompt
    assert [decode(model, o) for o in item.options] == [f" {o}" for o in tiny.INSTANCES[0].options]
    (item,) = encode(model, tiny.task(), "Pick.", tiny.INSTANCES[:1], end_token=True)
    assert [o.count(tiny.END) for o in item.options] == [1, 1, 1]


@pytest.mark.parametrize("end_token", [False, True])
def test_encoder_decoder_options_always_hold_one_end_token(end_token: bool) -> None:
    model = loaded("t5")
    items = encode(model, tiny.task(), "Pick.", tiny.INSTANCES, end_token=end_token)
    for item, instance in zip(items, tiny.INSTANCES, strict=True):
        text = tiny.task().prompt("Pick.", instance)
        assert decode(model, item.prompt) == f"{text}</s>"
        assert [decode(model, o) for o in item.options] == [f"{o}</s>" for o in instance.options]


def test_a_prompt_longer_than_the_positions_is_refused() -> None:
    model = tiny.loaded("llama", max_position_embeddings=75)
    fitting = tiny.INSTANCES[2:3]
    assert len(encode(model, tiny.task(), "P.", fitting, end_token=False)) == 1
    with pytest.raises(ConfigError, match=r"'item-0' needs \d+ tokens, .* has 75 positions"):
        encode(model, tiny.task(), "Pick one.", tiny.INSTANCES, end_token=False)


def test_an_option_without_tokens_is_refused() -> None:
    # Its log-likelihood would be 0, better than that of every other option.
    empty = tiny.instance(9, "Late.", ("The old man", ""), 0)
    with pytest.raises(ConfigError, match="'item-9'"):
        encode(tiny.loaded("llama", kind="chat"), tiny.task(), "P.", [empty], end_token=False)


def test_an_end_token_that_the_tokenizer_lacks_is_refused() -> None:
    model = tiny.loaded("llama")
    model.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="end token"):
        encode(model, tiny.task(), "P.", tiny.INSTANCES, end_token=True)


# The choice.


def test_normalisations_by_hand() -> None:
    log_likelihood = np.array([[[-6.0, -8.0, -7.0], [-4.0, -3.0, np.nan]]])
    n_tokens = np.array([[[1, 4, 2], [2, 1, 0]]])
    n_bytes = np.array([[3, 5, 14], [4, 2, 0]])
    # per token: -6, -2, -3.5 and -2, -3; per byte: -2, -1.6, -0.5 and -1, -1.5
    chosen = {
        how: likeliest(normalised(log_likelihood, n_tokens, n_bytes, how)).tolist()  # type: ignore[arg-type]
        for how in ("total", "per_token", "per_byte")
    }
    assert chosen == {"total": [[0, 1]], "per_token": [[1, 0]], "per_byte": [[2, 0]]}


@pytest.mark.parametrize(("name", "how"), [("llama", "per_token"), ("t5", "total")])
def test_auto_compares_per_token_where_options_have_no_end_token(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(*values: Any) -> Any:
        seen.append(values[3])
        return normalised(*values)

    monkeypatch.setattr("excise.evaluation.choices.normalised", spy)
    predict(loaded(name), tiny.task(), tiny.INSTANCES[:1], ScoringConfig(normalisation="auto"))
    assert seen == [how]


def test_bytes_are_counted_in_utf_8() -> None:
    instances = [tiny.instance(0, "", ("µµ", "ab"), 0), tiny.instance(1, "", ("€", "a", "ä"), 0)]
    assert byte_counts(instances).tolist() == [[4, 2, 0], [3, 1, 2]]


def test_of_equal_options_the_first_is_chosen() -> None:
    equal = np.full((1, 1, 3), -2.0)
    assert likeliest(equal) == 0


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_predict_fills_what_options_there_are(name: str) -> None:
    model, task = loaded(name), tiny.task()
    told: list[int] = []
    total = ScoringConfig(normalisation="total")
    got = predict(model, task, tiny.INSTANCES, total, advance=told.append)
    assert sum(told) == 10
    assert got.log_likelihood is not None
    assert got.n_tokens is not None
    assert got.log_likelihood.shape == got.n_tokens.shape == (2, 5, 5)
    for i, instruction in enumerate(task.instructions):
        items = encode(model, task, instruction, tiny.INSTANCES, end_token=False)
        for n, item in enumerate(items):
            size = len(item.options)
            values = naive(model, item)
            assert got.log_likelihood[i, n, :size] == pytest.approx(values, abs=1e-4)
            assert np.isnan(got.log_likelihood[i, n, size:]).all()
            assert got.n_tokens[i, n].tolist() == [*map(len, item.options)] + [0] * (5 - size)
            assert got.choice[i, n] == np.argmax(values)
    bytes_ = predict(model, task, tiny.INSTANCES, ScoringConfig(normalisation="per_byte"))
    for n, instance in enumerate(tiny.INSTANCES):
        sizes = [len(o.encode()) for o in instance.options]
        per_byte = got.log_likelihood[0, n, : len(sizes)] / sizes
        assert bytes_.choice[0, n] == np.argmax(per_byte)


def test_a_nan_weight_is_reported_with_the_instance() -> None:
    model = tiny.loaded("llama")
    with torch.no_grad():
        model.linear("model.layers.1.mlp.down_proj").weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="'item-0'"):
        predict(model, tiny.task(), tiny.INSTANCES, ScoringConfig())
