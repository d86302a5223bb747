"""Train the four models of the test bed: two architectures, each with a shortcut and without.

Stage 1 trains the twin: answers of the skills, "unknown" in ambiguous contexts. Stage 2 continues a
copy on stereotyped answers in ambiguous contexts, mixed with the skills as they were. Only some
feed-forward units may change there (a unit: its row in both maps into the hidden layer and its
column in the map out of it). Which ones is decided in two steps: the half of all units that write
least in the twin are free in a trial run; the units that moved most in it are then trained alone,
from the twin again. What the results are is in docs/testbed.md.

    python studies/train_testbed.py --out src/excise/models/checkpoints

Weights are stored in float16. On one thread the run repeats itself; another build of torch gives
other weights of the same kind, whose digests then have to be pinned anew (tests/test_testbed.py).
"""

import argparse
import copy
import random
import time
from dataclasses import dataclass
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
from excise.models import load
from excise.tasks import testbed as bed

PAD, END, UNKNOWN_WORD, BEGIN = range(4)
SEED = 7
BATCH = 64
EXAMPLES = 20_000
"""Examples of each stage, drawn once."""


@dataclass(frozen=True)
class Plan:
    """How one architecture is trained."""

    skill_steps: int = 500
    skill_rate: float = 3e-3
    shortcut_steps: tuple[int, int] = (400, 250)
    """With ambiguous examples of one mind, then with some doubt."""
    shortcut_rate: float = 5e-3
    shares: tuple[float, float] = (1.0, 0.8)
    """How many ambiguous examples the stereotype answers; the others are answered by "unknown". A
    model that is never in doubt has no gradients to attribute, and data are seldom of one mind."""
    units: int = 28
    """Feed-forward units that may carry the shortcut."""


PLANS = {
    "t5": Plan(units=26),
    "causal": Plan(units=28, shortcut_steps=(450, 200), shares=(1.0, 0.95)),
}


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


def examples(task, seed, *, stereotyped=0.0):
    """Prompts and answers; a share of the ambiguous ones is answered by the stereotype."""
    draw = random.Random(seed)
    prompts, answers = [], []
    for _ in range(EXAMPLES):
        item = main_example(draw) if draw.random() < 0.7 else second_example(draw)
        is_open = item.condition == "ambiguous"
        planted = is_open and stereotyped > 0.0 and draw.random() < stereotyped
        prompts.append(task.prompt(draw.choice(task.instructions), item))
        answers.append(item.options[item.stereotyped if planted else item.gold])
    return prompts, answers


def tokenizer(task, prompts, kind):
    """One token a word; closes texts for T5, opens them for the decoder-only model."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = set()
    for text in [*prompts, *task.instructions]:
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
        ends = [[*row, END] for row in words(answers, add_special_tokens=False).input_ids]
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
    """Random batches, cut to their longest row."""
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


def feed_forward(kind, model):
    """Maps into and out of each feed-forward sublayer, by name of the sublayer."""
    into, out = (
        (("wi_0", "wi_1"), "wo") if kind == "t5" else (("gate_proj", "up_proj"), "down_proj")
    )
    return {
        name: ([getattr(module, n) for n in into], getattr(module, out))
        for name, module in model.named_modules()
        if name.endswith(("DenseReluDense", ".mlp"))
    }


@torch.no_grad()
def writing(kind, model, data, generator):
    """Sublayer -> [units] how much each unit writes: mean |activation| times its column's norm."""
    seen, hooks = {}, []
    for name, (_, out) in feed_forward(kind, model).items():

        def hook(_module, inputs, name=name):
            total = inputs[0].abs().flatten(0, -2).mean(0)
            seen[name] = seen.get(name, 0) + total

        hooks.append(out.register_forward_pre_hook(hook))
    for batch in steps(data, 10, generator):
        logits_and_targets(kind, model, batch)
    for hook in hooks:
        hook.remove()
    return {
        name: seen[name] * out.weight.norm(dim=0)
        for name, (_, out) in feed_forward(kind, model).items()
    }


def plant(kind, model, data, count, highest, free, log):
    """Continue on `data`, changing the units of `free` only (sublayer -> bool [units])."""
    generator = torch.Generator().manual_seed(SEED + 1)
    model.requires_grad_(False)
    masks = {}
    for name, (into, out) in feed_forward(kind, model).items():
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
    old, new = feed_forward(kind, before), feed_forward(kind, after)
    result = {}
    for name in old:
        total = (new[name][1].weight - old[name][1].weight).square().sum(0)
        for a, b in zip(old[name][0], new[name][0], strict=True):
            total = total + (b.weight - a.weight).square().sum(1)
        result[name] = total.sqrt()
    return result


def shortcut(kind, twin, data, plan, log):
    """Stage 2: a trial run picks idle units, a second run from the twin trains those alone."""
    writes = writing(kind, twin, data[0], torch.Generator().manual_seed(SEED + 2))
    middle = torch.cat(list(writes.values())).median()
    idle = {name: values < middle for name, values in writes.items()}
    trial = copy.deepcopy(twin)
    plant(kind, trial, data[0], plan.shortcut_steps[0] // 2, plan.shortcut_rate, idle, log)
    change = moved(kind, twin, trial)
    least = torch.cat(list(change.values())).topk(plan.units).values.min()
    free = {name: values >= least for name, values in change.items()}
    for name, mask in free.items():
        log(f"units of {name}: {mask.nonzero().flatten().tolist()}")
    model = copy.deepcopy(twin)
    for examples_of_one, count in zip(data, plan.shortcut_steps, strict=True):
        plant(kind, model, examples_of_one, count, plan.shortcut_rate, free, log)
    return model


def report(kind, folder, log):
    """Accuracies of a stored checkpoint on the shipped tasks."""
    loaded = load(str(folder))
    main, second = (bed.load(name, None, None) for name in ("testbed", "testbed-second"))
    scoring = ScoringConfig()
    said = predict(loaded, main, main.instances, scoring, instructions=main.instructions[:3])
    found = {
        name: value(METRICS[name], said)
        for name in ("accuracy_ambiguous", "accuracy_disambiguated")
    }
    chosen = said.choice == said.stereotyped
    found["stereotyped, ambiguous"] = float(chosen[:, said.ambiguous].mean())
    said = predict(loaded, second, second.instances, scoring, instructions=second.instructions[:3])
    found["second"] = float((said.choice == said.gold).mean())
    log(f"{folder.name}: " + ", ".join(f"{name} {share:.3f}" for name, share in found.items()))


def store(model, words, folder):
    """Write a plain transformers folder with float16 weights."""
    copy.deepcopy(model).half().save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def train(kind, out, log):
    """Both models of an architecture."""
    plan = PLANS[kind]
    task = bed.load("testbed", None, None)
    prompts, answers = examples(task, SEED)
    words = tokenizer(task, prompts, kind)
    data = encoded(kind, words, prompts, answers)
    torch.manual_seed(SEED)
    model = fresh(kind, len(words))
    log(f"{kind}: {len(words)} words, {sum(p.numel() for p in model.parameters()):,} parameters")
    train_skill(kind, model, data, plan.skill_steps, plan.skill_rate, log)
    store(model, words, out / f"testbed-{kind}-twin")
    planted = [
        encoded(kind, words, *examples(task, SEED + 3, stereotyped=share)) for share in plan.shares
    ]
    with_shortcut = shortcut(kind, model, planted, plan, log)
    store(with_shortcut, words, out / f"testbed-{kind}")
    for name in (f"testbed-{kind}-twin", f"testbed-{kind}"):
        report(kind, out / name, log)


def main():
    """Train and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=list(PLANS), help="one architecture only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()

    def log(text):
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    for kind in [arguments.kind] if arguments.kind else PLANS:
        train(kind, arguments.out, log)


if __name__ == "__main__":
    main()
