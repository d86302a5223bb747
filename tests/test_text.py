"""Plain text: files as tasks, perplexity against token-by-token loops, divergence by hand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from excise.config import Preset, TextConfig
from excise.errors import (
    ConfigError,
    ModelError,
    NonFiniteError,
    PatchMismatchError,
    TaskFormatError,
)
from excise.evaluation import ask, passages
from excise.evaluation.passages import read_passages
from excise.metrics import METRICS, evaluate_metric, metrics_of, value
from excise.models import LoadedModel
from excise.patches import Patch
from excise.tasks import load_task, texts
from excise.types import FloatArray, Neuron, Passage, Readings, TextTask

TEXTS = (
    "An old man and a young man met at the market. Who forgot the keys?",
    "Zebra quiz: 17 µ and größer.",
    "The grandson was late. The grandfather was early. Not enough information, he said, and "
    "went to the market to look for the keys that the young man had forgotten.",
    "No.",
)
WINDOW = TextConfig(window=16)


def passage(number: int, text: str) -> Passage:
    return Passage(f"passage-{number}", text, f"passage-{number}", f"passage-{number}")


PASSAGES = tuple(passage(n, text) for n, text in enumerate(TEXTS))


def text_task(instances: tuple[Passage, ...] = PASSAGES) -> TextTask:
    return TextTask("toy", instances, "none", "none", "0" * 64, texts.METRICS)


def read(model: LoadedModel, chosen: tuple[Passage, ...] = PASSAGES, **options: Any) -> Readings:
    config = options.pop("config", WINDOW)
    return read_passages(model, text_task(chosen), chosen, config, **options)


def without_begin(model: LoadedModel) -> LoadedModel:
    model.tokenizer.bos_token = None
    return model


def patch_of(model: LoadedModel, factor: float = 0.0, n: int = 12) -> Patch:
    neurons = tuple(Neuron(site.module, 1) for site in model.sites[len(model.sites) - n :])
    return Patch(neurons, (0.0,) * len(neurons), model.name, model.digest, factor)


# --- files ----------------------------------------------------------------------------------------


def test_a_text_file_is_a_task_of_its_paragraphs(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    content = "\ufeff\n\n First line\r\nsecond line. \r\n \t \r\n\r\nAgain.\n\nLast.\n\nAgain.\n"
    file.write_bytes(content.encode())
    task = load_task(file)
    assert isinstance(task, TextTask)
    assert task.name == "notes"
    assert [i.text for i in task.instances] == [
        "First line\nsecond line.",
        "Again.",
        "Last.",
        "Again.",
    ]
    assert len({i.id for i in task.instances}) == 4
    # Repeats are no independent text.
    units = [i.template for i in task.instances]
    assert units[1] == units[3]
    assert len(set(units)) == 3
    assert task.digest == hashlib.sha256(content.encode()).hexdigest()
    assert [m.name for m in metrics_of(task)] == ["perplexity", "bits_per_byte", "kl_divergence"]


def test_markdown_is_plain_text_too(tmp_path: Path) -> None:
    file = tmp_path / "PAGE.MD"
    file.write_text("# Title\n\nA *word*.\n", encoding="utf-8")
    task = load_task(str(file))
    assert [i.text for i in task.instances if isinstance(i, Passage)] == ["# Title", "A *word*."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"notes\.txt: cannot be read \(No such file or directory\); check the path\.$"),
        (b"", r"notes\.txt: holds no text; give at least one paragraph\.$"),
        (b" \n\n\t\n", r"notes\.txt: holds no text; give at least one paragraph\.$"),
        (b"good\nb\xe4d\n", r"notes\.txt, line 2: not UTF-8; save the file as UTF-8\.$"),
    ],
)
def test_files_that_cannot_be_read_are_refused_in_one_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "notes.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TaskFormatError, match=message) as raised:
        load_task(file)
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "notes.txt"
    folder.mkdir()
    with pytest.raises(TaskFormatError, match="cannot be read"):
        load_task(folder)


def test_runs_of_sentences_are_cut_by_words() -> None:
    sizes = [100, 150, 1, 249, 1, 250, 300, 2, 3]
    sentences = [" ".join(["word"] * size) for size in sizes]
    runs = [len(run.split()) for run in texts._runs(sentences)]
    assert runs == [250, 250, 1, 250, 300, 5]
    assert list(texts._runs([])) == []


@pytest.mark.real_data
def test_wikipedia_sentences_holds_every_sentence_once(bbq_data_dir: Path | None) -> None:
    if bbq_data_dir is None or not (bbq_data_dir / "glue" / "QNLI" / "dev.tsv").is_file():
        pytest.skip("QNLI is in no data package: set EXCISE_DATA")
    task = load_task("wikipedia-sentences", data_dir=bbq_data_dir)
    assert isinstance(task, TextTask)
    lines = (bbq_data_dir / "glue" / "QNLI" / "dev.tsv").read_text(encoding="utf-8").split("\n")
    sentences = {line.split("\t")[2].strip() for line in lines[1:] if line}
    assert len(sentences) == 3913
    whole = " ".join(i.text for i in task.instances)
    assert len(whole) == sum(len(sentence) + 1 for sentence in sentences) - 1
    assert all(sentence in whole for sentence in sentences)
    words = [len(i.text.split()) for i in task.instances]
    assert max(words) <= texts.PASSAGE_WORDS
    # No passage could have taken the next one's first words: they are full up to one sentence.
    assert min(words[:-1]) > texts.PASSAGE_WORDS - 160
    assert len(task.instances) == texts.ENTRIES[0].rows
    assert len({i.template for i in task.instances}) == len(task.instances)
    assert task.digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --- likelihood -----------------------------------------------------------------------------------


def distributions(model: LoadedModel, text: str, size: int) -> tuple[FloatArray, list[int]]:
    """[scored tokens, vocabulary] log-probabilities one token at a time, and the tokens scored."""
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    rows, scored = [], []
    for start in range(0, len(ids), size):
        window = ids[start : start + size]
        half = (len(window) + 1) // 2
        for place, token in enumerate(window):
            if model.encoder_decoder:
                if place < half:
                    continue
                inputs = {
                    "input_ids": torch.tensor([[*window[:half], tiny.END]]),
                    "decoder_input_ids": torch.tensor([[tiny.PAD, *window[half:place]]]),
                }
            else:
                begin = model.tokenizer.bos_token_id
                seen = [*([] if begin is None else [begin]), *window[:place]]
                if not seen:
                    continue
                inputs = {"input_ids": torch.tensor([seen])}
            with torch.no_grad():
                logits = model.model(**inputs).logits[0, -1].double().numpy()
            rows.append(logits - log(np.exp(logits - logits.max()).sum()) - logits.max())
            scored.append(token)
    return np.array(rows).reshape(len(rows), -1), scored


NAMES = ["llama", "mistral-window", "qwen2", "bloom", "t5", "mt5", "llama-no-begin"]


def loaded(name: str, **overrides: Any) -> LoadedModel:
    if name == "llama-no-begin":
        return without_begin(tiny.loaded("llama", kind="bare", **overrides))
    return tiny.loaded(name, **overrides)


@pytest.mark.parametrize("name", NAMES)
def test_likelihood_and_divergence_equal_a_loop_over_tokens(name: str) -> None:
    model = loaded(name)
    patch = patch_of(model)
    original = read(model)
    patched = read(model, patch=patch)
    assert not original.divergence.any()
    assert original.variant == patched.variant
    assert patched.divergence.sum() > 0.1
    np.testing.assert_array_equal(original.n_tokens, patched.n_tokens)
    for n, text in enumerate(TEXTS):
        before, tokens = distributions(model, text, WINDOW.window)
        with patch.applied(model):
            after, _ = distributions(model, text, WINDOW.window)
        assert original.n_tokens[n] == len(tokens)
        for table, readings in ((before, original), (after, patched)):
            expected = sum(table[place, token] for place, token in enumerate(tokens))
            assert readings.log_likelihood[n] == pytest.approx(expected, abs=2e-4)
        divergence = (np.exp(before) * (before - after)).sum()
        assert patched.divergence[n] == pytest.approx(divergence, abs=2e-4)


def test_the_divergence_is_from_the_original_not_towards_it() -> None:
    model = loaded("llama")
    patch = patch_of(model)
    before, _ = distributions(model, TEXTS[0], 16)
    with patch.applied(model):
        after, _ = distributions(model, TEXTS[0], 16)
    forth = float((np.exp(before) * (before - after)).sum())
    back = float((np.exp(after) * (after - before)).sum())
    assert abs(forth - back) > 0.01  # or this test would show nothing
    assert read(model, PASSAGES[:1], patch=patch).divergence[0] == pytest.approx(forth, abs=2e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_an_edit_that_changes_nothing_has_no_divergence(name: str) -> None:
    model = loaded(name)
    original = read(model)
    for patch in (patch_of(model, n=0), patch_of(model, factor=1.0)):
        same = read(model, patch=patch)
        assert not same.divergence.any()
        np.testing.assert_array_equal(same.log_likelihood, original.log_likelihood)


def test_the_model_comes_back_as_it_was() -> None:
    model = loaded("llama")
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    read(model, patch=patch_of(model))
    assert all(torch.equal(before[name], p) for name, p in model.model.named_parameters())
    assert not any(p.is_inference() for p in model.model.parameters())


@pytest.mark.parametrize("name", ["llama", "t5-gated", "llama-no-begin"])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(name: str) -> None:
    model = loaded(name, tie_word_embeddings=False)
    with torch.no_grad():
        model.model.get_output_embeddings().weight.zero_()
    readings = read(model)
    assert value(METRICS["perplexity"], readings) == pytest.approx(tiny.VOCABULARY, rel=1e-9)
    bits = log(tiny.VOCABULARY) / log(2) * readings.n_tokens.sum() / readings.n_bytes.sum()
    assert value(METRICS["bits_per_byte"], readings) == pytest.approx(bits, rel=1e-9)


@pytest.mark.parametrize("name", ["llama", "bloom", "t5", "llama-no-begin"])
def test_readings_do_not_depend_on_what_is_read_beside_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(name)
    patch = patch_of(model)
    together = read(model, patch=patch)
    backwards = read(model, PASSAGES[::-1], patch=patch)
    alone = [read(model, (item,), patch=patch) for item in PASSAGES]
    monkeypatch.setattr(passages, "MAX_LOGITS", 5 * tiny.VOCABULARY)  # five places at a time
    monkeypatch.setattr(passages, "_ROWS_AT_ONCE", 3)
    chunked = read(model, patch=patch)
    for field in ("log_likelihood", "divergence", "n_tokens", "n_bytes"):
        values = getattr(together, field)
        np.testing.assert_allclose(getattr(backwards, field)[::-1], values, rtol=0, atol=1e-4)
        np.testing.assert_allclose(getattr(chunked, field), values, rtol=0, atol=1e-4)
        single = np.concatenate([getattr(r, field) for r in alone])
        np.testing.assert_allclose(single, values, rtol=0, atol=1e-4)


def test_places_of_a_large_vocabulary_are_read_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("llama")
    seen: list[int] = []
    inner = passages._logits

    def watched(*arguments: Any) -> torch.Tensor:
        logits = inner(*arguments)
        seen.append(logits.numel())
        return logits

    monkeypatch.setattr(passages, "_logits", watched)
    read(model)
    assert max(seen) > 5 * tiny.VOCABULARY
    seen.clear()
    monkeypatch.setattr(passages, "MAX_LOGITS", 5 * tiny.VOCABULARY)
    read(model)
    assert max(seen) == 5 * tiny.VOCABULARY


def test_no_chat_template_is_used() -> None:
    bare, chat = tiny.loaded("llama", kind="bare"), tiny.loaded("llama", kind="chat")
    assert chat.chat_template
    np.testing.assert_array_equal(read(bare).log_likelihood, read(chat).log_likelihood)


# --- what is counted ------------------------------------------------------------------------------


def test_with_a_begin_token_every_token_and_byte_is_scored() -> None:
    model = loaded("llama")
    readings = read(model)
    ids = [model.tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert readings.n_tokens.tolist() == [len(tokens) for tokens in ids]
    assert readings.n_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert readings.variant == "windows of at most 16 tokens after the begin token, all scored"


def test_without_one_the_first_token_of_each_window_is_left_out() -> None:
    model = loaded("llama-no-begin")
    readings = read(model)
    assert readings.variant == "windows of at most 16 tokens, all scored but the first"
    for n, text in enumerate(TEXTS):
        ids = model.tokenizer(text, add_special_tokens=False).input_ids
        firsts = range(0, len(ids), 16)
        assert readings.n_tokens[n] == len(ids) - len(firsts)
        if text.isascii():
            left_out = sum(len(model.tokenizer.decode([ids[i]])) for i in firsts)
            assert readings.n_bytes[n] == len(text) - left_out


def test_a_character_of_several_tokens_counts_with_its_first_one() -> None:
    model = loaded("llama-no-begin")
    text = "µm"
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == 3  # two tokens for the two bytes of µ
    readings = read(model, (passage(0, text),))
    assert (readings.n_tokens[0], readings.n_bytes[0]) == (2, 1)


def test_the_encoder_reads_the_larger_first_half() -> None:
    model = loaded("t5")
    text = "The old man met the old man at the market."
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) % 2  # the odd token goes to the encoder
    readings = read(model, (passage(0, text),), config=TextConfig(window=64))
    assert readings.n_tokens[0] == len(ids) // 2
    second = model.tokenizer.decode(ids[(len(ids) + 1) // 2 :])
    assert readings.n_bytes[0] == len(second)
    assert "first half read by the encoder" in readings.variant


@pytest.mark.parametrize("name", ["llama-no-begin", "t5"])
def test_a_single_token_leaves_nothing_to_score(name: str) -> None:
    model = loaded(name)
    finished: list[int] = []
    readings = read(model, (passage(0, "a"), PASSAGES[0]), advance=finished.append)
    assert readings.n_tokens[0] == readings.n_bytes[0] == 0
    assert readings.n_tokens[1] > 0
    assert sum(finished) == 2
    only = read(model, (passage(0, "a"),), patch=patch_of(model))
    for name in texts.METRICS:
        assert value(METRICS[name], only) is None
        assert METRICS[name].undefined == "no token was scored"


def test_progress_counts_passages_not_windows() -> None:
    finished: list[int] = []
    read(loaded("llama"), advance=finished.append)
    assert finished == [1] * len(PASSAGES)


# --- refusals -------------------------------------------------------------------------------------


def test_a_masked_model_is_refused_in_one_line() -> None:
    model = loaded("llama")
    masked = replace(model, architecture=replace(model.architecture, kind="masked"))
    with pytest.raises(ModelError, match=r"^'tiny-llama' is a masked language model: .*'toy' out"):
        read(masked)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    model = loaded("llama")

    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="does not say which characters a token covers"):
        read(replace(model, tokenizer=Slow()))


def test_a_window_beyond_the_positions_is_refused_where_it_matters() -> None:
    model = loaded("llama", max_position_embeddings=24)
    wide = TextConfig(window=100)
    with pytest.raises(ConfigError, match=r"--set text\.window=24 or less"):
        read(model, config=wide)
    assert read(model, (PASSAGES[3],), config=wide).n_tokens[0] > 0
    read(model, config=TextConfig(window=24))


@pytest.mark.parametrize("patched", [False, True])
def test_a_broken_model_is_named_with_the_passage(patched: bool) -> None:
    model = loaded("llama", tie_word_embeddings=False)
    with torch.no_grad():
        model.model.lm_head.weight[5] = float("nan")
    with pytest.raises(NonFiniteError, match="passage 'passage-"):
        read(model, patch=patch_of(model) if patched else None)


def test_a_patch_of_another_model_needs_force() -> None:
    model, patch = loaded("llama"), patch_of(tiny.loaded("llama", seed=1))
    with pytest.raises(PatchMismatchError):
        read(model, patch=patch)
    forced = read(model, patch=patch, force=True)
    np.testing.assert_array_equal(
        forced.log_likelihood, read(model, patch=patch_of(model)).log_likelihood
    )


def test_a_text_is_asked_like_any_other_task() -> None:
    model = loaded("llama")
    patch = patch_of(model)
    asked = ask(model, text_task(), PASSAGES, Preset(text=WINDOW), patch=patch)
    assert isinstance(asked, Readings)
    np.testing.assert_array_equal(asked.divergence, read(model, patch=patch).divergence)


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_are_means_over_tokens_and_bytes() -> None:
    readings = Readings(
        PASSAGES[:3],
        log_likelihood=np.array([-2.0, -12.0, 0.0]),
        n_tokens=np.array([2, 3, 0]),
        n_bytes=np.array([4, 10, 0]),
        divergence=np.array([0.5, 2.5, 0.0]),
    )
    weights = np.array([[1, 1, 1], [3, 1, 0], [0, 1, 5], [0, 0, 7]], dtype=float)
    expected = {
        # totals over counts: 14 nats of 5 tokens, 18 of 9, 12 of 3
        "perplexity": [exp(14 / 5), exp(18 / 9), exp(12 / 3), np.nan],
        "bits_per_byte": [14 / log(2) / 14, 18 / log(2) / 22, 12 / log(2) / 10, np.nan],
        "kl_divergence": [3 / 5, 4 / 9, 2.5 / 3, np.nan],
    }
    assert set(expected) == set(texts.METRICS)
    for name, values in expected.items():
        found = evaluate_metric(METRICS[name], readings, weights)
        np.testing.assert_allclose(found, np.array(values)[:, None], rtol=1e-14, err_msg=name)


def test_a_wrecked_models_perplexity_stays_a_number() -> None:
    readings = Readings(
        PASSAGES[:1], np.array([-9e5]), np.array([3]), np.array([9]), np.array([0.0])
    )
    found = evaluate_metric(METRICS["perplexity"], readings, np.ones((1, 1))).item()
    assert found == pytest.approx(exp(700))
    json.dumps(found, allow_nan=False)
