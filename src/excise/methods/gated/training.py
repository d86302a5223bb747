"""Learn the factors: the gold option's share up, nothing that the model could do down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch

from excise.attribution.effects import Question, batched, compared
from excise.attribution.trees import shared_log_likelihoods
from excise.config import GateConfig, ScoringConfig
from excise.errors import NonFiniteError
from excise.evaluation.choices import how_compared
from excise.methods.gated.gates import Gates
from excise.methods.gated.keeping import Kept
from excise.methods.gated.passes import batches
from excise.methods.guarded.panel import Panel
from excise.models import LoadedModel, packed_linears
from excise.types import Task

Asked = tuple[str, str]
"""Id of an instance, and the instruction."""

Answer = tuple[torch.Tensor, torch.Tensor, int]
"""As `compared` gives it: what options are compared by, per token, and the gold option."""


@dataclass(frozen=True)
class Steps:
    """How factors move."""

    rate: float
    """The first step of Adam."""
    low: float
    high: float
    sparsity: float
    """Pull towards 1, as a share of a step."""


@dataclass(frozen=True)
class Lesson:
    """What the factors are learned from."""

    loaded: LoadedModel
    task: Task
    passes: tuple[tuple[Question, ...], ...]
    """What each pass asks."""
    original: Mapping[Asked, float]
    """Log-likelihood of the gold option per token in the unpatched model, in nats, of the questions
    whose context decides the answer."""
    scoring: ScoringConfig
    config: GateConfig
    advance: Callable[[int], None]

    def learn(
        self,
        gates: Gates,
        passes: Sequence[Sequence[Question]],
        how: Steps,
        kept: Iterator[Kept] | None = None,
    ) -> None:
        """Move the factors, in steps that shrink to nothing.

        Large last steps would leave them anywhere between "unknown" everywhere and nowhere.

        Args:
            gates: are changed.
            passes: some of this lesson's.
            how: size of the first step, and the range.
            kept: questions of other tasks; each step takes the next ones, while there are any.
        """
        kept = iter(()) if kept is None else kept
        optimiser = torch.optim.Adam(gates.values.values(), lr=how.rate)
        size = self.config.batch_size
        steps = [batch for asked in passes for batch in batches(asked, size)]
        with packed_linears(self.loaded.model, gradients=True), gates.applied(self.loaded):
            for done, batch in enumerate(steps):
                rate = how.rate * (1 - done / len(steps))
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.zero_grad()
                self._backward(batch, next(kept, None))
                optimiser.step()
                gates.shrink(how.sparsity * rate)
                gates.clamp(how.low, how.high)

    def costs(self, gates: Gates, asked: Sequence[Question]) -> dict[str, torch.Tensor]:
        """What it would cost to set all factors back to 1, shared among them.

        Integrated gradients on the straight line from the factors to 1 (Sundararajan, Taly and Yan,
        ICML 2017, equation 1), by the midpoint rule. Gradients at the factors alone would be close
        to 0 for whatever has been learned to the end.

        Args:
            gates: are not changed.
            asked: questions; a third of their batches, rounded up, is asked at each of the three
                points, so that it takes about one pass.

        Returns:
            Module -> [its chosen neurons] shares of the rise of the loss, positive where the factor
            helps. They add up to the whole rise on these batches, up to the rule's error.
        """
        every = batches(asked, self.config.batch_size)
        steps = every[: math.ceil(len(every) / _POINTS)]
        costs = {module: torch.zeros_like(values) for module, values in gates.values.items()}
        with packed_linears(self.loaded.model, gradients=True):
            for point in range(_POINTS):
                between = gates.partly((point + 0.5) / _POINTS)
                with between.applied(self.loaded):
                    for batch in steps:
                        self._backward(batch)
                for module, values in between.values.items():
                    if values.grad is not None:
                        share = values.grad * (1 - gates.values[module].detach())
                        costs[module] += share / (_POINTS * len(steps))
        return costs

    def _backward(self, batch: Sequence[Question], kept: Kept | None = None) -> None:
        """Add the gradients of a batch's loss to those that the factors have."""
        loss = self._loss_of(batch, kept)
        if not bool(loss.isfinite()):
            beside = f", some of kept task {kept.task.name!r} among them" if kept else ""
            raise NonFiniteError(
                f"the loss is not finite for instance {batch[0].instance.id!r} and others of its "
                f"step{beside}; use --dtype float32, or check the checkpoint for NaN weights."
            )
        torch.autograd.backward(loss)
        self.advance(len(batch) + (len(kept.questions) if kept else 0))

    def _loss_of(self, batch: Sequence[Question], kept: Kept | None = None) -> torch.Tensor:
        asked = [(self.task, batch), *([(kept.task, kept.questions)] if kept else [])]
        several = []
        for task, questions in asked:
            # One batch, whatever the lengths: what questions share lies beside each other.
            (pairs,) = batched(self.loaded, task, questions, len(questions), self.scoring.end_token)
            several.append((pairs, how_compared(self.loaded, task, self.scoring)))
        items = [item for pairs, _ in several for _, item in pairs]
        likelihoods = iter(shared_log_likelihoods(self.loaded, items))
        answers = [
            compared(list(islice(likelihoods, len(pairs))), pairs, normalisation)
            for pairs, normalisation in several
        ]
        questions = [question for question, _ in several[0][0]]
        return self.loss(answers[0], questions, answers[1] if kept else ())

    @cached_property
    def _weight(self) -> float:
        every = (question for asked in self.passes for question in asked)
        return 1.0 if all(map(_decided, every)) else self.config.decided_weight

    def loss(
        self,
        answers: Sequence[Answer],
        asked: Sequence[Question],
        kept: Sequence[Answer] = (),
    ) -> torch.Tensor:
        """Mean over questions of -log share of the gold option, weighted, plus what P(gold) lost.

        Where the context decides the answer, a question weighs `decided_weight` times as much (as
        the others of the task, if it has ambiguous ones), and every nat that the gold text's
        log-likelihood per token falls below the original's costs `gold_weight`. Kept questions of
        other tasks weigh as much, without the second term.

        Args:
            answers: as `compared` gives them.
            asked: which of the lesson's questions they answer.
            kept: answers to the kept questions, in the same form.
        """
        terms = []
        for (options, per_token, gold), question in zip(answers, asked, strict=True):
            share = options.log_softmax(dim=-1)[gold]
            if not _decided(question):
                terms.append(-share)
                continue
            lost = torch.relu(self.original[_name(question)] - per_token[gold] - _ROUNDING)
            terms.append(-self._weight * share + self.config.gold_weight * lost)
        terms += [-self._weight * options.log_softmax(dim=-1)[gold] for options, _, gold in kept]
        return torch.stack(terms).mean()


def gold_of(
    loaded: LoadedModel,
    task: Task,
    passes: Sequence[Sequence[Question]],
    scoring: ScoringConfig,
    advance: Callable[[int], None],
) -> dict[Asked, float]:
    """Log-likelihood of the gold option per token, where the context decides, in nats.

    Of the model in the state that it is in; each question is asked once.
    """
    asked = {_name(q): q for each in passes for q in each if _decided(q)}
    panel = Panel(loaded, task, tuple(asked.values()), scoring, advance)
    return dict(zip(asked, panel.read().gold.tolist(), strict=True))


_ROUNDING = 1e-3
"""Nats per token that scoring in other batches may differ by; factors of 1 lose nothing."""

_POINTS = 3
"""Of the midpoint rule: the effect of factors is not linear, so one is too few."""


def _name(question: Question) -> Asked:
    return question.instance.id, question.instruction


def _decided(question: Question) -> bool:
    return question.instance.condition != "ambiguous"
