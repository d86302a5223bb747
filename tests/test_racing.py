"""A race for the number of neurons against the full grid."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import tiny
from excise.config import PRESETS, Preset
from excise.methods import choose_patch, locate
from excise.methods.racing import PORTIONS, portions, race
from excise.models import LoadedModel
from excise.types import FloatArray, Instance

GRID = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50)


def items(blocks: int) -> list[Instance]:
    return [
        Instance(f"{b}-{k}", {}, ("a", "b"), 0, template=f"t{b % 12}", block=f"b{b}")
        for b in range(blocks)
        for k in range(4)
    ]


def test_portions_are_even_and_keep_blocks_together() -> None:
    dealt = portions(items(10))
    assert [len(part) for part in dealt] == [12, 12, 8, 8]
    blocks = [{item.block for item in part} for part in dealt]
    assert blocks == [{"b0", "b4", "b8"}, {"b1", "b5", "b9"}, {"b2", "b6"}, {"b3", "b7"}]
    assert [len(part) for part in portions(items(2))] == [4, 4]


class Table:
    """Answers that are known beforehand, and how often they are asked for."""

    def __init__(self, correct: FloatArray, parts: list[list[Instance]]) -> None:
        self.correct, self.asked = correct, 0
        ends = np.cumsum([len(part) for part in parts])
        self.places = np.split(np.arange(ends[-1]), ends[:-1])

    def ask(self, n: int, place: int) -> FloatArray:
        self.asked += len(self.places[place])
        return self.correct[GRID.index(n), self.places[place]]


def test_the_winner_is_as_good_as_the_grid_s_for_less_than_half_the_price() -> None:
    parts = portions(items(16))
    size = sum(map(len, parts))
    generator = np.random.default_rng(0)
    lost, agreed = [], 0
    for _ in range(200):
        # Accuracy rises to a maximum anywhere and falls; answers of neighbours are correlated.
        peak = generator.uniform(0, len(GRID) - 1)
        chance = 0.5 - 0.025 * np.abs(np.arange(len(GRID)) - peak)
        table = Table((generator.random(size) < chance[:, None]).astype(float), parts)
        left = race(GRID, parts, table.ask)
        assert table.asked <= 4.75 * size
        full = table.correct.mean(axis=1)
        best, won = int(full.argmax()), max(left, key=lambda n: full[GRID.index(n)])
        difference = table.correct[GRID.index(won)] - table.correct[best]
        lost.append(-difference.mean())
        # The 95 % interval of the difference on the tune items.
        agreed += difference.mean() + 1.96 * difference.std() / np.sqrt(size) >= 0
    assert agreed >= 190
    assert np.mean(lost) < 0.03


def test_what_is_plainly_best_wins_and_equal_numbers_favour_the_smaller() -> None:
    parts = portions(items(8))
    plain = np.zeros((len(GRID), 32))
    plain[7] = 1.0
    table = Table(plain, parts)
    assert race(GRID, parts, table.ask) == [20]
    # After the first part all others are worse by more than chance.
    assert table.asked == len(GRID) * 8 + 3 * 8
    equal = Table(np.ones((len(GRID), 32)), parts)
    assert race(GRID, parts, equal.ask) == [0, 1]


@cache
def model() -> LoadedModel:
    return tiny.loaded("llama")


@pytest.mark.parametrize("blocks", [1, 6])
def test_in_a_model_the_race_chooses_as_the_grid_does_within_the_interval(blocks: int) -> None:
    task = tiny.task()
    instances = task.instances[: 4 * blocks] if blocks > 1 else task.instances[:2]
    quick = PRESETS["quick"]
    grid = quick.model_copy(
        update={
            "attribution": quick.attribution.model_copy(update={"instances": 2}),
            "selection": quick.selection.model_copy(
                update={"grid": GRID, "tune_instances": None, "tune_instructions": 2}
            ),
        }
    )
    racing = grid.model_copy(
        update={"selection": grid.selection.model_copy(update={"search": "racing"})}
    )
    scores = locate(model(), task, instances, grid, seed=0)

    def chosen(config: Preset) -> tuple[dict[int, float], int, int]:
        asked: list[int] = []
        choice = choose_patch(
            model(), task, instances, scores, config, seed=0, provenance={}, advance=asked.append
        )
        return {p.n: p.objective for p in choice.curve}, len(choice.patch), sum(asked)

    full, best, price = chosen(grid)
    part, winner, paid = chosen(racing)
    assert set(part) <= set(full) == set(GRID)
    # Measured on all items: the very values of the grid.
    assert part == pytest.approx({n: full[n] for n in part})
    n_blocks = len({instance.block for instance in instances})
    if n_blocks >= PORTIONS:
        assert paid < price / 2
    deviation = np.sqrt(0.25 / (len(instances) * 2))
    assert full[winner] >= full[best] - 1.96 * np.sqrt(2) * deviation
