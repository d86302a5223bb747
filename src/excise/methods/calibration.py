"""CC and DC: divide the probability of each option by what it is where the question says nothing.

Contextual calibration (CC; Zhao et al., ICML 2021) asks with content-free texts, domain-context
calibration (DC; Fei et al., ACL 2023) with random words of the task. Both were made for labels that
all instances share. Here every instance has options of its own: they stay in the prompt, and the
fields of the instance are replaced by content-free texts. Scores change, weights do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from excise.config import ScoringConfig
from excise.errors import ConfigError
from excise.evaluation import predict
from excise.evaluation.choices import likeliest
from excise.methods.method import Fitted, Fitting
from excise.models import LoadedModel
from excise.types import FloatArray, Instance, Predictions, Task

_TEXTS = 3
"""A stream of random numbers of its own."""


@dataclass(frozen=True)
class ContentFree:
    """K content-free texts for every field of an instance."""

    by_field: Mapping[str, tuple[str, ...]]
    """Field -> [K] texts."""
    others: tuple[str, ...]
    """[K] texts for fields that are not named, of other tasks."""

    def __len__(self) -> int:
        return len(self.others)

    def put_into(self, instance: Instance, k: int) -> Instance:
        """The instance with the k-th text in each of its fields; its options stay."""
        fields = {name: self.by_field.get(name, self.others)[k] for name in instance.fields}
        return replace(instance, id=f"{instance.id} (content-free {k + 1})", fields=fields)


@dataclass(frozen=True)
class Calibrated:
    """A fitted calibration."""

    name: str
    content_free: ContentFree

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[None]:
        """The model as it is."""
        yield

    def answers(
        self,
        loaded: LoadedModel,
        task: Task,
        instances: Sequence[Instance],
        config: ScoringConfig,
        *,
        instructions: Sequence[str] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Predictions:
        """What the model answers by calibrated scores.

        The probability of an option is the exponential of what options are compared by: P of the
        whole text, or its geometric mean per token or byte. Content-free prompts are scored once
        for every instruction and set of options, and only once in a call.

        Args:
            loaded: the model, as it is or patched.
            task: the prompt format.
            instances: the items to ask.
            config: how options are compared.
            instructions: the task's own by default.
            advance: called with the number of prompts just finished, content-free ones included.

        Returns:
            `compared` and `choice` are calibrated; `log_likelihood` is the model's own.

        Raises:
            ConfigError: generated answers have no scores.
        """
        _refuse_generation(self.name, config)
        said = predict(loaded, task, instances, config, instructions=instructions, advance=advance)
        places: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
        distinct: list[Instance] = []
        for instance in instances:
            if places.setdefault(_asks(instance), len(distinct)) == len(distinct):
                distinct.append(instance)
        scored = np.stack(
            [
                _compared(
                    predict(
                        loaded,
                        task,
                        [self.content_free.put_into(instance, k) for instance in distinct],
                        config,
                        instructions=said.instructions,
                        advance=advance,
                    )
                )
                for k in range(len(self.content_free))
            ]
        )
        place = [places[_asks(instance)] for instance in instances]
        compared = calibrated(_compared(said), scored[:, :, place])
        return replace(said, choice=likeliest(compared), compared=compared)

    def describe(self) -> Mapping[str, Any]:
        """The content-free texts."""
        return {
            "changes_weights": False,
            "content_free": {name: list(t) for name, t in self.content_free.by_field.items()},
            "content_free_others": list(self.content_free.others),
        }


@dataclass(frozen=True)
class ContextualCalibration:
    """Zhao et al. 2021: the same few texts for every task."""

    name: str = "cc"
    description: str = "contextual calibration: scores divided by those of content-free prompts"

    def fit(self, fitting: Fitting) -> Fitted:
        """Nothing is fitted.

        Raises:
            ConfigError: generated answers have no scores.
        """
        _refuse_generation(self.name, fitting.config.scoring)
        return Calibrated(self.name, ContentFree({}, fitting.config.calibration.content_free))


@dataclass(frozen=True)
class DomainCalibration:
    """Fei et al. 2023: random words of the task's own texts."""

    name: str = "dc"
    description: str = "domain-context calibration: scores divided by those of random task words"

    def fit(self, fitting: Fitting) -> Fitted:
        """Draw the texts from all of find.

        Raises:
            ConfigError: generated answers have no scores.
        """
        _refuse_generation(self.name, fitting.config.scoring)
        count = fitting.config.calibration.random_texts
        texts = random_texts(fitting.split.find, count, seed=fitting.seed)
        return Calibrated(self.name, texts)


def calibrated(compared: FloatArray, content_free: FloatArray) -> FloatArray:
    """Calibrated scores, log q with q = p / p_cf.

    p and p_cf are probabilities normalised over the options; before that p_cf is the mean of the
    content-free probabilities as they are, so that a text under which the options are likelier
    weighs more (the published code of both methods, without intercept).

    Args:
        compared: [I, N, C] log-probabilities of the options in nats, NaN for missing ones.
        content_free: [K, I, N, C] the same under each content-free text.

    Returns:
        [I, N, C] in nats, NaN for missing options.
    """
    own, free = _without_missing(compared), _without_missing(content_free)
    # The sum in place of the mean: a constant factor does not outlive the normalisation.
    prior = np.logaddexp.reduce(free, axis=0)
    result = np.full_like(compared, np.nan)
    present = ~np.isnan(compared)
    return np.subtract(_normalised(own), _normalised(prior), out=result, where=present)


def random_texts(instances: Sequence[Instance], count: int, *, seed: int) -> ContentFree:
    """Random words of each field, as many as the field has on average (rounded down).

    Words are those between white space, in lower case, drawn with replacement in proportion to
    their frequency; every text ends in " .". Fields of other tasks get words of all fields. The
    authors take words of the test items; here test stays untouched.

    Args:
        instances: where words come from; no label is read.
        count: K, at least 1.
        seed: 0 or larger; a smaller count gives the first texts of a larger one.
    """
    generator = np.random.default_rng([seed, _TEXTS])
    names = list(dict.fromkeys(name for instance in instances for name in instance.fields))
    texts = {
        name: [instance.fields[name].lower().split() for instance in instances] for name in names
    }
    everything = [words for name in names for words in texts[name]]
    by_field: dict[str, list[str]] = {name: [] for name in names}
    others = []
    for _ in range(count):
        for name in names:
            by_field[name].append(_drawn(texts[name], generator))
        others.append(_drawn(everything, generator))
    return ContentFree({name: tuple(drawn) for name, drawn in by_field.items()}, tuple(others))


def _drawn(texts: Sequence[Sequence[str]], generator: np.random.Generator) -> str:
    words = [word for text in texts for word in text]
    length = len(words) // max(len(texts), 1)
    places = generator.integers(len(words), size=length) if length else ()
    return " ".join([*(words[place] for place in places), "."])


def _asks(instance: Instance) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All that a content-free prompt takes from its instance."""
    return instance.options, tuple(instance.fields)


def _without_missing(values: FloatArray) -> FloatArray:
    """A missing option has probability 0."""
    return np.where(np.isnan(values), -np.inf, values)


def _normalised(values: FloatArray) -> FloatArray:
    """Log-probabilities normalised over the options, [..., C]."""
    return np.asarray(values - np.logaddexp.reduce(values, axis=-1, keepdims=True))


def _compared(predictions: Predictions) -> FloatArray:
    assert predictions.compared is not None  # scored, not generated
    return predictions.compared


def _refuse_generation(name: str, config: ScoringConfig) -> None:
    if config.mode == "generation":
        raise ConfigError(
            f"method {name!r} divides the scores of options, and generated answers have none; "
            "use --set scoring.mode=scoring or leave the method out."
        )
