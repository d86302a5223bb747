"""The test split's questions, put to one state of the model after the other."""

from __future__ import annotations

from dataclasses import dataclass

from excise.config import RunConfig
from excise.evaluation import Journal, ask
from excise.models import LoadedModel, weights_digest
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
        journal: Journal | None = None,
    ) -> Predictions:
        """The answers under a patch; an empty patch changes nothing, so `original` serves.

        With a journal, parts that it holds are not asked again.
        """
        if original is not None and not patch:
            progress.advance(original.choice.size)
            return original
        answers = ask(
            loaded,
            self.task,
            self.instances,
            self.config,
            patch=patch or None,
            instructions=self.instructions,
            journal=journal,
            advance=progress.advance,
        )
        assert isinstance(answers, Predictions)  # the task is a choice
        return answers


def weights_unchanged(loaded: LoadedModel, patch: Patch, *, force: bool = False) -> bool:
    """Whether a patch leaves every weight as it is: it is empty, or its rows are zero already.

    Such a patch gives the same model again, and a comparison would show nothing.

    Args:
        loaded: the unpatched model.
        patch: what would be applied.
        force: accept other weights than the patch was made on.
    """
    if all(factor == 1.0 for factor in patch.by_neuron.values()):
        return True
    with patch.applied(loaded, force=force):
        return weights_digest(loaded.model) == loaded.digest
