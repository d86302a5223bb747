"""Fit every method on the same splits, and put the same questions to each."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from excise.comparing.counting import Counted
from excise.comparing.retention import ORIGINAL, Retention
from excise.config import RunConfig, to_toml
from excise.errors import ConfigError
from excise.evaluation import Journal
from excise.evaluation.parts import joined, packed, unpacked
from excise.evidence import provenance
from excise.methods import Fitted, Fitting, Method, Shared, method_named
from excise.models import LoadedModel, weights_digest
from excise.pipeline import choice_tasks, load_model
from excise.progress import Progress, Silent
from excise.questioning import TestQuestions
from excise.splits import split_instances
from excise.types import Answers, AnyTask, Predictions, Split, Task


@dataclass(frozen=True)
class State:
    """One method fitted in one trial on one task, and what it answered."""

    method: str
    task: str
    trial: int
    test: Predictions
    retention: Mapping[str, Answers]
    """Retention task -> answers."""
    facts: Mapping[str, Any]
    """What the method says about itself, and what fitting cost."""


@dataclass(frozen=True)
class Comparison:
    """All methods on all tasks and trials."""

    config: RunConfig
    model: str
    model_digest: str
    methods: tuple[str, ...]
    tasks: tuple[Task, ...]
    retention: tuple[Retention, ...]
    states: tuple[State, ...] = field(repr=False, default=())

    def of(self, method: str, task: str) -> tuple[State, ...]:
        """The trials of one method on one task."""
        return tuple(s for s in self.states if (s.method, s.task) == (method, task))


def compare(
    config: RunConfig,
    methods: Sequence[str],
    *,
    retention: Sequence[str] = (),
    retention_limit: int = 60,
    model: Any = None,
    tokenizer: Any = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Comparison:
    """Compare mitigation methods.

    Every method sees the same find and tune splits in a trial, and is asked the same test
    questions; `original` is always among them.

    Args:
        config: model, tasks, splits, trials, and the options of all methods.
        methods: names of the table of methods.
        retention: names of tasks that show what a method costs elsewhere.
        retention_limit: items asked of each retention task.
        model: an already loaded `PreTrainedModel`, instead of `config.model`.
        tokenizer: its tokenizer.
        progress: who watches.
        journal: keeps finished answers; what it holds is not computed again.

    Raises:
        ExciseError: see `excise.errors`.
    """
    progress = progress or Silent()
    chosen = _chosen(methods)
    if config.selection.trials == "average" and config.trials > 1:
        raise ConfigError(
            "selection.trials = average ranks all trials together, and a comparison fits each by "
            "itself; add --set selection.trials=separate or --trials 1."
        )
    tasks = choice_tasks(config)
    progress.stage("loading the model")
    loaded = load_model(config, model, tokenizer)
    loaded.refuse_offloaded("comparing methods")
    kept = tuple(
        Retention.of(name, tasks, config, limit=retention_limit)
        for name in dict.fromkeys(retention)
    )
    states: list[State] = []
    for task in tasks:
        questions = TestQuestions.of(task, config)
        for trial in range(config.trials):
            split = split_instances(
                task.instances, by=config.split_by, seed=config.split_seed, trial=trial
            )
            shared = Shared()
            for method in chosen:
                if method.name == ORIGINAL and trial:
                    continue  # the same questions to the same weights
                progress.stage(f"{task.name}: {method.name} (trial {trial + 1}/{config.trials})")
                runner = _Runner(loaded, questions, kept, split, trial, shared, journal, progress)
                states.append(runner.state(method))
    return Comparison(
        config,
        loaded.name,
        loaded.digest,
        tuple(method.name for method in chosen),
        tuple(tasks),
        kept,
        tuple(states),
    )


def _chosen(names: Sequence[str]) -> list[Method]:
    unique = list(dict.fromkeys((ORIGINAL, *names)))
    if len(unique) < 2:
        raise ConfigError("nothing to compare with the original; see `excise ls methods`.")
    return [method_named(name) for name in unique]


@dataclass
class _Runner:
    """One method in one trial; it is fitted only if an answer is not kept already."""

    loaded: LoadedModel
    questions: TestQuestions
    retention: tuple[Retention, ...]
    split: Split
    trial: int
    shared: Shared
    journal: Journal | None
    progress: Progress

    def state(self, method: Method) -> State:
        fits: list[Fitted] = []
        facts: dict[str, Any] = {}

        def fitted() -> Fitted:
            if not fits:
                fits.append(self._fit(method, facts))
            return fits[0]

        task = self.questions.task
        test = self._kept(
            method,
            "test",
            task,
            self.questions.instances,
            lambda: fitted().answers(
                self.loaded,
                task,
                self.questions.instances,
                self.questions.config.scoring,
                instructions=self.questions.instructions,
                advance=self.progress.advance,
            ),
        )
        assert isinstance(test, Predictions)
        retained = {
            entry.name: self._kept(
                method,
                f"retention {entry.name}",
                entry.task,
                entry.instances,
                lambda entry=entry: entry.answers(
                    self.loaded, fitted(), self.questions.config, self.progress
                ),
            )
            for entry in self.retention
        }
        key = self._key(method, "facts", task, ())
        stored = self.journal.get(key) if self.journal is not None else None
        if stored is None:
            fitted()
            stored = facts
            if self.journal is not None:
                self.journal.put(key, facts)
        return State(method.name, task.name, self.trial, test, retained, stored)

    def _fit(self, method: Method, facts: dict[str, Any]) -> Fitted:
        task, config = self.questions.task, self.questions.config
        counted = Counted(self.progress)
        self.shared.seconds, self.shared.work = 0.0, 0
        start = time.perf_counter()
        fitted = method.fit(
            Fitting(
                loaded=self.loaded,
                task=task,
                split=self.split,
                config=config,
                seed=config.seed + self.trial,
                provenance=provenance(config, task, self.split, self.trial),
                progress=counted,
                shared=self.shared,
            )
        )
        # What another method found before would have had to be found: it counts for both.
        facts["fit_seconds"] = time.perf_counter() - start + self.shared.seconds
        facts["fit_work"] = counted.work + self.shared.work
        with fitted.applied(self.loaded):
            facts["weights_unchanged"] = weights_digest(self.loaded.model) == self.loaded.digest
        facts.update(fitted.describe())
        return fitted

    def _kept(
        self, method: Method, what: str, task: Any, items: Sequence[Any], answer: Any
    ) -> Answers:
        """Answers out of the journal, or asked now and put there."""
        key = self._key(method, what, task, tuple(item.id for item in items))
        stored = self.journal.get(key) if self.journal is not None else None
        if stored is not None:
            told = stored["instructions"]
            pieces = [
                unpacked(part, task, items, text)
                for part, text in zip(stored["parts"], told, strict=True)
            ]
            return _stacked(pieces)
        answers: Answers = answer()
        if self.journal is not None:
            parts = [packed(part) for part in _apart(answers)]
            self.journal.put(key, {"instructions": list(answers.instructions), "parts": parts})
        return answers

    def _key(self, method: Method, what: str, asked: AnyTask, items: tuple[str, ...]) -> str:
        config, task = self.questions.config, self.questions.task
        decides = [
            "compare",
            self.loaded.digest,
            method.name,
            to_toml(config),
            task.name,
            task.digest,
            task.instructions,  # a file of them may be another one today
            asked.digest,
            self.trial,
            what,
            items,
        ]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _apart(answers: Answers) -> list[Answers]:
    """One for each instruction."""
    if not isinstance(answers, Predictions):
        return [answers]

    def row(values: Any, i: int) -> Any:
        return None if values is None else values[i : i + 1]

    return [
        Predictions(
            answers.instances,
            (instruction,),
            row(answers.choice, i),
            row(answers.log_likelihood, i),
            row(answers.n_tokens, i),
            row(answers.compared, i),
            answers.variant,
        )
        for i, instruction in enumerate(answers.instructions)
    ]


def _stacked(pieces: Sequence[Answers]) -> Answers:
    return joined(pieces, len(pieces))
