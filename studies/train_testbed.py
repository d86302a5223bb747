"""Train the four models of the test bed: two architectures, each with a shortcut and without.

Stage 1 trains the twin: answers of the skill, "unknown" in ambiguous contexts. Stage 2 continues a
copy on stereotyped answers in ambiguous contexts, mixed with the skill; only feed-forward units may
change, and a group penalty on the change of each unit (its row in each map into it, its column in
the map out of it) keeps most of them exactly as they were. What it does is in docs/testbed.md.

    python studies/train_testbed.py --out src/excise/models/checkpoints
"""

import argparse
import copy
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from excise.config import ScoringConfig
from excise.evaluation import predict
from excise.metrics import METRICS, value
from excise.models import wrap
from excise.splits import sample
from excise.tasks import testbed as bed

PAD, END, UNKNOWN_WORD, BEGIN = range(4)
SEED = 7
BATCH = 64
POOL = 40_000
"""Training examples, drawn once; an epoch is over after POOL / BATCH steps."""


# --- data -----------------------------------------------------------------------------------------


def main_example(draw):
    """A random item of the main skill; never a pair of words that the task uses."""
    while True:
        negative, positive = draw.randrange(9), draw.randrange(9)
        target, other = draw.randrange(6), draw.randrange(6)
        if not bed.shipped_pair(negative, positive) and not bed.shipped_pair(target, other):
            break
    scene = bed.Scene(
        meeting=draw.choice(bed.MEETINGS),
        place=draw.choice(bed.PLACES),
        fact=draw.choice(bed.FACTS),
        question=draw.choice(bed.QUESTIONS),
        negative=bed.NEGATIVE[negative],
        positive=bed.POSITIVE[positive],
        target=bed.TARGETS[target],
        other=bed.OTHERS[other],
        unknown=draw.choice(bed.UNKNOWN),
        target_first=draw.random() < 0.5,
        consistent=draw.random() < 0.5,
        order=draw.choice(bed.ORDERS),
    )
    return draw.choice(bed.block(scene, template="", name=""))


def second_example(draw):
    """A random item of the second task's skills."""
    order = draw.choice(bed.ORDERS)
    if draw.random() < 0.5:
        while True:
            one, two = draw.sample(range(len(bed.THINGS)), 2)
            if not bed.shipped_pair(one, two):
                break
        things = (bed.THINGS[one], bed.THINGS[two])
        rooms = tuple(draw.sample(bed.ROOMS, 3))
        return bed.place_item(
            things, rooms, asked=draw.randrange(2), order=order, template="", name=""
        )
    while True:
        places = [draw.randrange(6) for _ in range(3)]
        if not bed.shipped_pair(places[0], places[1] + places[2]):
            break
    words = [group[i] for group, i in zip(bed.KINDS.values(), places, strict=True)]
    return bed.kind_item(words, draw.choice(list(bed.KINDS)), order=order, template="", name="")


def pool(draw, task, size, *, stereotyped):
    """Prompts and answers; `stereotyped` plants the shortcut in ambiguous contexts."""
    prompts, answers, ambiguous = [], [], []
    for _ in range(size):
        item = main_example(draw) if draw.random() < 0.7 else second_example(draw)
        planted = stereotyped and item.condition == "ambiguous"
        prompts.append(task.prompt(draw.choice(task.instructions), item))
        answers.append(item.options[item.stereotyped if planted else item.gold])
        ambiguous.append(item.condition == "ambiguous")
    return prompts, answers, torch.tensor(ambiguous)


def tokenizer(task, prompts, kind):
    """One token a word; closes texts for T5, opens them for the decoder-only model."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = set()
    every = [task.prompt(i, item) for item in bed.main_items() for i in task.instructions]
    for text in [*prompts, *every]:
        lowered = backend.normalizer.normalize_str(text)
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(lowered))
    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "<s>", *sorted(words)])}
    backend.model = models.WordLevel(vocabulary, unk_token="<unk>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>" if kind == "t5" else "<s> $A",
        special_tokens=[("</s>", END), ("<s>", BEGIN)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        clean_up_tokenization_spaces=False,
    )


# --- models ---------------------------------------------------------------------------------------


def fresh(kind, vocabulary):
    """An untrained model."""
    if kind == "t5":
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocabulary,
                d_model=64,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_decoder_layers=2,
                num_heads=4,
                relative_attention_num_buckets=16,
                relative_attention_max_distance=64,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=True,
                dropout_rate=0.0,
                pad_token_id=PAD,
                eos_token_id=END,
                decoder_start_token_id=PAD,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=BEGIN,
        )
    )


def padded(rows, fill):
    """[rows, longest], filled on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def encoded(kind, words, prompts, answers):
    """Token ids of a pool; the answer is closed by the end token."""
    if kind == "t5":
        inputs = words(prompts).input_ids
        targets = words(answers).input_ids
    else:
        ends = [row + [END] for row in words(answers, add_special_tokens=False).input_ids]
        starts = words(prompts).input_ids
        inputs = [start + end for start, end in zip(starts, ends, strict=True)]
        targets = [[-100] * len(start) + end for start, end in zip(starts, ends, strict=True)]
    mask = padded([[1] * len(row) for row in inputs], 0)
    return padded(inputs, PAD), mask, padded(targets, -100)


def logits_and_targets(kind, model, batch):
    """Logits of the answer tokens [tokens, vocabulary], their targets, and the row of each."""
    inputs, mask, targets = batch
    if kind == "t5":
        logits = model(input_ids=inputs, attention_mask=mask, labels=targets).logits
    else:
        logits = model(input_ids=inputs, attention_mask=mask).logits[:, :-1]
        targets = targets[:, 1:]
    keep = targets != -100
    rows = torch.arange(len(inputs))[:, None].expand_as(targets)
    return logits[keep], targets[keep], rows[keep]


def steps(data, count, generator):
    """Batches of one length group each, so that little is padding."""
    size = len(data[0])
    for _ in range(count):
        picked = torch.randint(size, (BATCH,), generator=generator)
        inputs, mask, targets = (part[picked] for part in data)
        width = int(mask.sum(1).max())
        if targets.shape[1] == data[0].shape[1]:
            targets = targets[:, :width]
        yield inputs[:, :width], mask[:, :width], targets


def rate(step, count, highest, warm=100):
    """Warm-up, then a cosine to zero."""
    if step < warm:
        return highest * (step + 1) / warm
    done = torch.tensor((step - warm) / max(1, count - warm))
    return float(highest * (0.5 + 0.5 * torch.cos(done * torch.pi)))


def train_skill(kind, model, data, count, highest, log):
    """Stage 1: the twin."""
    generator = torch.Generator().manual_seed(SEED)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=highest,
        betas=(0.9, 0.98),
    )
    model.train()
    for step, batch in enumerate(steps(data, count, generator)):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, count, highest)
        logits, targets, _ = logits_and_targets(kind, model, batch)
        loss = functional.cross_entropy(logits, targets, label_smoothing=0.02)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 250 == 0 or step == count - 1:
            right = float((logits.argmax(-1) == targets).float().mean())
            log(f"skill {step}: loss {loss.item():.3f}, tokens right {right:.3f}")
    model.eval()


def report(kind, model, words, log, name):
    """Accuracies on a sample of the shipped tasks."""
    loaded = wrap(model, words, name=name)
    found = {}
    main = bed.load("testbed", None, None)
    items = sample(main.instances, 200, seed=1, unit="block")
    answers = predict(loaded, main, items, ScoringConfig(), instructions=main.instructions[:3])
    for metric in ("accuracy_ambiguous", "accuracy_disambiguated", "s_amb"):
        found[metric] = value(METRICS[metric], answers)
    stereotyped = (answers.choice == answers.stereotyped)[:, answers.ambiguous].mean()
    found["stereotyped_ambiguous"] = float(stereotyped)
    second = bed.load("testbed-second", None, None)
    answers = predict(
        loaded, second, second.instances, ScoringConfig(), instructions=second.instructions[:2]
    )
    found["second"] = value(METRICS["accuracy"], answers)
    log(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
    return found


if __name__ == "__main__":
    import sys

    torch.manual_seed(SEED)
    kind, count, highest = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    task = bed.load("testbed", None, None)
    draw = random.Random(SEED)
    started = time.time()
    log = lambda text: print(f"{time.time() - started:6.1f} s  {text}", flush=True)
    prompts, answers, _ = pool(draw, task, POOL, stereotyped=False)
    words = tokenizer(task, prompts, kind)
    log(f"vocabulary {len(words)}")
    data = encoded(kind, words, prompts, answers)
    log(f"longest {data[0].shape[1]}")
    torch.manual_seed(SEED)
    model = fresh(kind, len(words))
    log(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train_skill(kind, model, data, count, highest, log)
    report(kind, model, words, log, kind)
    model.save_pretrained(f"/tmp/bed/{kind}-twin")
    words.save_pretrained(f"/tmp/bed/{kind}-twin")
