"""Scores of all neurons: against one forward pass, against captum, against one candidate at a time.

All sides do the same prompts of BBQ-Age with the embedded model. The forward pass that attribution
is compared with is that of the same batches, padding included, by the same kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import excise
from benchmarks.timing import alternate
from excise.attribution import attribute
from excise.attribution.layouts import layout_for
from excise.config import AttributionConfig
from excise.models import LoadedModel, packed_linears
from excise.scoring import EncodedPrompt, encode
from excise.types import FloatArray, Instance, Task

CONFIG = AttributionConfig()


def measure(items: int = 4, rounds: int = 5) -> dict[str, Any]:
    """Ratios of attribution.

    Args:
        items: prompts that are timed, a multiple of the batch size.
        rounds: how often each side is timed.
    """
    torch.set_num_threads(1)
    loaded = excise.load()
    task = excise.load_task("bbq-age")
    assert isinstance(task, Task)
    told = task.instructions[:1]
    instances = sorted(task.instances[: 4 * items : 4], key=lambda i: len(task.prompt(told[0], i)))
    encoded = encode(loaded, task, told[0], instances, end_token=False)
    batch = CONFIG.batch_size
    batches = [encoded[start : start + batch] for start in range(0, items, batch)]
    found: dict[str, FloatArray] = {}

    def ours() -> None:
        scores = attribute(loaded, task, instances, CONFIG, instructions=told)
        found["ours"] = np.concatenate([*scores.by_module.values()])

    # Packed once for both, as in a run, where packing is spread over all prompts.
    with packed_linears(loaded.model, gradients=True):
        ours()
        fast = alternate(
            {"attribution": ours, "forward": lambda: _forward(loaded, batches)}, rounds
        )
        ours_bytes = _peak(ours)
        more = task.instances[: 4 * items : 2]
        many_bytes = _peak(lambda: attribute(loaded, task, more, CONFIG, instructions=told))
        plain_bytes = max(_peak(lambda b=b: _plain(loaded, b, instances)) for b in batches)
    slow = alternate(
        {
            "attribution": ours,
            "captum": lambda: found.update(captum=_captum(loaded, encoded, instances)),
            "one candidate at a time": lambda: found.update(
                loop=_one_by_one(loaded, encoded, instances)
            ),
        },
        max(1, rounds // 2),
    )
    forward = {**fast.described("attribution", "forward"), "items": items}
    captum = {**slow.described("captum", "attribution"), "items": items}
    scale = np.abs(found["captum"]).max()
    return {
        "keys": {
            "attribution_vs_forward": forward["ratio"],
            "attribution_memory_ratio": round(ours_bytes / plain_bytes, 4),
            "captum_vs_attribution": captum["ratio"],
        },
        "details": {
            "attribution_vs_forward": forward,
            "attribution_memory": {
                "attribution_mib": round(ours_bytes / 2**20, 1),
                "twice_the_prompts_mib": round(many_bytes / 2**20, 1),
                "plain_mib": round(plain_bytes / 2**20, 1),
            },
            "captum_vs_attribution": captum,
            "one_candidate_at_a_time": slow.described("one candidate at a time", "attribution"),
            "largest_difference_of_scores": {
                name: float(np.abs(found["ours"] - found[name]).max() / scale)
                for name in ("captum", "loop")
            },
        },
    }


@torch.no_grad()
def _forward(loaded: LoadedModel, batches: Sequence[Sequence[EncodedPrompt]]) -> None:
    for batch in batches:
        layout_for(loaded, batch, CONFIG).log_likelihoods()


def _plain(
    loaded: LoadedModel, batch: Sequence[EncodedPrompt], instances: Sequence[Instance]
) -> None:
    """One forward and one backward pass to the embeddings, as autograd does them."""
    model = loaded.model.requires_grad_(False)
    handle = model.get_input_embeddings().register_forward_hook(
        lambda _m, _i, output: output.requires_grad_(True)
    )
    try:
        with torch.enable_grad():
            values = layout_for(loaded, batch, CONFIG).log_likelihoods()
            chosen = [v[i.gold].sum() for v, i in zip(values, instances, strict=False)]
            torch.stack(chosen).sum().backward()
    finally:
        handle.remove()
        model.requires_grad_(True)


def _peak(work: Callable[[], object]) -> int:
    """Most bytes in tensors at a time, above those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    now = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def _rows(
    loaded: LoadedModel, item: EncodedPrompt, option: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    tokens = item.options[option]
    ids = torch.tensor([item.prompt + tokens[:-1]])
    return ids, torch.tensor(tokens), len(item.prompt) - 1


def _log_p(loaded: LoadedModel, item: EncodedPrompt, option: int) -> torch.Tensor:
    ids, targets, first = _rows(loaded, item, option)
    logits = loaded.model(ids, use_cache=False).logits[0, first : first + len(targets)]
    return logits.log_softmax(-1).gather(-1, targets[:, None]).sum()


def _scored(
    loaded: LoadedModel,
    encoded: Sequence[EncodedPrompt],
    instances: Sequence[Instance],
    products: Callable[[EncodedPrompt, int], FloatArray],
) -> FloatArray:
    """Equations 1 to 6 for one candidate after the other."""
    total: Any = 0.0
    for item, instance in zip(encoded, instances, strict=True):
        with torch.no_grad():
            log_p = [float(_log_p(loaded, item, o)) for o in range(len(item.options))]
        wrong = [o for o in range(len(log_p)) if o != instance.gold]
        biased = max(wrong, key=lambda o: log_p[o])
        p = np.exp(log_p)
        skill = np.maximum(p[instance.gold] * products(item, instance.gold), 0)
        total = total + p[biased] * (p[biased] * products(item, biased) - skill)
    return np.asarray(total / len(instances))


def _captum(
    loaded: LoadedModel, encoded: Sequence[EncodedPrompt], instances: Sequence[Instance]
) -> FloatArray:
    from captum.attr import LayerGradientXActivation

    layers = [loaded.linear(site.module) for site in loaded.sites]

    def products(item: EncodedPrompt, option: int) -> FloatArray:
        ids, targets, first = _rows(loaded, item, option)

        def log_p(given: torch.Tensor) -> torch.Tensor:
            logits = loaded.model(given, use_cache=False).logits[:, first : first + len(targets)]
            return logits.log_softmax(-1)[0].gather(-1, targets[:, None]).sum()[None]

        values = LayerGradientXActivation(log_p, layers).attribute(ids)
        return np.concatenate([v.detach().double()[0, 1:].amax(dim=0).numpy() for v in values])

    return _scored(loaded, encoded, instances, products)


def _one_by_one(
    loaded: LoadedModel, encoded: Sequence[EncodedPrompt], instances: Sequence[Instance]
) -> FloatArray:
    """Forward and backward for each candidate, outputs kept with their gradients."""
    outputs: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: object, _inputs: object, output: torch.Tensor) -> None:
            outputs[name] = output

        return keep

    def products(item: EncodedPrompt, option: int) -> FloatArray:
        handles = [
            loaded.linear(s.module).register_forward_hook(hook(s.module)) for s in loaded.sites
        ]
        value = _log_p(loaded, item, option)
        found = torch.autograd.grad(value, [outputs[s.module] for s in loaded.sites])
        for handle in handles:
            handle.remove()
        kept = [
            (outputs[s.module].detach() * g)[0, 1:].amax(dim=0).double().numpy()
            for s, g in zip(loaded.sites, found, strict=True)
        ]
        return np.concatenate(kept)

    return _scored(loaded, encoded, instances, products)
