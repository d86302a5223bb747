"""Judges of continuations: sequence classifiers, offline scorers, and a lexicon."""
