"""Find, tune and test: disjoint parts of a task, and seeded samples of them.

Rows of one template differ in little more than names, so a split by row tests a method on
near-copies of what it was fitted to. The default therefore keeps templates together. The split by
example imitates the published code of CRISPR (Yang et al., ACL 2024) for comparison; it leaks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import cycle
from typing import Literal, TypeVar, get_args

import numpy as np

from excise.errors import ConfigError, SplitError, UnknownNameError
from excise.types import Instance, Split
from excise.types import Item as AnyItem

SplitBy = Literal["template", "example"]
SampleUnit = Literal["block", "instance"]

Item = TypeVar("Item")
Drawn = TypeVar("Drawn", bound=AnyItem)

# Separate streams, so that a change in one draw never shifts another.
_TEST, _TRIAL, _SAMPLE = 0, 1, 2
_MINIMUM_TEMPLATES = 3
_DEVELOPMENT_SHARE = 10


def split_instances(
    instances: Sequence[Instance],
    *,
    by: SplitBy,
    seed: int,
    trial: int = 0,
    test_fraction: float = 0.5,
) -> Split:
    """Split a task into find, tune and test.

    By template, the test templates depend on the seed only, so that all trials report on the same
    items; find and tune share the other templates half and half, drawn anew for each trial (tune
    gets the odd one). A task with several categories (the text of a template before "/") is split
    within each category, as long as every category has three templates.

    By example, a development part of 10 % (rounded down) is drawn as in CRISPR's published code,
    `numpy.random.RandomState(seed).choice` without replacement; find and tune share it half and
    half by trial, test is the rest. `Split.leaks` is then true.

    Args:
        instances: The task's instances; every part keeps their order.
        by: What is kept together.
        seed: Decides the test part, 0 or larger.
        trial: Decides find and tune within the seed, 0 or larger.
        test_fraction: Share of templates in test, between 0 and 1; by example it is 90 % always.

    Raises:
        SplitError: There are too few templates or examples for three parts.
        ConfigError: An argument is out of range.
    """
    if by not in get_args(SplitBy):
        raise UnknownNameError("split", by, get_args(SplitBy))
    _check_seeds(seed=seed, trial=trial)
    if not 0.0 < test_fraction < 1.0:
        raise ConfigError(f"test_fraction must lie between 0 and 1, not {test_fraction}.")
    if by == "template":
        return _by_template(instances, seed, trial, test_fraction)
    return _by_example(instances, seed, trial)


def sample(
    instances: Sequence[Drawn], limit: int | None, *, seed: int, unit: SampleUnit
) -> tuple[Drawn, ...]:
    """Draw up to `limit` instances, the templates taking turns.

    The draw depends on the seed and the set of instances, not on their order, and a smaller limit
    draws a subset of a larger one.

    Args:
        instances: What to draw from; the result keeps their order.
        limit: Number of instances; None for all.
        seed: 0 or larger.
        unit: "block" draws whole blocks and stops before `limit` would be exceeded, but draws at
            least one block. "instance" draws single instances and keeps the conditions (ambiguous,
            disambiguated) in balance.

    Raises:
        ConfigError: An argument is out of range.
    """
    if unit not in get_args(SampleUnit):
        raise UnknownNameError("sampling unit", unit, get_args(SampleUnit))
    _check_seeds(seed=seed)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}; leave it out for all instances.")
    if limit is None or limit >= len(instances):
        return tuple(instances)
    generator = np.random.default_rng([seed, _SAMPLE])
    ordered = sorted(instances, key=lambda instance: instance.id)
    chosen = (
        _draw_blocks(ordered, limit, generator)
        if unit == "block"
        else _draw_instances(ordered, limit, generator)
    )
    return tuple(instance for instance in instances if instance.id in chosen)


def digest(instances: Sequence[AnyItem]) -> str:
    """sha256 over the ids, in hexadecimal; the same for the same set in any order."""
    ids = sorted(instance.id for instance in instances)
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _by_template(
    instances: Sequence[Instance], seed: int, trial: int, test_fraction: float
) -> Split:
    test_generator = np.random.default_rng([seed, _TEST])
    trial_generator = np.random.default_rng([seed, _TRIAL, trial])
    find: set[str] = set()
    tune: set[str] = set()
    for templates in _strata({instance.template for instance in instances}):
        drawn = _shuffled(templates, test_generator)
        n_test = min(max(round(len(drawn) * test_fraction), 1), len(drawn) - 2)
        # Sorted again, so that the trial's draw does not depend on the order of the test's.
        rest = _shuffled(sorted(drawn[n_test:]), trial_generator)
        find.update(rest[: len(rest) // 2])
        tune.update(rest[len(rest) // 2 :])
    fitted = find | tune
    return Split(
        find=tuple(i for i in instances if i.template in find),
        tune=tuple(i for i in instances if i.template in tune),
        test=tuple(i for i in instances if i.template not in fitted),
        by="template",
    )


def _strata(templates: set[str]) -> list[list[str]]:
    """Templates by category, each in sorted order; one stratum if a category is too small."""
    if len(templates) < _MINIMUM_TEMPLATES:
        raise SplitError(
            f"{len(templates)} question templates cannot give disjoint find, tune and test; "
            f"give data with at least {_MINIMUM_TEMPLATES} templates, or use --split-by example "
            "and accept that it leaks."
        )
    strata: dict[str, list[str]] = {}
    for template in sorted(templates):
        strata.setdefault(template.partition("/")[0], []).append(template)
    if min(map(len, strata.values())) < _MINIMUM_TEMPLATES:
        return [sorted(templates)]
    return list(strata.values())


def _by_example(instances: Sequence[Instance], seed: int, trial: int) -> Split:
    n_development = len(instances) // _DEVELOPMENT_SHARE
    if n_development < 2:
        raise SplitError(
            f"{len(instances)} examples leave fewer than two for find and tune, which share "
            f"10 %; give at least {2 * _DEVELOPMENT_SHARE} examples, or use --split-by template."
        )
    # The legacy generator on purpose: it draws what the published code drew.
    development = np.random.RandomState(seed).choice(
        len(instances), size=n_development, replace=False
    )
    drawn = np.random.default_rng([seed, _TRIAL, trial]).permutation(np.sort(development))
    find = set(drawn[: n_development // 2].tolist())
    tune = set(drawn[n_development // 2 :].tolist())
    fitted = find | tune
    return Split(
        find=tuple(i for position, i in enumerate(instances) if position in find),
        tune=tuple(i for position, i in enumerate(instances) if position in tune),
        test=tuple(i for position, i in enumerate(instances) if position not in fitted),
        by="example",
    )


def _draw_blocks(ordered: list[Drawn], limit: int, generator: np.random.Generator) -> set[str]:
    blocks: dict[str, list[Drawn]] = {}
    for instance in ordered:
        blocks.setdefault(instance.block, []).append(instance)
    by_template: dict[str, list[str]] = {}
    for block, members in blocks.items():
        by_template.setdefault(members[0].template, []).append(block)
    queues = [_shuffled(by_template[name], generator) for name in sorted(by_template)]
    turns = _shuffled(queues, generator)
    chosen: set[str] = set()
    for turn in range(max(map(len, turns))):
        for queue in turns:
            if turn < len(queue):
                ids = {instance.id for instance in blocks[queue[turn]]}
                if chosen and len(chosen) + len(ids) > limit:
                    return chosen
                chosen |= ids
    return chosen


def _condition(item: AnyItem) -> str:
    return getattr(item, "condition", None) or ""


def _draw_instances(ordered: list[Drawn], limit: int, generator: np.random.Generator) -> set[str]:
    by_template: dict[str, dict[str, list[str]]] = {}
    for instance in _shuffled(ordered, generator):
        conditions = by_template.setdefault(instance.template, {})
        conditions.setdefault(_condition(instance), []).append(instance.id)
    turns = _shuffled(sorted(by_template), generator)
    # Also the order in which conditions win ties.
    taken = dict.fromkeys(_shuffled(sorted({_condition(i) for i in ordered}), generator), 0)
    chosen: set[str] = set()
    for template in cycle(turns):
        conditions = by_template[template]
        # The condition drawn least so far, among those that this template still has.
        open_conditions = [name for name in taken if conditions.get(name)]
        if open_conditions:
            condition = min(open_conditions, key=taken.__getitem__)
            chosen.add(conditions[condition].pop())
            taken[condition] += 1
        if len(chosen) == limit:
            break
    return chosen


def _shuffled(items: Sequence[Item], generator: np.random.Generator) -> list[Item]:
    return [items[position] for position in generator.permutation(len(items))]


def _check_seeds(**numbers: int) -> None:
    for name, number in numbers.items():
        # The upper end is that of numpy's legacy generator.
        if not 0 <= number < 2**32:
            raise ConfigError(f"{name} must lie between 0 and {2**32 - 1}, not {number}.")
