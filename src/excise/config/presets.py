"""Everything that a preset decides, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from excise.config.asking import ContinuationConfig, ScoringConfig, TextConfig
from excise.config.evidence import DissectionConfig, StatisticsConfig
from excise.config.locating import AttributionConfig, PatchConfig, SelectionConfig
from excise.config.rivals import CalibrationConfig, FinetuningConfig, GateConfig, GuardConfig
from excise.config.section import Count, Section


class Preset(Section):
    """Everything that a preset decides."""

    attribution: AttributionConfig = AttributionConfig()
    selection: SelectionConfig = SelectionConfig()
    scoring: ScoringConfig = ScoringConfig()
    continuation: ContinuationConfig = ContinuationConfig()
    text: TextConfig = TextConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    finetuning: FinetuningConfig = FinetuningConfig()
    guard: GuardConfig = GuardConfig()
    gate: GateConfig = GateConfig()
    dissection: DissectionConfig = DissectionConfig()
    patch: PatchConfig = PatchConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    split_by: Literal["template", "example"] = "template"
    """Whether whole question templates go to find, tune or test, or single items (leaky)."""
    split_seed: int = Field(default=0, ge=0)
    """Decides the test split; trials draw find and tune anew from the rest."""
    trials: int = Field(default=1, ge=1)
    """Draws of find and tune."""
    seed: int = Field(default=0, ge=0)
    """Decides the samples and the random controls."""
    limit: Count = None
    """Test instances of each task; all by default."""
    test_instructions: Count = None
    """Instructions under which test instances are asked; all by default."""
    controls: int = Field(default=20, ge=0)
    """Draws of random neurons; with fewer than 20, beating all of them is no percentile."""


PRESETS: Mapping[str, Preset] = {
    "v1": Preset(
        attribution=AttributionConfig(instance_weight="uniform", instances=10),
        selection=SelectionConfig(n=50),
        trials=3,
    ),
    "v2": Preset(),
    "quick": Preset(
        attribution=AttributionConfig(instances=12, instructions=5),
        selection=SelectionConfig(
            grid=(0, 1, 2, 3, 5, 8, 12, 20, 30), tune_instances=48, tune_instructions=1
        ),
        limit=100,
        test_instructions=2,
        controls=3,
    ),
    "official": Preset(
        attribution=AttributionConfig(differentiate="log P", order="batch", batch_size=4),
        selection=SelectionConfig(
            search="golden_section",
            trials="average",
            tune_instances=None,
            tune_instructions=None,
        ),
        scoring=ScoringConfig(mode="generation"),
        split_by="example",
        seed=2026,
    ),
}
PRESET_NOTES: Mapping[str, str] = {
    "v1": "first version of the paper: 10 instances, 3 trials, uniform weights, n = 50",
    "v2": "the published paper: 20 instances weighted by confusion, n chosen on the tune split",
    "quick": "version 2 cut down to minutes on a laptop: fewer instances, instructions, items",
    "official": "the authors' code: log P, clamp after each batch of 4, golden section, generation",
}
