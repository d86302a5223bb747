"""Splits are disjoint by template, stable in their seed, and samples are balanced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.errors import ConfigError, SplitError
from excise.splits import SampleUnit, digest, sample, split_instances
from excise.types import Condition, Instance

UNITS: tuple[SampleUnit, SampleUnit] = ("block", "instance")
CONDITIONS: tuple[Condition, Condition] = ("ambiguous", "disambiguated")


def make(
    templates: int, blocks: int = 2, rows: int = 4, categories: int = 1
) -> tuple[Instance, ...]:
    """Instances of `templates` templates in each category, ids in order."""
    return tuple(
        Instance(
            id=f"C{c}/{t}.{b}.{r}",
            fields={"question": f"question {t}"},
            options=("a", "b", "c"),
            gold=0,
            template=f"C{c}/{t}",
            block=f"C{c}/b{t}.{b}",
            condition=CONDITIONS[r % 2],
        )
        for c in range(categories)
        for t in range(templates)
        for b in range(blocks)
        for r in range(rows)
    )


def templates_of(instances: tuple[Instance, ...]) -> set[str]:
    return {i.template for i in instances}


@given(
    templates=st.integers(3, 12),
    categories=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    trial=st.integers(0, 5),
    fraction=st.floats(0.01, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_template_splits_are_disjoint_and_complete(
    templates: int, categories: int, seed: int, trial: int, fraction: float
) -> None:
    items = make(templates, categories=categories)
    split = split_instances(items, by="template", seed=seed, trial=trial, test_fraction=fraction)
    parts = (split.find, split.tune, split.test)
    assert sum(len(templates_of(part)) for part in parts) == len(templates_of(items))
    assert set.union(*map(templates_of, parts)) == templates_of(items)
    assert sum(map(len, parts)) == len(items)
    for part in parts:
        assert {i.template.split("/")[0] for i in part} == {f"C{c}" for c in range(categories)}
        assert [items.index(i) for i in part] == sorted(items.index(i) for i in part)
    assert not split.leaks


def test_trials_share_the_test_part_and_differ_in_find() -> None:
    items = make(20)
    splits = [split_instances(items, by="template", seed=3, trial=t) for t in range(6)]
    assert len({digest(split.test) for split in splits}) == 1
    assert len({digest(split.find) for split in splits}) > 1
    other = split_instances(items, by="template", seed=4)
    assert templates_of(other.test) != templates_of(splits[0].test)


def test_template_split_sizes() -> None:
    split = split_instances(make(12), by="template", seed=0)
    assert [len(templates_of(p)) for p in (split.find, split.tune, split.test)] == [3, 3, 6]
    split = split_instances(make(3), by="template", seed=0, test_fraction=0.9)
    assert [len(templates_of(p)) for p in (split.find, split.tune, split.test)] == [1, 1, 1]


def test_a_category_with_too_few_templates_is_pooled() -> None:
    items = (*make(6), *(i for i in make(1, categories=2) if i.template == "C1/0"))
    split = split_instances(items, by="template", seed=0)
    assert sum(map(len, (split.find, split.tune, split.test))) == len(items)


def test_membership_does_not_depend_on_order() -> None:
    items = make(9)
    forward = split_instances(items, by="template", seed=1, trial=2)
    backward = split_instances(items[::-1], by="template", seed=1, trial=2)
    assert digest(forward.find) == digest(backward.find)
    assert digest(forward.test) == digest(backward.test)
    for unit in UNITS:
        forward_ids = {i.id for i in sample(items, 10, seed=1, unit=unit)}
        assert forward_ids == {i.id for i in sample(items[::-1], 10, seed=1, unit=unit)}


def test_example_split_draws_what_the_published_code_draws() -> None:
    items = make(23)  # 184 rows: 18 in development
    split = split_instances(items, by="example", seed=7)
    expected = set(np.random.RandomState(7).choice(184, size=18, replace=False).tolist())
    assert {items.index(i) for i in (*split.find, *split.tune)} == expected
    assert (len(split.find), len(split.tune), len(split.test)) == (9, 9, 166)
    assert len({i.id for i in (*split.find, *split.tune, *split.test)}) == 184
    assert split.leaks
    again = split_instances(items, by="example", seed=7, trial=1)
    assert again.test == split.test
    assert again.find != split.find


@pytest.mark.parametrize("templates", [0, 1, 2])
def test_too_few_templates(templates: int) -> None:
    with pytest.raises(SplitError, match=f"^{templates} question templates.*--split-by example"):
        split_instances(make(templates), by="template", seed=0)


def test_too_few_examples() -> None:
    with pytest.raises(SplitError, match=r"^16 examples.*at least 20"):
        split_instances(make(2), by="example", seed=0)
    assert split_instances(make(5, blocks=1), by="example", seed=0).find


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"seed": -1}, "seed must lie between 0 and 4294967295, not -1"),
        ({"seed": 2**32}, "seed must lie between"),
        ({"trial": -1}, "trial must lie between"),
        ({"test_fraction": 0.0}, "test_fraction must lie between 0 and 1"),
        ({"test_fraction": float("nan")}, "test_fraction must lie between 0 and 1"),
        ({"by": "row"}, "unknown split 'row'"),
    ],
)
def test_split_arguments_are_checked(arguments: dict[str, Any], expected: str) -> None:
    defaults: dict[str, Any] = {"by": "template", "seed": 0}
    with pytest.raises(ConfigError, match=expected):
        split_instances(make(5), **defaults | arguments)


@given(limit=st.integers(1, 70), seed=st.integers(0, 10**6), rows=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_block_samples_hold_whole_blocks_within_the_limit(limit: int, seed: int, rows: int) -> None:
    items = make(6, blocks=3, rows=rows)
    drawn = sample(items, limit, seed=seed, unit="block")
    assert len(drawn) == (len(items) if limit >= len(items) else max(limit // rows, 1) * rows)
    assert set(Counter(i.block for i in drawn).values()) == {rows}
    per_template = Counter(i.template for i in drawn)
    spread = [per_template[name] for name in templates_of(items)]
    assert max(spread) - min(spread) <= rows


@given(limit=st.integers(1, 48), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_instance_samples_balance_templates_and_conditions(limit: int, seed: int) -> None:
    items = make(6)
    drawn = sample(items, limit, seed=seed, unit="instance")
    assert len(drawn) == limit
    per_template = Counter(i.template for i in drawn)
    spread = [per_template[name] for name in templates_of(items)]
    assert max(spread) - min(spread) <= 1
    per_condition = Counter(i.condition for i in drawn)
    assert abs(per_condition["ambiguous"] - per_condition["disambiguated"]) <= 1
    assert [items.index(i) for i in drawn] == sorted(items.index(i) for i in drawn)


def test_conditions_balance_where_templates_are_lopsided() -> None:
    items = make(4, blocks=1)
    lopsided = tuple(i for i in items if i.template != "C0/0" or i.condition == "ambiguous")
    drawn = sample(lopsided, 6, seed=0, unit="instance")
    assert Counter(i.condition for i in drawn) == {"ambiguous": 3, "disambiguated": 3}


def test_samples_nest_and_depend_on_the_seed() -> None:
    items = make(10)
    for unit in UNITS:
        small = {i.id for i in sample(items, 12, seed=5, unit=unit)}
        large = {i.id for i in sample(items, 32, seed=5, unit=unit)}
        assert small < large
        assert small != {i.id for i in sample(items, 12, seed=6, unit=unit)}


def test_no_limit_gives_everything_in_order() -> None:
    items = make(3)[::-1]
    assert sample(items, None, seed=0, unit="block") == items
    assert sample(items, len(items), seed=0, unit="instance") == items
    assert sample((), None, seed=0, unit="block") == ()


def test_sample_arguments_are_checked() -> None:
    with pytest.raises(ConfigError, match="limit must be at least 1, not 0"):
        sample(make(3), 0, seed=0, unit="block")
    with pytest.raises(ConfigError, match="unknown sampling unit 'row'"):
        sample(make(3), 4, seed=0, unit="row")  # type: ignore[arg-type]


def test_digest_names_the_set() -> None:
    items = make(3)
    assert digest(items) == digest(items[::-1])
    assert digest(items) != digest(items[1:])
    assert len(digest(items)) == 64
