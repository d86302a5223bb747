"""Statistics that tell an effect from noise: intervals, exact tests, verdicts, power."""

from excise.statistics.bootstrap import Interval, bootstrap, paired_bootstrap, pooled_difference
from excise.statistics.changes import changes
from excise.statistics.estimates import Ideal, Pair, PooledEstimate
from excise.statistics.exact import sign_flip
from excise.statistics.intervals import MAX_UNDEFINED
from excise.statistics.multiple import holm
from excise.statistics.power import minimum_detectable, templates_needed
from excise.statistics.resampling import MetricFunction, template_weights
from excise.statistics.swapping import swap_test
from excise.statistics.verdicts import Correction, Measured, judged

__all__ = [
    "MAX_UNDEFINED",
    "Correction",
    "Ideal",
    "Interval",
    "Measured",
    "MetricFunction",
    "Pair",
    "PooledEstimate",
    "bootstrap",
    "changes",
    "holm",
    "judged",
    "minimum_detectable",
    "paired_bootstrap",
    "pooled_difference",
    "sign_flip",
    "swap_test",
    "template_weights",
    "templates_needed",
]
