"""Power: which differences a number of templates can show, and how many a difference needs.

The formulas are those of a mean of independent clusters (Bloom, "Minimum Detectable Effects",
Evaluation Review 19, 1995; design effect: Kish, "Survey Sampling", 1965, section 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

from scipy import stats

MOST_TEMPLATES = 1_000_000
"""Where the search for a number of templates ends."""


def multiplier(degrees: float, *, level: float, power: float) -> float:
    """How many standard errors an effect must be large: t at (1 + level) / 2 plus t at `power`."""
    return float(stats.t.ppf((1.0 + level) / 2.0, degrees) + stats.t.ppf(power, degrees))


def minimum_detectable(
    standard_error: float, degrees: float, *, level: float = 0.95, power: float = 0.8
) -> float:
    """The smallest true difference whose interval excludes 0 with the given probability.

    The same size of margin can be excluded, with the same probability, where there is no difference
    in truth (non-inferiority).

    Args:
        standard_error: Of the difference, over templates.
        degrees: Degrees of freedom of the standard error: templates minus strata.
        level: Coverage of the interval.
        power: Probability, between 0.5 and 1.

    Returns:
        The difference, at least 0, in the unit of the standard error.
    """
    return multiplier(degrees, level=level, power=power) * standard_error


def templates_needed(
    deviation: float, difference: float, *, level: float = 0.95, power: float = 0.8
) -> int:
    """The number of templates with which a difference can be shown.

    Args:
        deviation: Standard deviation between templates of the paired difference of a template.
        difference: The true difference, or the margin, above 0.
        level: Coverage of the interval.
        power: Probability of showing it.

    Returns:
        At least 2.

    Raises:
        ValueError: The difference is not above 0, or more than `MOST_TEMPLATES` are needed.
    """
    if difference <= 0:
        raise ValueError("the difference to be shown must be above 0")
    low, high = 2, MOST_TEMPLATES
    if not _shows(high, deviation, difference, level, power):
        raise ValueError(f"not even {MOST_TEMPLATES} templates would show it")
    while low < high:
        middle = (low + high) // 2
        if _shows(middle, deviation, difference, level, power):
            high = middle
        else:
            low = middle + 1
    return low


def _shows(templates: int, deviation: float, difference: float, level: float, power: float) -> bool:
    error = deviation / sqrt(templates)
    return minimum_detectable(error, templates - 1, level=level, power=power) <= difference


def assumed_deviation(changed: float, correlation: float, items: float) -> float:
    """Standard deviation between templates of the mean change of a 0/1 outcome.

    An item's change is -1, 0 or 1, so its variance is at most the share that changes; items of one
    template go the same way to some extent, which the design effect 1 + (m - 1) r allows for.

    Args:
        changed: Share of the items whose outcome changes, either way, in 0..1.
        correlation: Correlation between the changes of two items of one template, in 0..1.
        items: Items that a template has, at least 1.
    """
    return sqrt(changed * (1.0 + (items - 1.0) * correlation) / items)


def fewest_templates(level: float, n_tests: int = 1) -> int:
    """Templates below which the exact test cannot reach significance.

    All T templates pointing one way have p = 2 / 2**T, times the number of tests after correction.
    """
    templates = 1
    while n_tests * 0.5 ** (templates - 1) > 1.0 - level:
        templates += 1
    return templates


@dataclass(frozen=True, slots=True)
class Plan:
    """What a number of templates can show, and what a margin needs."""

    margin: float
    """The difference to be shown or excluded."""
    deviation: float
    """Standard deviation between templates of the paired difference of a template."""
    templates: int
    """Templates at hand."""
    items: int
    """Items at hand."""
    detectable: float | None
    """Smallest difference that they show; None with fewer than two templates."""
    needed_templates: int
    """Templates that the margin needs, as many as the exact test needs at least."""
    needed_items: int
    """Items of so many templates, as many in each as at hand."""
    enough: bool
    """Whether the templates at hand are that many."""


def plan(
    margin: float,
    deviation: float,
    templates: int,
    items: int,
    *,
    level: float = 0.95,
    power: float = 0.8,
    n_tests: int = 1,
) -> Plan:
    """Compare what is at hand with what a margin needs.

    Args:
        margin: The difference to be shown, or to be excluded where there is none.
        deviation: Standard deviation between templates of the paired difference of a template.
        templates: Templates at hand, at least 1.
        items: Their items.
        level: Coverage of the interval.
        power: Probability of showing it.
        n_tests: Tests that p-values are corrected for.

    Raises:
        ValueError: As in `templates_needed`.
    """
    least = fewest_templates(level, n_tests)
    needed = max(templates_needed(deviation, margin, level=level, power=power), least)
    detectable = None
    if templates > 1:
        error = deviation / sqrt(templates)
        detectable = minimum_detectable(error, templates - 1, level=level, power=power)
    return Plan(
        margin=margin,
        deviation=deviation,
        templates=templates,
        items=items,
        detectable=detectable,
        needed_templates=needed,
        needed_items=ceil(needed * items / templates),
        enough=templates >= needed,
    )
