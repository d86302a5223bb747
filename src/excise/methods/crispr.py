"""CRISPR (Yang et al., ACL 2024): score neurons on find, choose how many on tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from excise.attribution import NeuronScores, attribute, competing_sites
from excise.config import Preset
from excise.errors import ConfigError
from excise.evaluation import ArrayJournal, ask
from excise.methods.method import Excision, Fitted, Fitting
from excise.methods.racing import raced
from excise.methods.resuming import KeptSums, digest_of
from excise.metrics import METRICS, value
from excise.models import LoadedModel, packed_linears, unpacked
from excise.patches import Patch, factor_of
from excise.scoring import reusing
from excise.selection import CurvePoint, RankedNeuron, choose, first_best, golden_section, top
from excise.splits import sample
from excise.types import Instance, Predictions, Task

CURVE_METRICS = (
    "accuracy",
    "accuracy_ambiguous",
    "accuracy_disambiguated",
    "s_amb",
    "s_dis",
    "unknown_disambiguated",
)
"""Written for every n tried; the objective is the first."""


@dataclass(frozen=True)
class Choice:
    """The patch that the tune split chose, and how the others did."""

    patch: Patch
    curve: tuple[CurvePoint, ...]
    """Every n measured in full on the tune split, as it was tried; empty for a fixed n."""


ATTRIBUTION_WORK = 8
"""Cost of attributing one prompt, in units of one scored prompt (measured on the default model)."""


@dataclass(frozen=True)
class Crispr:
    """Zero the neurons that speak for the biased option, as many as the tune split likes best."""

    name: str = "crispr"
    description: str = "CRISPR as configured: bias neurons zeroed, n chosen on the tune split"

    def fit(self, fitting: Fitting) -> Fitted:
        """Locate on find, choose n on tune."""
        return self.excise(fitting)

    def excise(self, fitting: Fitting) -> Excision:
        """As `fit`; the result is known to be a patch."""
        config = fitting.config
        competing = competing_sites(fitting.loaded, config.attribution)
        _check_size(config, sum(site.size for site in competing))  # before the work, not after it
        scores = located(fitting)
        options = [getattr(config, name).model_dump_json() for name in _DECIDE]

        def choose_n() -> Choice:
            fitting.progress.stage(f"{fitting.task.name}: choosing how many neurons")
            return choose_patch(
                fitting.loaded,
                fitting.task,
                fitting.split.tune,
                scores,
                config,
                seed=fitting.seed,
                provenance={},
                advance=fitting.progress.advance,
                journal=fitting.journal,
            )

        choice = fitting.shared.once(f"choice {fitting.seed} {options}", choose_n, fitting.progress)
        patch = replace(choice.patch, provenance=fitting.provenance)
        return excision(self.name, Choice(patch, choice.curve), scores)


_DECIDE = ("attribution", "selection", "scoring", "patch")
"""Sections of the options that decide CRISPR's patch."""


def located(fitting: Fitting) -> NeuronScores:
    """CRISPR's scores for a split, computed once for all methods that need them."""
    config = fitting.config
    options = config.attribution.model_dump_json(), config.scoring.end_token
    return fitting.shared.once(
        f"scores {fitting.seed} {options}",
        lambda: locate(
            fitting.loaded,
            fitting.task,
            fitting.split.find,
            config,
            seed=fitting.seed,
            advance=lambda prompts: fitting.progress.advance(prompts * ATTRIBUTION_WORK),
            journal=fitting.journal,
        ),
        fitting.progress,
    )


def excision(name: str, choice: Choice, scores: NeuronScores) -> Excision:
    """The patch that the tune split chose, with its curve and the scores behind it."""
    return Excision(name, choice.patch, curve=choice.curve, scores=scores)


def locate(
    loaded: LoadedModel,
    task: Task,
    find: Sequence[Instance],
    config: Preset,
    *,
    seed: int,
    advance: Callable[[int], None] | None = None,
    journal: ArrayJournal | None = None,
) -> NeuronScores:
    """Bias scores of all neurons from a seeded sample of the find split.

    With a journal, instructions that an interrupted call has done are not done again.
    """
    instances = sample(find, config.attribution.instances, seed=seed, unit="instance")
    sums = None
    if journal is not None:
        options = config.attribution.model_dump(mode="json"), config.scoring.end_token
        sums = KeptSums(journal, digest_of(loaded, task, instances, "attribution", *options))
    return attribute(
        loaded,
        task,
        instances,
        config.attribution,
        end_token=config.scoring.end_token,
        advance=advance,
        sums=sums,
    )


def choose_patch(
    loaded: LoadedModel,
    task: Task,
    tune: Sequence[Instance],
    scores: NeuronScores,
    config: Preset,
    *,
    seed: int,
    provenance: Mapping[str, Any],
    advance: Callable[[int], None] | None = None,
    journal: ArrayJournal | None = None,
) -> Choice:
    """The first n neurons of the ranking, n fixed or the best on the tune split.

    The objective is accuracy, the mean over instructions; of equals the smaller n wins, in a
    golden-section search the first one tried (the authors' code). n = 0 competes: where no n helps,
    the patch is empty. A race measures only the numbers that win in full, and only these are in the
    curve. With a journal, what an interrupted call has asked is not asked again.

    Raises:
        ConfigError: n, or a number of the grid, is larger than the number of neurons.
    """
    selection = config.selection
    _check_size(config, sum(len(values) for values in scores.by_module.values()))
    ranking = top(scores.by_module, _largest(config), sign=config.attribution.sign)

    def patch(n: int) -> Patch:
        return _patch(loaded, ranking[:n], config, provenance)

    if isinstance(selection.n, int):
        return Choice(patch(selection.n), ())
    instances = sample(tune, selection.tune_instances, seed=seed, unit="block")
    instructions = task.instructions[: selection.tune_instructions]
    tried: dict[int, dict[str, float | None]] = {}

    def answers(n: int, items: Sequence[Instance]) -> Predictions:
        excised = patch(n)
        changed = {neuron.module for neuron in excised.neurons}
        # Only what the patch changes is packed anew.
        with unpacked([loaded.linear(module) for module in changed]):
            said = ask(
                loaded,
                task,
                items,
                config,
                patch=excised,
                instructions=instructions,
                journal=journal,
                advance=advance,
            )
        assert isinstance(said, Predictions)  # the task is a choice
        return said

    def valued(n: int, predictions: Predictions) -> float:
        tried[n] = {name: value(METRICS[name], predictions) for name in CURVE_METRICS}
        return float(tried[n]["accuracy"] or 0.0)

    def measure(n: int) -> float:
        return valued(n, answers(n, instances))

    packed = config.scoring.mode == "scoring"
    with (
        packed_linears(loaded.model) if packed else nullcontext(),
        reusing(loaded, config.scoring) as kept,
    ):
        kept.expect([patch(n).changes for n in _competing(config)])
        if selection.search == "golden_section":
            # The authors compare accuracies in per cent, rounded to two decimals.
            points = list(
                golden_section(
                    lambda n: round(100 * measure(n), 2) / 100, *selection.golden_section
                )
            )
            best = first_best(points)
        else:
            numbers = _competing(config)
            if selection.search == "racing":
                finished = raced(numbers, instances, answers)
                points = [CurvePoint(n, valued(n, said)) for n, said in finished.items()]
            else:
                points = [CurvePoint(n, measure(n)) for n in numbers]
            best = choose(points)
    curve = tuple(CurvePoint(point.n, point.objective, tried[point.n]) for point in points)
    return Choice(patch(best.n), curve)


def _check_size(config: Preset, available: int) -> None:
    largest = _largest(config)
    if largest > available:
        raise ConfigError(
            f"n = {largest} is larger than the number of neurons that compete ({available:,})."
        )


def _largest(config: Preset) -> int:
    selection = config.selection
    if isinstance(selection.n, int):
        return selection.n
    if selection.search == "golden_section":
        return selection.golden_section[1]
    return max(selection.grid)


def _competing(config: Preset) -> Sequence[int]:
    """Ascending, the numbers of neurons that a search may ask."""
    selection = config.selection
    if selection.search == "golden_section":
        low, high, _ = selection.golden_section
        return range(low, high + 1)
    return sorted(set(selection.grid))


def _patch(
    loaded: LoadedModel,
    ranked: Sequence[RankedNeuron],
    config: Preset,
    provenance: Mapping[str, Any],
) -> Patch:
    return Patch(
        neurons=tuple(entry.neuron for entry in ranked),
        scores=tuple(entry.score for entry in ranked),
        base_model=loaded.name,
        base_digest=loaded.digest,
        factor=factor_of(config.patch),
        provenance=provenance,
    )
