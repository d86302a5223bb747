"""Scores kept per prompt: they sum to the attribution's, also over prompts that are drawn again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from excise.attribution import attribute, competing_sites
from excise.config import AttributionConfig
from excise.dissection.candidates import every_neuron, highest
from excise.dissection.contributions import Contributions, contributions
from excise.dissection.peaks import described
from excise.dissection.resampling import aggregate, drawn, selected, stability, whole
from excise.models import LoadedModel
from excise.selection import rank, top
from excise.types import FloatArray, Instance, Neuron

V2 = AttributionConfig()
OPTIONS = {
    "v2": V2,
    "log P": AttributionConfig(differentiate="log P", instance_weight="uniform"),
    "batch": AttributionConfig(order="batch", batch_size=2, differentiate="log P"),
    "mean": AttributionConfig(tokens="mean", skill_weight=0.5),
    "softmax": AttributionConfig(probability="option_softmax"),
    "ambiguous": AttributionConfig(biased_option="ambiguous", probability="geometric_mean"),
    "answer": AttributionConfig(positions="answer"),
}
ITEMS = (tiny.INSTANCES[1], tiny.INSTANCES[2], tiny.INSTANCES[4])
CASES = [
    *(("llama", name) for name in OPTIONS),
    *((kind, name) for kind in ("bloom", "t5-gated") for name in ("v2", "batch", "softmax")),
]


def kept(
    model: LoadedModel, config: AttributionConfig, watched: tuple[Neuron, ...] = ()
) -> Contributions:
    sites = competing_sites(model, config)
    return contributions(
        model,
        tiny.task(),
        ITEMS,
        tiny.task().instructions,
        config,
        sites=sites,
        candidates=every_neuron(sites),
        watched=watched,
    )


def joined(
    model: LoadedModel, config: AttributionConfig, places: list[int], asked: list[int]
) -> FloatArray:
    """The scores that attribution gives for lists of instances and instructions."""
    task = tiny.task()
    scores = attribute(
        model,
        task,
        [ITEMS[n] for n in places],
        config,
        instructions=[task.instructions[i] for i in asked],
    )
    return np.concatenate(list(scores.by_module.values()))


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_prompts_sum_to_the_attribution_of_any_list_of_them(kind: str, options: str) -> None:
    model, config = tiny.loaded(kind), OPTIONS[options]
    found = kept(model, config)
    for places, asked in (([0, 1, 2], [0, 1]), ([2, 0, 0, 1], [1, 1])):
        expected = joined(model, config, places, asked)
        got = aggregate(found, [(np.array(places), np.array(asked))])[0]
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    every = aggregate(found, [(np.arange(3), np.arange(2))])[0]
    np.testing.assert_array_equal(whole([found]), every)


def test_subtracting_per_token_sums_too() -> None:
    model, config = tiny.loaded("t5"), AttributionConfig(order="subtract_then_max")
    expected = joined(model, config, [2, 1, 1], [1, 0])
    got = aggregate(kept(model, config), [(np.array([2, 1, 1]), np.array([1, 0]))])[0]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("kind", "n"), [("llama", 8), ("t5-gated", 40)])
def test_stability_is_that_of_attributing_every_resample_again(kind: str, n: int) -> None:
    model = tiny.loaded(kind)
    found = kept(model, V2)
    task = tiny.task()
    sites = competing_sites(model, V2)
    excised = [e.neuron for e in top(attribute(model, task, ITEMS, V2).by_module, n)]
    got = stability(
        [found], excised, competing=len(found.candidates), sign="signed", resamples=4, seed=3
    )

    generator = np.random.default_rng([3, 0])
    counted = np.zeros(len(found.candidates))
    overlaps = []
    neurons = list(found.candidates.neurons)
    for _ in range(4):
        asked = generator.integers(2, size=2).tolist()
        places = generator.integers(3, size=3).tolist()
        flat = joined(model, V2, places, asked)
        sizes = np.cumsum([site.size for site in sites])[:-1]
        by_module = dict(zip([s.module for s in sites], np.split(flat, sizes), strict=True))
        chosen = [entry.neuron for entry in rank(by_module, limit=n)]
        counted[[neurons.index(neuron) for neuron in chosen]] += 1
        shared = len(set(chosen) & set(excised))
        overlaps.append(shared / (2 * n - shared))
    for row in got["neurons"]:
        place = neurons.index(Neuron(row["module"], row["index"]))
        assert row["frequency"] == pytest.approx(counted[place] / 4)
    assert got["jaccard"]["instance"]["mean"] == pytest.approx(np.mean(overlaps))
    assert got["reproduced"] == 1.0
    listed = {(row["module"], row["index"]) for row in got["others"]}
    assert listed.isdisjoint({(neuron.module, neuron.index) for neuron in excised})


def test_trials_whose_scores_are_averaged_are_drawn_apart() -> None:
    model = tiny.loaded("llama")
    first = kept(model, V2)
    second = replace(first, scale=3 * first.scale)
    np.testing.assert_allclose(whole([first, second]), 2 * whole([first]), rtol=1e-6)
    excised = [first.candidates.neurons[int(whole([first]).argmax())]]
    got = stability([first, second], excised, competing=448, sign="signed", resamples=5, seed=0)
    assert got["find_instances"] == [3, 3]
    assert got["neurons"][0]["score"] == pytest.approx(2 * whole([first]).max())


def test_by_template_whole_templates_are_drawn() -> None:
    generator = np.random.default_rng(0)
    templates = ["a", "a", "b", "b", "b", "c"]
    seen = set()
    for _ in range(50):
        places = drawn(list("123456"), templates, "template", generator)
        counted = np.bincount(places, minlength=6)
        assert len({counted[0], counted[1]}) == 1
        assert len({counted[2], counted[3], counted[4]}) == 1
        assert counted[0] + counted[2] + counted[5] == 3  # as many draws as templates
        seen.add(tuple(counted))
    assert len(seen) == 10  # multisets of three out of three


def test_ties_go_to_the_earlier_neuron() -> None:
    scores = np.array([1.0, 3.0, 3.0, -5.0, 3.0])
    assert selected(scores, 2, sign="signed").tolist() == [False, True, True, False, False]
    assert selected(scores, 2, sign="absolute").tolist() == [False, True, False, True, False]
    assert selected(scores, 2, sign="ascending").tolist() == [True, False, False, True, False]
    assert selected(scores, 0, sign="signed").sum() == 0
    assert selected(scores, 9, sign="signed").sum() == 5


def test_tiny_probabilities_do_not_vanish() -> None:
    # P(y)^2 of long options lies far below float32's smallest number.
    model = tiny.loaded("llama")
    long = tuple(" ".join([word] * 5) for word in ("market", "late", "quiz"))
    task = tiny.task((tiny.instance(0, "Who?", long), tiny.instance(1, "Why?", long)))
    sites = competing_sites(model, V2)
    found = contributions(
        model, task, task.instances, task.instructions, V2,
        sites=sites, candidates=every_neuron(sites),
    )  # fmt: skip
    assert 0 < found.scale.max() < 1e-45
    expected = np.concatenate(list(attribute(model, task, task.instances, V2).by_module.values()))
    assert np.argmax(whole([found])) == np.argmax(expected)
    np.testing.assert_allclose(whole([found]).max(), expected.max(), rtol=1e-4)


def test_candidates_are_the_first_of_the_ranking_and_the_watched() -> None:
    model = tiny.loaded("llama")
    sites = competing_sites(model, V2)
    scores = attribute(model, tiny.task(), ITEMS, V2).by_module
    last = rank(scores)[-1].neuron
    candidates = highest(sites, scores, 20, [last], sign="signed")
    assert set(candidates.neurons) == {e.neuron for e in rank(scores, limit=20)} | {last}
    assert len(candidates) == 21
    every = kept(model, V2)
    some = contributions(
        model, tiny.task(), ITEMS, tiny.task().instructions, V2,
        sites=sites, candidates=candidates, watched=[last],
    )  # fmt: skip
    places = every.candidates.places(candidates.neurons)
    np.testing.assert_allclose(whole([some]), whole([every])[places], rtol=1e-5, atol=1e-12)


# --- tokens ---------------------------------------------------------------------------------------


def by_hand(
    model: LoadedModel, instance: Instance, instruction: int, neuron: Neuron
) -> tuple[int, float, str]:
    """Place and value of the token with the highest bias attribution, one plain row an option."""
    task = tiny.task()
    text = task.prompt(task.instructions[instruction], instance)
    tokenizer, lm = model.tokenizer, model.model
    linear = lm.get_submodule(neuron.module)
    prompt = tokenizer(text).input_ids
    apart = [tokenizer(option).input_ids for option in instance.options]
    joined = [tokenizer(f"{text} {option}").input_ids for option in instance.options]
    options = apart if model.encoder_decoder else [ids[len(prompt) :] for ids in joined]
    results = []
    for option in options:
        grabbed: list[torch.Tensor] = []

        def hook(
            _module: object, _inputs: object, out: torch.Tensor, into: list[torch.Tensor] = grabbed
        ) -> None:
            out.retain_grad()
            into.append(out)

        handle = linear.register_forward_hook(hook)
        if model.encoder_decoder:
            logits = lm(input_ids=torch.tensor([prompt]), labels=torch.tensor([option])).logits[0]
            read = [lm.config.decoder_start_token_id, *option]
        else:
            logits = lm(input_ids=torch.tensor([prompt + option])).logits[0, len(prompt) - 1 : -1]
            read = prompt + option[:-1]
        handle.remove()
        log_p = logits.log_softmax(-1)[range(len(option)), option].sum()
        log_p.backward()
        (out,) = grabbed
        assert out.grad is not None
        product = (out * out.grad)[0, :, neuron.index].detach().double().numpy()
        over_input = model.encoder_decoder and neuron.module.startswith("encoder")
        ids = prompt if over_input else read
        product[0 : 0 if model.encoder_decoder else 1] = -np.inf  # the first token is left out
        results.append((float(log_p.detach().exp()), product[: len(ids)], ids))
    wrong = [p if n != instance.gold else -1.0 for n, (p, _, _) in enumerate(results)]
    p, product, ids = results[int(np.argmax(wrong))]
    p_gold, gold, _ = results[instance.gold]
    place = int(product.argmax())
    skill = max(0.0, p_gold * float(gold.max()))
    return place, p * (p * float(product.max()) - skill), str(tokenizer.decode([ids[place]]))


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("llama", "model.layers.0.mlp.up_proj"),
        ("llama", "model.layers.1.self_attn.o_proj"),
        ("bloom", "transformer.h.0.mlp.dense_h_to_4h"),
        ("t5", "encoder.block.0.layer.1.DenseReluDense.wi"),
        ("t5", "decoder.block.2.layer.0.SelfAttention.o"),
    ],
)
def test_the_driving_token_is_the_one_that_a_plain_loop_finds(kind: str, module: str) -> None:
    model = tiny.loaded(kind)
    watched = (Neuron(module, 3), Neuron(module, 7))
    found = kept(model, V2, watched)
    for neuron in watched:
        told = described(
            model,
            found.peaks,
            found.instances,
            frozenset([module]) if "enc" in module else frozenset(),
        )
        shown = {(p["instance"], p["instruction"]): p for p in told[neuron]["peaks"]}
        for peak in [p for p in found.peaks if p.neuron == neuron]:
            instance = ITEMS[peak.instance]
            place, value, token = by_hand(model, instance, peak.instruction, neuron)
            assert peak.column == place
            assert peak.value == pytest.approx(value, rel=2e-3, abs=1e-12)
            entry = shown.pop((instance.id, peak.instruction), None)
            if entry is not None:
                assert entry["token"].strip() == token.strip()
                assert entry["window"] == entry["before"] + entry["token"] + entry["after"]
        assert not shown
        values = [entry["value"] for entry in told[neuron]["peaks"]]
        assert values == sorted(values, reverse=True)
        assert len({entry["instance"] for entry in told[neuron]["peaks"]}) == len(values) <= 5
        assert sum(text["share"] for text in told[neuron]["texts"]) <= 1 + 1e-9
