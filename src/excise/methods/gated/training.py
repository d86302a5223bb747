"""Learn the factors: the gold option's share up, nothing that the model could do down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from excise.attribution.effects import Question, batched, compared
from excise.attribution.layouts import layout_for
from excise.config import AttributionConfig, GateConfig, ScoringConfig
from excise.evaluation.choices import how_compared
from excise.methods.gated.gates import Gates
from excise.methods.guarded.panel import Reading
from excise.models import LoadedModel, packed_linears
from excise.types import Task


@dataclass(frozen=True)
class Lesson:
    """What the factors are learned from."""

    loaded: LoadedModel
    task: Task
    questions: tuple[Question, ...]
    original: Reading
    """The unpatched model's answers to these questions."""
    scoring: ScoringConfig
    config: GateConfig
    advance: Callable[[int], None]

    def epochs(self, gates: Gates, seed: int) -> Iterator[int]:
        """Learn; pauses after each pass over the questions, with its number.

        The model is free to be asked in the pauses, with any patch.
        """
        config = self.config
        optimiser = torch.optim.Adam(gates.values.values(), lr=config.learning_rate)
        generator = np.random.default_rng([seed, 1])
        batches = batched(
            self.loaded, self.task, self.questions, config.batch_size, self.scoring.end_token
        )
        places = {(q.instance.id, q.instruction): n for n, q in enumerate(self.questions)}
        for epoch in range(config.epochs):
            with packed_linears(self.loaded.model, gradients=True), gates.applied(self.loaded):
                for number in generator.permutation(len(batches)):
                    batch = batches[number]
                    asked = [q for q, _ in batch]
                    layout = layout_for(self.loaded, [item for _, item in batch], _EVERY_TOKEN)
                    likelihoods = layout.log_likelihoods()
                    normalisation = how_compared(self.loaded, self.task, self.scoring)
                    answers = compared(likelihoods, batch, normalisation)
                    rows = [places[q.instance.id, q.instruction] for q in asked]
                    loss = self.loss(answers, rows)
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    optimiser.step()
                    gates.shrink(config.sparsity * config.learning_rate)
                    gates.clamp(config.low, config.high)
                    self.advance(len(batch))
            yield epoch

    def loss(
        self, answers: Sequence[tuple[torch.Tensor, torch.Tensor, int]], rows: Sequence[int]
    ) -> torch.Tensor:
        """Mean over questions of -log share of the gold option, weighted, plus what P(gold) lost.

        Where the context decides the answer, a question weighs `decided_weight` times as much (as
        the others of the task, if it has ambiguous ones), and every nat that the gold text's
        log-likelihood per token falls below the original's costs `gold_weight`.

        Args:
            answers: as `compared` gives them.
            rows: which of the lesson's questions they answer.
        """
        config, decided = self.config, self.original.decided
        weight = config.decided_weight if not decided.all() else 1.0
        terms = []
        for (options, per_token, gold), row in zip(answers, rows, strict=True):
            share = options.log_softmax(dim=-1)[gold]
            if not decided[row]:
                terms.append(-share)
                continue
            lost = torch.relu(float(self.original.gold[row]) - per_token[gold])
            terms.append(-weight * share + config.gold_weight * lost)
        return torch.stack(terms).mean()


_EVERY_TOKEN = AttributionConfig(tokens="sum", skip_first_token=False)
"""The layout's share of the attribution's options does not matter here."""
