"""Prompts with options: which one does a model choose?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from excise.config import ScoringConfig
from excise.errors import NonFiniteError
from excise.generation import generate_choices
from excise.models import LoadedModel, packed_linears
from excise.scoring import encode, scorer_for
from excise.types import FloatArray, Instance, IntArray, Normalisation, Predictions, Task


def predict(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: ScoringConfig,
    *,
    instructions: Sequence[str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Predictions:
    """The options that the model chooses.

    Args:
        loaded: the model in the state to be asked, patched or not.
        task: the prompt format.
        instances: the items to ask.
        config: how options are compared.
        instructions: the task's own by default.
        advance: called with the number of prompts just finished.

    Raises:
        ModelError: a masked language model.
        NonFiniteError: a log-likelihood that is NaN or infinite; names the instance.
    """
    loaded.refuse_masked(f"task {task.name!r}")
    asked = tuple(instructions if instructions is not None else task.instructions)
    if config.mode == "generation":
        rows = [
            generate_choices(
                loaded,
                task,
                instruction,
                instances,
                max_new_tokens=config.max_new_tokens,
                advance=advance,
            )
            for instruction in asked
        ]
        return Predictions(tuple(instances), asked, np.array(rows, dtype=np.int64))
    log_likelihood, n_tokens = _score(loaded, task, instances, config, asked, advance)
    compared = normalised(
        log_likelihood, n_tokens, byte_counts(instances), how_compared(loaded, task, config)
    )
    choice = likeliest(compared)
    return Predictions(tuple(instances), asked, choice, log_likelihood, n_tokens, compared)


def how_compared(loaded: LoadedModel, task: Task, config: ScoringConfig) -> Normalisation:
    """How options are compared: as the task's publication does, else as configured."""
    if task.normalisation is not None:
        return task.normalisation
    if config.normalisation == "auto":
        return "total" if loaded.encoder_decoder else "per_token"
    return config.normalisation


def normalised(
    log_likelihood: FloatArray,
    n_tokens: IntArray,
    n_bytes: IntArray,
    normalisation: Normalisation,
) -> FloatArray:
    """What options are compared by.

    Args:
        log_likelihood: [I, N, C] in nats, NaN for missing options.
        n_tokens: [I, N, C] scored tokens, 0 for missing options.
        n_bytes: [N, C] UTF-8 bytes of the option texts, 0 for missing options.
        normalisation: totals, or means per token or per byte.

    Returns:
        [I, N, C], NaN for missing options.
    """
    divisor = {
        "total": np.ones_like(log_likelihood),
        "per_token": np.maximum(n_tokens, 1).astype(np.float64),
        "per_byte": np.broadcast_to(np.maximum(n_bytes, 1), log_likelihood.shape),
    }[normalisation]
    return np.asarray(log_likelihood / divisor, dtype=np.float64)


def likeliest(compared: FloatArray) -> IntArray:
    """[I, N] the option with the largest value; of equals, the first."""
    return np.asarray(np.nanargmax(compared, axis=-1), dtype=np.int64)


def _score(
    loaded: LoadedModel,
    task: Task,
    instances: Sequence[Instance],
    config: ScoringConfig,
    instructions: Sequence[str],
    advance: Callable[[int], None] | None,
) -> tuple[FloatArray, IntArray]:
    widest = max(len(instance.options) for instance in instances)
    shape = (len(instructions), len(instances), widest)
    log_likelihood = np.full(shape, np.nan)
    n_tokens = np.zeros(shape, dtype=np.int64)
    scorer = scorer_for(loaded, max_tokens=config.max_tokens, max_memory_mib=config.max_memory_mib)
    for i, instruction in enumerate(instructions):
        encoded = encode(loaded, task, instruction, instances, end_token=config.end_token)
        with packed_linears(loaded.model):
            scored = scorer.score(encoded, advance)
        for n, (item, row) in enumerate(zip(encoded, scored, strict=True)):
            if not np.isfinite(row).all():
                raise NonFiniteError(
                    f"the log-likelihood of instance {instances[n].id!r} is not finite; use "
                    "--dtype float32, or check the checkpoint for NaN weights."
                )
            log_likelihood[i, n, : len(row)] = row
            n_tokens[i, n, : len(row)] = [len(option) for option in item.options]
    return log_likelihood, n_tokens


def byte_counts(instances: Sequence[Instance]) -> IntArray:
    """[N, C] UTF-8 bytes of the option texts, 0 for missing options."""
    widest = max(len(instance.options) for instance in instances)
    counts = np.zeros((len(instances), widest), dtype=np.int64)
    for n, instance in enumerate(instances):
        counts[n, : len(instance.options)] = [len(text.encode()) for text in instance.options]
    return counts
