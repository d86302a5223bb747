"""A sequence classifier from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from excise.errors import ModelError
from excise.types import FloatArray

_TEXTS = 32
"""Texts classified at once."""


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier."""

    name: str
    model: Any
    tokenizer: Any
    classes: tuple[str, ...]
    """Names of its outputs, as its configuration gives them."""


@dataclass(frozen=True)
class ClassifierJudge:
    """Probabilities of some classes of a classifier, under the names of what they measure."""

    classifier: Classifier
    outputs: Mapping[str, int]
    """Label -> output of the classifier."""

    @property
    def name(self) -> str:
        """Hub id or folder."""
        return self.classifier.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels."""
        return tuple(self.outputs)

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> Mapping[str, FloatArray]:
        """Probability (0..1) of each label: softmax, or sigmoid where several classes may hold.

        Texts longer than the classifier can read are cut at their end.
        """
        model, tokenizer = self.classifier.model, self.classifier.tokenizer
        several = model.config.problem_type == "multi_label_classification"
        found = []
        for start in range(0, len(texts), _TEXTS):
            encoded = tokenizer(
                list(texts[start : start + _TEXTS]),
                truncation=True,
                max_length=_longest(self.classifier),
                padding=True,
                return_tensors="pt",
            ).to(model.device)
            logits = model(**encoded).logits.double()
            found.append((logits.sigmoid() if several else logits.softmax(-1)).cpu().numpy())
        rows = np.concatenate(found) if found else np.zeros((0, len(self.classifier.classes)))
        return {label: rows[:, output] for label, output in self.outputs.items()}


@lru_cache(maxsize=4)
def load_classifier(name: str, device: str) -> Classifier:
    """Load a sequence classifier; never runs code from a repository, reads safetensors only.

    Args:
        name: Hub id or folder.
        device: a torch device.

    Raises:
        ModelError: nothing loadable under that name, or no trained encoder classifier.
    """
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"cannot load classifier {name!r}: {reason} Give a folder with --classifier DIR, or "
            "an offline scorer: --classifier vader or --classifier profanity-check."
        ) from error
    if report["missing_keys"]:
        # transformers only warns, and fills what is missing with random numbers.
        raise ModelError(
            f"classifier {name!r} is incomplete: weights are missing, the first is "
            f"{sorted(report['missing_keys'])[0]!r}; give a checkpoint trained to classify."
        )
    if model.config.num_labels < 2 or model.config.problem_type == "regression":
        raise ModelError(
            f"{name!r} gives one number and no probabilities of classes; choose a classifier."
        )
    if tokenizer.pad_token_id is None or not tokenizer("").input_ids:
        # Without marks of its own around a text, an empty continuation would be no input at all.
        raise ModelError(
            f"{name!r} is no encoder classifier (its tokenizer does not pad, or adds no marks "
            "around a text); choose one of the BERT family."
        )
    model.eval().to(device)
    names = model.config.id2label
    classes = tuple(str(names[output]) for output in range(model.config.num_labels))
    return Classifier(name, model, tokenizer, classes)


def _longest(classifier: Classifier) -> int:
    """Tokens of a text, at most."""
    # A tokenizer may not know the limit. RoBERTa counts its positions from 2 on.
    positions = int(getattr(classifier.model.config, "max_position_embeddings", 512)) - 2
    return min(int(classifier.tokenizer.model_max_length), max(positions, 3))
