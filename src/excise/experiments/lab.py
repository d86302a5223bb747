"""Fits and answers of one model, each computed once for all experiments that need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from excise.config import RunConfig
from excise.errors import ExciseError
from excise.evaluation import ArrayJournal, ask
from excise.evaluation.parts import joined, packed, unpacked
from excise.evidence import provenance
from excise.experiments.definition import NotApplicableError
from excise.experiments.fits import (
    ORIGINAL,
    Fit,
    digest_of,
    drawn,
    fits_methods,
    key_of,
    packed_patch,
    unpacked_patch,
)
from excise.methods import Excision, Fitted, Fitting, method_named
from excise.models import LoadedModel
from excise.patches import Patch
from excise.progress import Progress
from excise.questioning import TestQuestions
from excise.splits import sample
from excise.tasks import load_task
from excise.types import Answers, AnyTask, Instance, Item, Task

_FITS = 2
"""Fits with weights of their own that are kept: two fine-tuned states take turns."""


@dataclass(frozen=True)
class Questions:
    """Which items of a task are asked under which instructions."""

    task: AnyTask
    items: tuple[Item, ...]
    instructions: tuple[str, ...]
    config: RunConfig
    """How they are asked."""


@dataclass
class Lab:
    """One model, and everything that was done with it so far."""

    loaded: LoadedModel
    config: RunConfig
    """The options of the experiment at hand."""
    journal: ArrayJournal
    progress: Progress
    replace: Mapping[str, str] = field(default_factory=dict)
    """Task of a definition -> the task that this model is asked instead."""
    only: str = ""
    """Why the model can be asked no task but these; empty where it can."""
    _tasks: dict[str, AnyTask | ExciseError] = field(default_factory=dict, repr=False)
    _originals: dict[Any, Answers] = field(default_factory=dict, repr=False)
    _fits: dict[str, Fitted] = field(default_factory=dict, repr=False)

    def task(self, name: str) -> AnyTask:
        """The task that stands for a name of the definition, loaded once.

        Raises:
            NotApplicableError: the model reads no such task.
            ExciseError: it cannot be loaded.
        """
        place = self.replace.get(name, name)
        if self.only and place not in self.replace.values():
            raise NotApplicableError(self.only)
        if place not in self._tasks:
            folder = Path(self.config.data_dir) if self.config.data_dir else None
            try:
                self._tasks[place] = load_task(place, data_dir=folder)
            except ExciseError as error:
                self._tasks[place] = error
        found = self._tasks[place]
        if isinstance(found, ExciseError):
            raise found
        return found

    def tasks(self, names: Sequence[str]) -> dict[str, AnyTask]:
        """Name -> task, those left out that are the same data as an earlier one.

        Raises:
            ExciseError: as in `task`.
        """
        found: dict[str, AnyTask] = {}
        for name in names:
            task = self.task(name)
            if task.name not in (other.name for other in found.values()):
                found[name] = task
        return found

    def questions(self, name: str, config: RunConfig | None = None) -> Questions:
        """The test split of a task with correct answers, a sample of any other.

        Args:
            name: the task, as the definition names it.
            config: how it is asked; the experiment's own options by default.
        """
        config, task = config or self.config, self.task(name)
        if isinstance(task, Task) and fits_methods(task):
            test = TestQuestions.of(task, config)
            return Questions(task, test.instances, test.instructions, config)
        items = sample(task.instances, config.limit, seed=config.split_seed, unit="block")
        return Questions(task, items, task.instructions[: config.test_instructions], config)

    def fits(
        self, method: str, task: str, config: RunConfig | None = None, trials: int | None = None
    ) -> list[Fit]:
        """A method in every trial; the original in one, since all are the same."""
        config = config or self.config
        count = 1 if method == ORIGINAL else trials or config.trials
        return [Fit(method, task, trial, config) for trial in range(count)]

    def answers(self, fit: Fit, questions: Questions) -> Answers:
        """What the model answers under a fit; asked, and fitted, only if it is not kept."""
        if fit.method == ORIGINAL:
            return self._original(questions)
        told = f"{fit.method} of {fit.task}, trial {fit.trial + 1}"
        self.progress.stage(f"{questions.task.name}: asking {told}")
        patch = self._kept_patch(fit)
        if patch is None and not self._is_change(fit):
            fitted = self._fitted(fit)
            patch = fitted.patch if isinstance(fitted, Excision) else None
        if patch is not None:
            return self._asked(questions, patch or None)
        return self._asked_under(fit, questions)

    def describe(self, fit: Fit) -> Mapping[str, Any]:
        """What a fit says about itself, as JSON values."""
        key = f"{self._key(fit)} facts"
        kept = self.journal.get(key)
        if kept is None:
            self._fitted(fit)
            kept = self.journal.get(key)
        assert isinstance(kept, Mapping)
        return kept

    def patch(self, fit: Fit) -> Patch:
        """The neurons that a fit excised.

        Raises:
            NotApplicableError: the method excises none.
        """
        kept = self._kept_patch(fit)
        if kept is None:
            fitted = self._fitted(fit)
            if not isinstance(fitted, Excision):
                raise NotApplicableError(f"method {fit.method!r} excises no neurons.")
            return fitted.patch
        return kept

    def _original(self, questions: Questions) -> Answers:
        """What every state is compared with; asked for by each of them."""
        key = (
            questions.task.name,
            tuple(item.id for item in questions.items),
            questions.instructions,
            questions.config.model_dump_json(include={"scoring", "continuation", "text"}),
        )
        if key not in self._originals:
            self.progress.stage(f"{questions.task.name}: asking the original")
            self._originals[key] = self._asked(questions, None)
        return self._originals[key]

    def _asked(self, questions: Questions, patch: Patch | None) -> Answers:
        return ask(
            self.loaded,
            questions.task,
            questions.items,
            questions.config,
            patch=patch,
            instructions=questions.instructions,
            journal=self.journal,
            advance=self.progress.advance,
        )

    def _asked_under(self, fit: Fit, questions: Questions) -> Answers:
        """A change that is no patch: its answers are kept under the fit's own key."""
        task, pieces = questions.task, []
        for told in questions.instructions:
            key = digest_of(
                self._key(fit),
                task.digest,
                task.name,
                [item.id for item in questions.items],
                told,
                questions.config.model_dump_json(include={"scoring", "continuation", "text"}),
            )
            kept = self.journal.get(key)
            if kept is None:
                piece = self._piece(fit, questions, told)
                self.journal.put(key, packed(piece))
                pieces.append(piece)
            else:
                pieces.append(unpacked(kept, task, questions.items, told))
        return joined(pieces, len(questions.instructions))

    def _piece(self, fit: Fit, questions: Questions, told: str) -> Answers:
        fitted, task = self._fitted(fit), questions.task
        refuses = getattr(fitted, "refuses", None)
        reason = refuses(task) if refuses else None
        if reason:
            raise NotApplicableError(reason)
        if isinstance(task, Task) and task.kind == "choice":
            # Calibration changes how options are compared, so the method itself is asked.
            items: list[Instance] = [i for i in questions.items if isinstance(i, Instance)]
            return fitted.answers(
                self.loaded,
                task,
                items,
                questions.config.scoring,
                instructions=(told,),
                advance=self.progress.advance,
            )
        if not fitted.describe().get("changes_weights"):
            raise NotApplicableError(
                f"method {fit.method!r} changes no weights, so it has nothing to say on "
                f"{task.name}."
            )
        with fitted.applied(self.loaded):
            return ask(
                self.loaded,
                task,
                questions.items,
                questions.config,
                instructions=(told,),
                advance=self.progress.advance,
            )

    def _fitted(self, fit: Fit) -> Fitted:
        """Fit, or take a fit that is still there: changed weights are too large to keep many."""
        key = self._key(fit)
        if key in self._fits:
            return self._fits[key]
        while len(self._fits) >= _FITS:
            del self._fits[next(iter(self._fits))]
        task = self._fit_task(fit)
        config, split = drawn(fit, task)
        self.progress.stage(f"{task.name}: fitting {fit.method} (trial {fit.trial + 1})")
        fitted = method_named(fit.method).fit(
            Fitting(
                loaded=self.loaded,
                task=task,
                split=split,
                config=config,
                seed=config.seed + fit.trial,
                provenance=provenance(config, task, split, fit.trial),
                progress=self.progress,
                journal=self.journal,
            )
        )
        if not isinstance(fitted, Excision):  # a patch is kept in the journal
            self._fits[key] = fitted
        self.journal.put(f"{key} facts", dict(fitted.describe()))
        if isinstance(fitted, Excision):
            self.journal.put(f"{key} patch", packed_patch(fitted.patch))
        else:
            self.journal.put(f"{key} change", True)
        return fitted

    def _fit_task(self, fit: Fit) -> Task:
        task = self.task(fit.task)
        if self.only and fit.method.startswith("finetune"):
            raise NotApplicableError(f"{self.only}; {fit.method} trains on sentences")
        if not isinstance(task, Task) or not fits_methods(task):
            raise NotApplicableError(
                f"{task.name} names no correct options, so no method can be fitted on it."
            )
        return task

    def _kept_patch(self, fit: Fit) -> Patch | None:
        kept = self.journal.get(f"{self._key(fit)} patch")
        task = self._fit_task(fit)
        return None if kept is None else unpacked_patch(kept, self.loaded, fit, task)

    def _is_change(self, fit: Fit) -> bool:
        return self.journal.get(f"{self._key(fit)} change") is not None

    def _key(self, fit: Fit) -> str:
        return key_of(self.loaded, fit, self._fit_task(fit))
