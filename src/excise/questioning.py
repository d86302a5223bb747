"""The test split's questions, put to one state of the model after the other."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from excise.config import RunConfig
from excise.evaluation import predict
from excise.models import LoadedModel
from excise.patches import Patch
from excise.progress import Progress
from excise.splits import sample, split_instances
from excise.types import Instance, Predictions, Task


@dataclass(frozen=True)
class TestQuestions:
    """Which instances are asked under which instructions; the same for every state and trial."""

    __test__ = False  # not a test class, whatever pytest thinks

    task: Task
    instances: tuple[Instance, ...]
    instructions: tuple[str, ...]
    config: RunConfig

    @classmethod
    def of(cls, task: Task, config: RunConfig) -> TestQuestions:
        """A seeded sample of the test split."""
        split = split_instances(task.instances, by=config.split_by, seed=config.split_seed)
        instances = sample(split.test, config.limit, seed=config.split_seed, unit="block")
        return cls(task, instances, task.instructions[: config.test_instructions], config)

    def ask(
        self,
        loaded: LoadedModel,
        patch: Patch | None,
        progress: Progress,
        original: Predictions | None = None,
    ) -> Predictions:
        """The answers under a patch; an empty patch changes nothing, so `original` serves."""
        if original is not None and not patch:
            progress.advance(original.choice.size)
            return original
        with patch.applied(loaded) if patch else nullcontext():
            return predict(
                loaded,
                self.task,
                self.instances,
                self.config.scoring,
                instructions=self.instructions,
                advance=progress.advance,
            )
