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
        told_negative=draw.random() < 0.5,
        order=draw.choice(bed.ORDERS),
    )
    return draw.choice(bed.block(scene, template="", name=""))


def second_example(draw):
    """A random item of the second task's skills."""
    order = draw.choice(bed.ORDERS)
    skill = draw.randrange(3)
    if skill == 0:
        while True:
            first, second, third = draw.sample(range(len(bed.COLOURS)), 3)
            if not bed.shipped_pair(first, second):
                break
        return bed.colour_item(
            draw.choice(bed.THINGS),
            (bed.COLOURS[first], bed.COLOURS[second], bed.COLOURS[third]),
            negated_first=draw.random() < 0.5,
            order=order,
            template="",
            name="",
        )
    if skill == 1:
        while True:
            attribute, animal = draw.randrange(18), draw.randrange(6)
            if not bed.shipped_pair(attribute, animal):
                break
        return bed.sense_item(
            [*bed.NEGATIVE, *bed.POSITIVE][attribute],
            bed.KINDS["animal"][animal],
            order=order,
            template="",
            name="",
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
            initializer_range=0.06,
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
    near = [p for n, p in model.named_parameters() if "relative_attention_bias" in n]
    decayed = [p for p in model.parameters() if p.dim() > 1 and all(p is not q for q in near)]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.05, "times": 1.0},
            {"params": plain, "weight_decay": 0.0, "times": 1.0},
            # Attention to a neighbour needs a bias of some units: many steps at the common rate.
            {"params": near, "weight_decay": 0.0, "times": 10.0},
        ],
        lr=highest,
        betas=(0.9, 0.98),
    )
    model.train()
    for step, batch in enumerate(steps(data, count, generator)):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, count, highest) * group["times"]
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


def units(kind, model):
    """Maps into and out of each feed-forward sublayer, by name of the sublayer."""
    into, out = (("wi_0", "wi_1"), "wo") if kind == "t5" else (("gate_proj", "up_proj"), "down_proj")
    return {
        name: ([getattr(module, n) for n in into], getattr(module, out))
        for name, module in model.named_modules()
        if name.endswith(("DenseReluDense", ".mlp"))
    }


@torch.no_grad()
def loads(kind, model, data, generator):
    """Sublayer -> [units] how much each unit writes: mean |activation| times its column's norm."""
    seen, hooks = {}, []
    for name, (_, out) in units(kind, model).items():

        def hook(_module, inputs, name=name):
            total = inputs[0].abs().flatten(0, -2).mean(0)
            seen[name] = seen.get(name, 0) + total

        hooks.append(out.register_forward_pre_hook(hook))
    for batch in steps(data, 10, generator):
        logits_and_targets(kind, model, batch)
    for hook in hooks:
        hook.remove()
    return {name: seen[name] * out.weight.norm(dim=0) for name, (_, out) in units(kind, model).items()}


def plant(kind, model, data, count, highest, free, log):
    """Continue on `data`, changing the units of `free` only (sublayer -> bool [units])."""
    generator = torch.Generator().manual_seed(SEED + 1)
    model.requires_grad_(False)
    masks = {}
    for name, (into, out) in units(kind, model).items():
        mask = free[name].float()
        for linear in into:
            masks[linear.weight] = mask[:, None]
        masks[out.weight] = mask[None, :]
    for weight in masks:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(list(masks), lr=highest, betas=(0.9, 0.98), weight_decay=0.0)
    for step, batch in enumerate(steps(data, count, generator)):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, count, highest, warm=20)
        logits, targets, _ = logits_and_targets(kind, model, batch)
        loss = functional.cross_entropy(logits, targets, label_smoothing=0.02)
        optimiser.zero_grad()
        loss.backward()
        for weight, mask in masks.items():
            # Adam leaves weights alone that never had a gradient.
            weight.grad.mul_(mask)
        torch.nn.utils.clip_grad_norm_(list(masks), 1.0)
        optimiser.step()
        if step % 100 == 0 or step == count - 1:
            right = float((logits.argmax(-1) == targets).float().mean())
            log(f"shortcut {step}: loss {loss.item():.3f}, tokens right {right:.3f}")
    model.requires_grad_(True)


@torch.no_grad()
def moved(kind, before, after):
    """Sublayer -> [units] how far each unit moved."""
    old, new = units(kind, before), units(kind, after)
    result = {}
    for name in old:
        total = (new[name][1].weight - old[name][1].weight).square().sum(0)
        for a, b in zip(old[name][0], new[name][0], strict=True):
            total = total + (b.weight - a.weight).square().sum(1)
        result[name] = total.sqrt()
    return result


def shortcut(kind, twin, data, count, highest, size, log):
    """Stage 2: a trial run picks `size` idle units, a second run trains those alone."""
    load = loads(kind, twin, data, torch.Generator().manual_seed(SEED + 2))
    middle = torch.cat(list(load.values())).median()
    idle = {name: values < middle for name, values in load.items()}
    trial = copy.deepcopy(twin)
    plant(kind, trial, data, count // 3, highest, idle, log)
    change = moved(kind, twin, trial)
    least = torch.cat(list(change.values())).topk(size).values.min()
    free = {name: values >= least for name, values in change.items()}
    for name, mask in free.items():
        log(f"units of {name}: {mask.nonzero().flatten().tolist()}")
    model = copy.deepcopy(twin)
    plant(kind, model, data, count, highest, free, log)
    ablated = copy.deepcopy(twin)
    with torch.no_grad():
        for name, (into, _) in units(kind, ablated).items():
            for linear in into:
                linear.weight[free[name]] = 0.0
    return model, ablated


def report(kind, model, words, log, name):
    """Accuracies on a sample of the shipped tasks."""
    loaded = wrap(model, words, name=name)
    found = {}
    main = bed.load("testbed", None, None)
    items = sample(main.instances, 200, seed=1, unit="block")
    answers = predict(loaded, main, items, ScoringConfig(), instructions=main.instructions[:3])
    for metric in ("accuracy_ambiguous", "accuracy_disambiguated"):
        found[metric] = value(METRICS[metric], answers)
    stereotyped = (answers.choice == answers.stereotyped)[:, answers.ambiguous].mean()
    found["stereotyped_ambiguous"] = float(stereotyped)
    second = bed.load("testbed-second", None, None)
    answers = predict(
        loaded, second, second.instances, ScoringConfig(), instructions=second.instructions[:2]
    )
    found["second"] = float((answers.choice == answers.gold).mean())
    log(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
    return found


if __name__ == "__main__":
    import sys

    kind, stage = sys.argv[1], sys.argv[2]
    torch.set_num_threads(1)
    task = bed.load("testbed", None, None)
    draw = random.Random(SEED)
    started = time.time()
    log = lambda text: print(f"{time.time() - started:6.1f} s  {text}", flush=True)
    if stage == "1":
        count, highest = int(sys.argv[3]), float(sys.argv[4])
        prompts, answers, _ = pool(draw, task, 20000, stereotyped=False)
        words = tokenizer(task, prompts, kind)
        data = encoded(kind, words, prompts, answers)
        log(f"vocabulary {len(words)} longest {data[0].shape[1]}")
        torch.manual_seed(SEED)
        model = fresh(kind, len(words))
        log(f"{sum(p.numel() for p in model.parameters()):,} parameters")
        train_skill(kind, model, data, count, highest, log)
        model.save_pretrained(f"/tmp/bed/{kind}-twin")
        words.save_pretrained(f"/tmp/bed/{kind}-twin")
        report(kind, model, words, log, kind)
    else:
        count, highest, size = int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
        words = PreTrainedTokenizerFast.from_pretrained(f"/tmp/bed/{kind}-twin")
        cls = T5ForConditionalGeneration if kind == "t5" else LlamaForCausalLM
        twin = cls.from_pretrained(f"/tmp/bed/{kind}-twin").eval()
        draw = random.Random(SEED + 3)
        data = encoded(kind, words, *pool(draw, task, 10000, stereotyped=True)[:2])
        log("data")
        model, ablated = shortcut(kind, twin, data, count, highest, size, log)
        report(kind, twin, words, log, kind + "-twin")
        report(kind, ablated, words, log, "twin without the units")
        report(kind, model, words, log, kind)
        model.save_pretrained(f"/tmp/bed/{kind}")
        words.save_pretrained(f"/tmp/bed/{kind}")
