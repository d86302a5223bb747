"""Judges of continuations: sequence classifiers, offline scorers, and a lexicon."""

from excise.judges.choose import CLASSIFIERS, judge_for
from excise.judges.judge import Judge
from excise.judges.offline import SCORERS

__all__ = ["CLASSIFIERS", "SCORERS", "Judge", "judge_for"]
