"""Hidden states kept from one patch to the next: exact, planned, bounded, undone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from excise.config import PRESETS, ScoringConfig
from excise.dissection.effects import TunePanel, one_by_one
from excise.evaluation import predict
from excise.methods import choose_patch, locate
from excise.models import LoadedModel, packed_linears, wrap
from excise.patches import Changes, Patch, changes_in_force, changes_of, scaled_outputs
from excise.scoring import EncodedPrompt, encode, reusing, scorer_for
from excise.scoring.branching import Labels, branch_points
from excise.scoring.layers import stack_of
from excise.scoring.memory import budget, unused
from excise.scoring.plain import PlainScorer
from excise.scoring.reusing import KeptStates, _active
from excise.types import FloatArray, Neuron

LAYERS = 4
DECODERS = (
    *("llama", "mistral-window", "qwen2", "bloom", "gpt2", "gpt_neox", "gpt_neox-serial", "gptj"),
    *("falcon", "falcon-alibi", "falcon-grouped", "gemma", "gemma2", "gemma3", "olmo", "olmo2"),
    *("opt", "phi3", "phi3-window", "qwen3", "smollm3"),
)
ENCODER_DECODERS = ("t5", "t5-gated", "mt5", "umt5", "bart")


@cache
def deep(name: str) -> LoadedModel:
    """A tiny model with enough layers to leave some out."""
    own: dict[str, Any] = {"num_hidden_layers": LAYERS}
    if name == "bart":
        own = {"encoder_layers": LAYERS}
    elif name in ENCODER_DECODERS:
        own = {"num_layers": LAYERS}
    elif name == "gemma3":
        own["layer_types"] = ["sliding_attention", "full_attention"] * (LAYERS // 2)
    elif name == "smollm3":
        own["no_rope_layers"] = [1, 0] * (LAYERS // 2)
    return tiny.loaded(name, **own)


def prompts(model: LoadedModel) -> list[EncodedPrompt]:
    task = tiny.task()
    return encode(model, task, task.instructions[0], tiny.INSTANCES[1:4], end_token=False)


def last_of(model: LoadedModel, layer: int, *, decoder: bool = False) -> Neuron:
    """A neuron of a layer that reads the prompt, or of the decoder behind the encoder."""
    behind = [s for s in model.sites if ("decoder" in s.module.split(".")) is decoder]
    sites = behind if model.encoder_decoder else model.sites
    return Neuron([s for s in sites if s.layer == layer][-1].module, 1)


def states_of(model: LoadedModel) -> list[list[Neuron]]:
    """Nothing, single neurons from the last layer to the first, and growing sets."""
    single = [last_of(model, layer) for layer in range(LAYERS)]
    some = [[], *([n] for n in single[:0:-1]), single[2:], single[1:], single]
    if model.encoder_decoder:
        some.insert(1, [last_of(model, 0, decoder=True)])
        some.append([single[3], last_of(model, 1, decoder=True)])
    return some


Score = Callable[[], list[tuple[float, ...]]]


def everything(model: LoadedModel, score: Score) -> list[list[tuple[float, ...]]]:
    found = []
    for neurons in states_of(model):
        with scaled_outputs(model.model, neurons, -1.5):
            found.append(score())
    return found


def changes(model: LoadedModel) -> list[Changes]:
    return [changes_of(neurons, -1.5) for neurons in states_of(model)]


@contextmanager
def counted(model: LoadedModel) -> Iterator[list[int]]:
    """Layer of the stack that reads the prompt -> tokens that it computed."""
    stack = stack_of(model)
    assert stack is not None
    tokens = [0] * len(stack.layers)
    handles = []
    for number, layer in enumerate(stack.layers):
        # A linear map inside: it runs where the layer computes, not where it passes on.
        inner = next(m for m in layer.modules() if hasattr(m, "weight") and m.weight.dim() == 2)

        def count(_module: Any, inputs: Any, _output: Any, number: int = number) -> None:
            tokens[number] += inputs[0].numel() // inputs[0].shape[-1]

        handles.append(inner.register_forward_hook(count))
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", DECODERS + ENCODER_DECODERS)
def test_scores_are_the_same_bit_for_bit(name: str) -> None:
    model, items = deep(name), prompts(deep(name))
    max_tokens = 150  # several runs of tokens, and several batches

    def score() -> list[tuple[float, ...]]:
        return scorer_for(model, max_tokens=max_tokens).score(items)

    with counted(model) as plain:
        expected = everything(model, score)
    with reusing(model, ScoringConfig()) as kept, counted(model) as computed:
        kept.expect(changes(model))
        assert everything(model, score) == expected
    assert all(a <= b for a, b in zip(computed, plain, strict=True))
    assert 1 - sum(computed) / sum(plain) > 0.3
    assert everything(model, score) == expected  # nothing stays behind


def test_only_the_layers_behind_the_first_change_are_computed() -> None:
    model, items = deep("llama"), prompts(deep("llama"))
    scorer = scorer_for(model)
    with counted(model) as tokens:
        scorer.score(items)
    whole = tokens[0]
    for layer in range(1, LAYERS):
        neurons = [last_of(model, layer)]
        with reusing(model, ScoringConfig()) as kept:
            kept.expect([(), changes_of(neurons)])
            scorer.score(items)
            with scaled_outputs(model.model, neurons), counted(model) as tokens:
                scorer.score(items)
        assert tokens == [0] * layer + [whole] * (LAYERS - layer)


def test_a_patch_of_the_decoder_does_not_run_the_encoder() -> None:
    for name in ENCODER_DECODERS:
        model, items = deep(name), prompts(deep(name))
        neurons = [last_of(model, 1, decoder=True)]
        with reusing(model, ScoringConfig()) as kept:
            kept.expect([(), changes_of(neurons)])
            scorer_for(model).score(items)
            with scaled_outputs(model.model, neurons), counted(model) as tokens:
                scorer_for(model).score(items)
        assert tokens == [0] * LAYERS


def test_states_share_what_they_have_in_common_not_only_the_original() -> None:
    # All but one neuron: the same as all of them up to that neuron's layer.
    model, items = deep("llama"), prompts(deep("llama"))
    neurons = [last_of(model, layer) for layer in range(LAYERS)]
    without = [[n for n in neurons if n != left] for left in neurons[::-1]]
    scorer = scorer_for(model)
    with reusing(model, ScoringConfig()) as kept, counted(model) as tokens:
        kept.expect([changes_of(own) for own in (neurons, *without)])
        for own in (neurons, *without):
            with scaled_outputs(model.model, own):
                scorer.score(items)
    whole = tokens[-1] // 5
    assert tokens == [2 * whole, 3 * whole, 4 * whole, 5 * whole]


def test_the_plain_engine_reuses_too() -> None:
    model, items = deep("gpt_neox"), prompts(deep("gpt_neox"))

    def score() -> list[tuple[float, ...]]:
        return PlainScorer(model, max_tokens=200).score(items)

    expected = everything(model, score)
    with reusing(model, ScoringConfig()) as kept, counted(model) as tokens:
        kept.expect(changes(model))
        assert everything(model, score) == expected
    assert tokens[0] < tokens[-1]


def test_packed_maps_change_nothing() -> None:
    task, config = tiny.task(), ScoringConfig()
    model = deep("llama")

    def answers() -> list[FloatArray]:
        found = []
        for neurons in states_of(model):
            with scaled_outputs(model.model, neurons, -1.5):
                said = predict(model, task, tiny.INSTANCES, config)
            assert said.log_likelihood is not None
            found.append(said.log_likelihood)
        return found

    expected = answers()
    with reusing(model, config) as kept:
        kept.expect(changes(model))
        for got, want in zip(answers(), expected, strict=True):
            assert np.array_equal(got, want, equal_nan=True)
        assert kept.size > 0


def test_a_state_that_nobody_expected_is_computed_as_ever() -> None:
    model, items = deep("llama"), prompts(deep("llama"))
    scorer, early = scorer_for(model), [last_of(model, 0)]
    with scaled_outputs(model.model, early):
        expected = scorer.score(items)
    with reusing(model, ScoringConfig()) as kept:
        kept.expect([(), changes_of([last_of(model, 2)])])
        scorer.score(items)
        with scaled_outputs(model.model, early):
            assert scorer.score(items) == expected
        # Other prompts, and a neuron excised in a block around another.
        assert scorer.score(items[:2]) != scorer.score(items)[:1]
        with scaled_outputs(model.model, early), scaled_outputs(model.model, [last_of(model, 2)]):
            inside = scorer.score(items)
    with scaled_outputs(model.model, [*early, last_of(model, 2)]):
        assert scorer.score(items) == inside


def test_without_expectations_nothing_is_kept() -> None:
    model, items = deep("llama"), prompts(deep("llama"))
    with reusing(model, ScoringConfig()) as kept:
        scorer_for(model).score(items)
        assert kept.size == 0
        kept.expect([(), changes_of([last_of(model, 2)])])
        scorer_for(model).score(items)
        assert kept.size > 0
        kept.expect([])
        assert kept.size == 0


def test_what_is_kept_stays_within_the_memory() -> None:
    model = deep("llama")
    task = tiny.task()
    groups = [
        encode(model, task, told, [item], end_token=False)
        for told in task.instructions[:1]
        for item in tiny.INSTANCES[1:4]
    ]
    scorer = scorer_for(model)

    def answers() -> list[Any]:
        found = []
        for neurons in states_of(model):
            with scaled_outputs(model.model, neurons, -1.5):
                found.append([scorer.score(items) for items in groups])
        return found

    expected = answers()
    sizes = []
    for room in (0, 20_000, 40_000, 10**9):
        kept = KeptStates(model, room)
        with reusing(model, ScoringConfig()):
            swapped(model, kept)
            kept.expect(changes(model))
            assert answers() == expected
        sizes.append(kept.size)
        assert kept.size <= room
    assert sizes == sorted(sizes)
    assert sizes[0] == 0 < sizes[1] < sizes[-1]


def swapped(model: LoadedModel, kept: KeptStates) -> None:
    """Let this one be in force inside `reusing`."""
    _active[model.model] = kept


def test_the_memory_that_scoring_leaves() -> None:
    model = tiny.loaded("llama")
    token = (12 * tiny.HIDDEN + 4 * tiny.FEED_FORWARD) * 4
    row = tiny.VOCABULARY * 8
    assert unused(model, max_tokens=100, max_memory_mib=1) == 2**20 - 100 * (token + row)
    # As many tokens as memory holds: nothing but what no whole row of logits fits into is left.
    limit = budget(model, max_tokens=10**6, max_memory_mib=1)
    assert limit.rows < limit.tokens
    assert unused(model, max_tokens=10**6, max_memory_mib=1) < token + row


def test_running_out_of_memory_gives_up_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    model, items = deep("llama"), prompts(deep("llama"))
    neurons = [last_of(model, 2)]
    with scaled_outputs(model.model, neurons):
        expected = scorer_for(model).score(items)
    refused: list[int] = []

    def refuse(_module: Any, inputs: Any) -> None:
        if inputs[0].shape[1] > 60:
            refused.append(inputs[0].shape[1])
            raise torch.OutOfMemoryError("CUDA out of memory.")

    stack = stack_of(model)
    assert stack is not None
    with reusing(model, ScoringConfig()) as kept:
        kept.expect([(), changes_of(neurons)])
        scorer_for(model).score(items)
        assert kept.size > 0
        handle = stack.layers[-1].register_forward_pre_hook(refuse)
        try:
            with scaled_outputs(model.model, neurons):
                got = scorer_for(model).score(items)
        finally:
            handle.remove()
        assert refused
        assert kept.size == 0
    assert "not kept any more" in caplog.text
    for a, b in zip(got, expected, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_layers_come_back_after_an_error() -> None:
    for name in ("llama", "t5", "gpt2"):
        model, items = deep(name), prompts(deep(name))
        neurons = [last_of(model, 3)]
        expected = scorer_for(model).score(items)
        stack = stack_of(model)
        assert stack is not None
        hooks = [len(layer._forward_hooks) for layer in stack.layers]

        def fail(_module: Any, _inputs: Any) -> None:
            raise KeyError("inside")

        with reusing(model, ScoringConfig()) as kept:
            kept.expect([(), changes_of(neurons), changes_of([last_of(model, 2)])])
            scorer_for(model).score(items)
            handle = stack.layers[-1].register_forward_pre_hook(fail)
            with pytest.raises(KeyError), scaled_outputs(model.model, neurons):
                scorer_for(model).score(items)
            handle.remove()
        assert changes_in_force(model.model) == ()
        assert all("forward" not in vars(layer) for layer in stack.layers)
        assert [len(layer._forward_hooks) for layer in stack.layers] == hooks
        assert scorer_for(model).score(items) == expected


def test_models_without_a_plain_list_of_layers_are_left_alone() -> None:
    made = tiny.model("llama", num_hidden_layers=LAYERS)
    made.model.layers[2].mlp.down_proj.weight = made.model.layers[1].mlp.down_proj.weight
    model = wrap(made, tiny.tokenizer("bos"), name="shared")
    assert stack_of(model) is None
    items = prompts(model)
    with reusing(model, ScoringConfig()) as kept:
        kept.expect([(), changes_of([last_of(model, 3)])])
        before = scorer_for(model).score(items)
        assert kept.size == 0
    assert before == scorer_for(model).score(items)
    for name in (*DECODERS, *ENCODER_DECODERS):
        assert stack_of(deep(name)) is not None


def test_a_map_outside_of_the_layers_leaves_nothing_to_share() -> None:
    stack = stack_of(deep("llama"))
    assert stack is not None
    head, late = Neuron("lm_head", 0), Neuron("model.layers.3.mlp.up_proj", 0)
    states = [stack.labels([changes_of(own)]) for own in ([late], [head, late])]
    assert states[0][1:] == states[1][1:]
    assert states[0][0] != states[1][0]
    assert branch_points(states) == ()


def test_branch_points_by_hand() -> None:
    def state(*layers: int) -> Labels:
        """Changed in these of three layers."""
        return ((), *(((("m", 0, float(n in layers)),),) for n in range(3)), ())

    # Three states that share two layers, and one that shares the first one with them.
    states = [state(), state(2), state(1), state(0)]
    assert branch_points(states[:2]) == (state()[:3],)
    assert branch_points(states[:1]) == branch_points([]) == branch_points([state()] * 3) == ()
    # Layers 0 and 1 serve one state, layer 0 alone two: as much, and nothing is left for both
    # but one layer more.
    found = branch_points([state(), state(1), state(1, 2), state(2)])
    assert set(found) == {state()[:2], state()[:3], state(1)[:3]}
    # The first one alone saves most: two layers of one state and none of the others, against one
    # layer of each of three.
    assert branch_points([state(), state(1), state(1, 2), state(2)])[0] == state()[:2]


STATES = st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(STATES)
def test_with_all_branch_points_no_layer_is_computed_twice(drawn: list[list[int]]) -> None:
    states = [((), *(((("m", v, 0.0),),) for v in values), ()) for values in drawn]
    computed = 0
    points = branch_points(states)
    known: set[Labels] = set()
    for state in dict.fromkeys(states):
        own = [p for p in points if state[: len(p)] == p]
        computed += 4 - max((len(p) - 1 for p in own if p in known), default=0)
        known |= set(own)
    assert computed == len({state[: k + 2] for state in states for k in range(4)})
    # And no smaller choice saves as much as the greedy one claims to be needed.
    if len(points) > 1:
        assert all(
            _computed(states, some) > computed for some in itertools.combinations(points, 1)
        ) or math.isclose(_computed(states, points[:1]), computed)


def _computed(states: Sequence[Labels], points: Sequence[Labels]) -> int:
    total, known = 0, set[Labels]()
    for state in dict.fromkeys(states):
        own = {p for p in points if state[: len(p)] == p}
        total += 4 - max((len(p) - 1 for p in own & known), default=0)
        known |= own
    return total


def test_the_choice_of_n_is_the_same_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = deep("llama"), tiny.task()
    quick = PRESETS["quick"]
    few = quick.attribution.model_copy(update={"instances": 4, "instructions": 1})
    grid = {"grid": (0, 1, 2, 3, 5, 8), "tune_instances": 4}
    for search in ("grid", "racing", "golden_section"):
        options = grid | {"search": search, "golden_section": (0, 12, 4)}
        config = quick.model_copy(
            update={
                "attribution": few,
                "selection": quick.selection.model_copy(update=options),
            }
        )
        scores = locate(model, task, tiny.INSTANCES, config, seed=0)
        late = {name: values * (".3." in name) for name, values in scores.by_module.items()}
        scores = type(scores)(late, scores.n_prompts)

        def chosen(scores: Any = scores, config: Any = config) -> Any:
            return choose_patch(model, task, tiny.INSTANCES, scores, config, seed=0, provenance={})

        with counted(model) as less:
            found = chosen()
        with monkeypatch.context() as without, counted(model) as whole:
            without.setattr(KeptStates, "expect", lambda *_: None)
            expected = chosen()
        assert found == expected
        assert less[-1] == whole[-1]
        assert less[0] < 0.6 * whole[0]


def test_neurons_one_by_one_are_measured_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = deep("llama"), tiny.task()
    neurons = tuple(last_of(model, layer) for layer in range(LAYERS))
    patch = Patch(neurons, (1.0,) * LAYERS, model.name, model.digest)

    def measured() -> Any:
        panel = TunePanel(
            model, task, patch, tiny.INSTANCES, task.instructions, ScoringConfig(), "log_share",
            lambda prompts: None,
        )  # fmt: skip
        with panel.ready():
            return one_by_one(panel, neurons)

    with counted(model) as less:
        found = measured()
    with monkeypatch.context() as without, counted(model) as whole:
        without.setattr(KeptStates, "expect", lambda *_: None)
        assert measured() == found
    assert less[-1] == whole[-1]
    assert sum(less) < 0.75 * sum(whole)


def test_changes_in_force_follow_the_blocks() -> None:
    model = deep("llama").model
    a, b = Neuron("model.layers.0.mlp.up_proj", 0), Neuron("model.layers.1.mlp.up_proj", 3)
    with scaled_outputs(model, [a, b], [0.0, 2.0]):
        assert changes_in_force(model) == (((a, 0.0), (b, 2.0)),)
        with scaled_outputs(model, [b]):
            assert changes_in_force(model) == (((a, 0.0), (b, 2.0)), ((b, 0.0),))
        assert changes_in_force(model) == (((a, 0.0), (b, 2.0)),)
    assert changes_in_force(model) == ()


def test_packing_and_reuse_are_undone_together() -> None:
    model = deep("llama")
    with packed_linears(model.model), reusing(model, ScoringConfig()) as outer:
        with reusing(model, ScoringConfig()) as inner:
            inner.expect([(), changes_of([last_of(model, 3)])])
            scorer_for(model).score(prompts(model))
            assert inner.size > 0 == outer.size
        outer.expect([(), changes_of([last_of(model, 3)])])
        scorer_for(model).score(prompts(model))
        assert outer.size > 0
    assert all("forward" not in vars(module) for module in model.model.modules())
