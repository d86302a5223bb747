"""Presets, files and the command line meet in one resolved configuration."""

import tomllib

import pytest

from excise.config import PRESET_NOTES, PRESETS, RunConfig, resolve, to_toml
from excise.errors import ConfigError, UnknownNameError


def test_precedence_is_preset_then_file_then_overrides(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "v1"\nseed = 3\n[selection]\nn = 7\n[attribution]\ntokens = "sum"\n')
    resolved = resolve({"seed": 5, "attribution": {"skill_weight": None}}, file=file)
    assert resolved.preset == "v1"
    assert resolved.trials == 3  # from the preset
    assert resolved.attribution.instance_weight == "uniform"  # from the preset
    assert resolved.selection.n == 7  # the file wins over the preset's 50
    assert resolved.attribution.tokens == "sum"
    assert resolved.seed == 5  # the command line wins over the file


def test_round_trip_through_toml(tmp_path):
    for name in PRESETS:
        config = resolve({"preset": name, "tasks": ["a.jsonl"], "limit": 9})
        file = tmp_path / f"{name}.toml"
        file.write_text(to_toml(config))
        assert resolve({}, file=file) == config


def test_all_lifts_a_preset_number_and_survives_the_file(tmp_path):
    config = resolve({"selection": {"tune_instances": "all"}, "limit": "all"})
    assert config.selection.tune_instances is None
    assert config.limit is None
    file = tmp_path / "run.toml"
    file.write_text(to_toml(config))
    assert resolve({}, file=file) == config


def test_the_default_configuration_is_preset_v2():
    assert resolve({}) == RunConfig()
    assert set(PRESET_NOTES) == set(PRESETS)


def test_presets_hold_what_the_method_reference_says():
    v1, v2, official = PRESETS["v1"], PRESETS["v2"], PRESETS["official"]
    assert (v1.attribution.instances, v1.trials, v1.selection.n) == (10, 3, 50)
    assert (v2.attribution.instances, v2.selection.n) == (20, "auto")
    assert v2.attribution.differentiate == "P"
    assert official.attribution.differentiate == "log P"
    assert (official.attribution.order, official.attribution.batch_size) == ("batch", 4)
    assert official.selection.golden_section == (0, 500, 4)
    assert (official.seed, official.split_seed, official.split_by) == (2026, 0, "example")
    assert (official.scoring.mode, official.scoring.max_new_tokens) == ("generation", 16)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"selection": {"tune_instances": "most"}}, "selection.tune_instances"),
        ({"attribution": {"tokens": "median"}}, "attribution.tokens"),
        ({"attribution": {"token": "max"}}, "attribution.token"),
        ({"selection": {"n": -1}}, "n must not be negative"),
        ({"selection": {"grid": []}}, "grid must hold"),
        ({"selection": {"golden_section": [5, 5, 1]}}, "golden_section"),
        ({"limit": 0}, "limit"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(overrides, wanted):
    with pytest.raises(ConfigError) as caught:
        resolve(overrides)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="official"):
        resolve({"preset": "v3"})


def test_files_that_are_missing_or_no_toml(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml"):
        resolve({}, file=tmp_path / "no.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 1")
    with pytest.raises(ConfigError, match="no valid TOML"):
        resolve({}, file=broken)


def test_the_saved_text_is_toml():
    assert tomllib.loads(to_toml(RunConfig()))["preset"] == "v2"
