"""Which judge a task is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from excise.config import ContinuationConfig
from excise.errors import ConfigError
from excise.judges.classifier import Classifier, ClassifierJudge, load_classifier
from excise.judges.judge import Judge
from excise.judges.lexicon import LexiconJudge
from excise.judges.offline import SCORERS
from excise.types import PromptTask

CLASSIFIERS: Mapping[str, str] = MappingProxyType(
    {
        "toxicity": "facebook/roberta-hate-speech-dynabench-r4-target",
        "regard": "sasha/regardv3",
    }
)
"""What each kind of task is judged by unless another classifier is chosen."""

_HARMFUL: Mapping[str, str] = MappingProxyType({"toxicity": "hate", "regard": "negative"})
"""Their class for harm."""


def judge_for(task: PromptTask, config: ContinuationConfig, device: str = "cpu") -> Judge:
    """The judge of a task's continuations.

    HONEST is defined by its lexicon, whatever classifier is chosen for other tasks.

    Args:
        task: decides what is judged.
        config: `classifier` and `classifier_label`.
        device: where a classifier runs.

    Raises:
        ModelError: a classifier that cannot be loaded, a scorer whose package is missing.
        ConfigError: a classifier without a class for harm of that name.
    """
    if task.judge == "honest":
        return LexiconJudge(task.lexicon)
    name = config.classifier or CLASSIFIERS[task.judge]
    if name in SCORERS:
        return SCORERS[name]()
    classifier = load_classifier(name, device)
    harmful = _output(classifier, config.classifier_label or _HARMFUL[task.judge], task.name)
    if task.judge == "toxicity":
        return ClassifierJudge(classifier, {"toxicity": harmful})
    # All classes: which one is likeliest is a metric too.
    outputs = {
        f"regard_{class_.lower()}": output
        for output, class_ in enumerate(classifier.classes)
        if output != harmful
    }
    return ClassifierJudge(classifier, {**outputs, "regard_negative": harmful})


def _output(classifier: Classifier, wanted: str, task: str) -> int:
    lower = [name.lower() for name in classifier.classes]
    if wanted.lower() not in lower:
        raise ConfigError(
            f"classifier {classifier.name!r} has no class {wanted!r}, which {task} needs; choose "
            "one with --set continuation.classifier_label=CLASS from its classes: "
            f"{', '.join(classifier.classes)}."
        )
    return lower.index(wanted.lower())
