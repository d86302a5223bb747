"""What rounding changes: other precisions, and encoder-decoder scores against float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import tiny
from cli_models import excise, save
from excise.measuring.precision import _deviation
from excise.models import load, packed_linears, wrap
from excise.scoring import EncodedPrompt, encode, scorer_for
from excise.tasks import load_task
from excise.types import Continuations, Predictions, Readings, Task

# Another precision.


def test_what_differs_is_counted() -> None:
    def predictions(choice: list[list[int]], values: list[list[list[float]]]) -> Predictions:
        return Predictions(tiny.INSTANCES[:3], ("a", "b"), np.array(choice), np.array(values))

    nan = float("nan")
    one = predictions([[0, 1, 2], [0, 0, 0]], [[[-1.0, -2.0, nan]] * 3] * 2)
    other = predictions([[0, 1, 1], [1, 0, 0]], [[[-1.0, -2.5, nan]] * 3, [[-1.25, -2.0, nan]] * 3])
    found = _deviation("toy", "original", "bfloat16", "float32", one, other)
    assert (found.answers, found.differ, found.largest_nats) == (6, 2, 0.5)


def test_texts_are_counted_and_passages_measured() -> None:
    one = Continuations((), (("a", "b"), ("c", "d")), {}, "none", ("",))
    other = Continuations((), (("a", "x"), ("c", "d")), {}, "none", ("",))
    found = _deviation("toy", "original", "bfloat16", "float32", one, other)
    assert (found.answers, found.differ, found.largest_nats) == (4, 1, None)

    def readings(*values: float) -> Readings:
        empty = np.zeros(len(values))
        whole = np.zeros(len(values), dtype=np.int64)
        return Readings((), np.array(values), whole, whole, empty, "", ("",))

    found = _deviation("t", "patched", "float16", "float32", readings(-3, -8), readings(-4, -5.5))
    assert (found.answers, found.differ, found.largest_nats) == (0, 0, 2.5)


def test_the_command_line_says_how_many_choices_differ(tmp_path: Path) -> None:
    model = save(tmp_path / "model", "t5")
    items = tmp_path / "toy.jsonl"
    rows = [
        {
            "question": f"Who forgot {n} keys?",
            "options": ["The old man", "The young man", "Cannot be known"],
            "gold": n % 3,
        }
        for n in range(24)
    ]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    asked = ("evaluate", model, "--task", items, "--test-instructions", 1, "--dtype", "bfloat16")
    found = excise(*asked, "--compare-dtype", "float32", "--out", out, columns=200)
    assert found.exit_code == 0, found.output
    stored = json.loads((out / "results.json").read_text())["precision"]["toy"]
    task = load_task(str(items))
    assert isinstance(task, Task)
    rough, exact = (_choices(load(str(model), dtype=d), task) for d in ("bfloat16", "float32"))
    assert stored == {
        "original": {
            "dtype": "bfloat16",
            "other_dtype": "float32",
            "answers": 24,
            "differ": int((rough[0] != exact[0]).sum()),
            "largest_difference_nats": pytest.approx(np.abs(rough[1] - exact[1]).max(), rel=1e-3),
        }
    }
    assert stored["original"]["largest_difference_nats"] > 1e-3
    differ, largest = stored["original"]["differ"], stored["original"]["largest_difference_nats"]
    assert (
        f"toy, original, bfloat16 against float32: {differ} of 24 choices differ; "
        f"log-likelihoods by up to {largest:.2g} nats." in found.stdout
    )
    plain = json.loads(excise(*asked, "--json", "--quiet").stdout)
    assert "precision" not in plain


def _choices(loaded: Any, task: Task) -> tuple[Any, Any]:
    prompts = encode(loaded, task, task.instructions[0], task.instances, end_token=False)
    scores = np.array(scorer_for(loaded).score(prompts))
    return scores.argmax(-1), scores


@pytest.mark.parametrize(
    ("other", "words"),
    [("float32", "both sides are float32"), ("float8", "unknown dtype 'float8'")],
)
def test_nothing_to_compare_with_is_refused_in_one_line(other: str, words: str) -> None:
    found = excise("evaluate", "testbed-causal", "--compare-dtype", other)
    assert found.exit_code == 2
    assert words in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


# Encoder-decoder scores against one unbatched forward pass in float64 for each option.


@pytest.mark.parametrize(("scale", "bound"), [(512**-0.5, 1e-4), (1.0, 1e-3)])
def test_scores_of_a_t5_are_those_of_float64(
    scale: float, bound: float, record_property: Callable[[str, float], None]
) -> None:
    # Flan-T5-small's shape with fewer layers and words. The head is scaled as in models whose
    # embeddings are its weights, or as transformers draws it: without training, log-likelihoods
    # are tens of nats a token then, and rounding is relative to them.
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=2048,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    generator = np.random.default_rng(0)

    def tokens(length: int) -> tuple[int, ...]:
        return (*generator.integers(2, 2048, length).tolist(), 1)

    prompts = [
        EncodedPrompt(tokens(length), (tokens(2), tokens(5), tokens(9)))
        for length in (23, 31, 31, 58)  # padded to each other
    ]
    loaded = wrap(model, tiny.tokenizer("eos"), apply_chat_template="no")
    plain = np.array(scorer_for(loaded).score(prompts))
    with packed_linears(model):
        packed = np.array(scorer_for(loaded).score(prompts))
    exact = np.array(_in_float64(model.double(), prompts))
    assert exact.max() < -10  # something to be rounded
    record_property("log-likelihoods in nats", f"{exact.max():.0f} to {exact.min():.0f}")
    for name, got in (("not packed", plain), ("packed", packed)):
        record_property(name, float(np.abs(got - exact).max()))
        np.testing.assert_allclose(got, exact, rtol=0, atol=bound)


@torch.no_grad()
def _in_float64(model: Any, prompts: list[EncodedPrompt]) -> list[list[float]]:
    for norm in model.modules():
        if hasattr(norm, "variance_epsilon"):  # transformers computes it in float32
            norm.forward = lambda x, norm=norm: (
                norm.weight * x * (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
            )
    rows = []
    for item in prompts:
        rows.append([])
        for option in item.options:
            logits = model(
                input_ids=torch.tensor([item.prompt]),
                decoder_input_ids=torch.tensor([(0, *option[:-1])]),
            ).logits[0]
            assert logits.dtype == torch.float64
            chosen = logits.log_softmax(-1)[range(len(option)), list(option)]
            rows[-1].append(float(chosen.sum()))
    return rows
