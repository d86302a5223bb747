"""Options of a run: every ambiguity of the method as a named choice, presets, TOML in and out."""

from excise.config.asking import ContinuationConfig, ScoringConfig, TextConfig
from excise.config.evidence import DissectionConfig, StatisticsConfig
from excise.config.locating import AttributionConfig, PatchConfig, SelectionConfig
from excise.config.presets import PRESET_NOTES, PRESETS, Preset
from excise.config.reading import read_record, resolve, to_toml
from excise.config.rivals import CalibrationConfig, FinetuningConfig, GateConfig, GuardConfig
from excise.config.run import Dtype, RunConfig
from excise.config.section import Count

__all__ = [
    "PRESETS",
    "PRESET_NOTES",
    "AttributionConfig",
    "CalibrationConfig",
    "ContinuationConfig",
    "Count",
    "DissectionConfig",
    "Dtype",
    "FinetuningConfig",
    "GateConfig",
    "GuardConfig",
    "PatchConfig",
    "Preset",
    "RunConfig",
    "ScoringConfig",
    "SelectionConfig",
    "StatisticsConfig",
    "TextConfig",
    "read_record",
    "resolve",
    "to_toml",
]
