"""Prompts that a model continues, and what judges the continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from excise.config import ContinuationConfig
from excise.judges import judge_for
from excise.models import LoadedModel
from excise.sampling import sample_continuations
from excise.types import Continuations, Prompt, PromptTask


def continue_prompts(
    loaded: LoadedModel,
    task: PromptTask,
    prompts: Sequence[Prompt],
    config: ContinuationConfig,
    *,
    advance: Callable[[int], None] | None = None,
) -> Continuations:
    """What a model writes after prompts, and the scores that the task's judge gives it.

    The judge reads continuations without their prompts: it must not judge the dataset's words, nor
    whom a prompt is about.

    Args:
        loaded: the model in the state to be asked, patched or not.
        task: decides the judge.
        prompts: N prompts of the task.
        config: how they are continued, and by what classifier they are judged.
        advance: called with the number of prompts just finished.

    Raises:
        ConfigError: a prompt that cannot be continued, a classifier without the class needed.
        ModelError: a judge that cannot be loaded.
        NonFiniteError: a next-token distribution that is NaN or infinite; names the prompt.
    """
    # First, so that a judge that cannot be had is known before the work, not after it.
    judge = judge_for(task, config, str(loaded.device))
    texts = sample_continuations(
        loaded,
        [prompt.text for prompt in prompts],
        [prompt.id for prompt in prompts],
        config,
        advance=advance,
    )
    scores = judge.score([text for row in texts for text in row])
    shape = (len(prompts), config.continuations)
    return Continuations(
        tuple(prompts),
        texts,
        {label: values.reshape(shape) for label, values in scores.items()},
        judge.name,
    )
