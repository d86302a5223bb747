"""The command line without a model: help, lists, options, errors, words."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from rich.console import Console

from cli_models import WORKPLACE, excise
from excise import __version__
from excise.cli.tables import Cell, percent, print_table, signed
from excise.cli.words import meaning, verdict
from excise.config import PRESETS, RunConfig, ScoringConfig
from excise.errors import ExciseError
from excise.tasks import TASKS

HEAVY = {"torch", "transformers", "numpy", "scipy", "pyarrow"}
FORBIDDEN = re.compile(r"\b(debias\w*|unbias\w*|fair|fairness|bias-free)\b", re.IGNORECASE)


def started(*arguments: str) -> set[str]:
    """Modules that an invocation imports, in a process of its own."""
    code = (
        "import sys, json\n"
        "from excise.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print(json.dumps(list(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not started(*arguments) & HEAVY


def test_help_answers_in_half_a_second() -> None:
    command = [sys.executable, "-c", "from excise.cli.app import main; main()", "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Time on the processor: a busy machine must not fail the test.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_lists_of_tasks_and_presets_need_no_torch() -> None:
    assert not started("ls", "tasks") & {"torch", "transformers"}
    assert not started("ls", "presets") & {"torch", "transformers"}


def test_version() -> None:
    assert excise("--version").stdout == f"excise {__version__}\n"


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_lists_name_everything_at_any_width(columns: int) -> None:
    tasks = excise("ls", "tasks", columns=columns).stdout
    assert all(re.search(rf"^{name}\b", tasks, re.MULTILINE) for name in TASKS)
    assert "CC BY 4.0" in tasks
    presets = excise("ls", "presets", columns=columns).stdout
    assert all(name in presets for name in PRESETS)
    models = excise("ls", "models", columns=columns).stdout
    assert "mt5" in models
    assert "bloom" in models
    assert max(map(len, (tasks + presets + models).splitlines())) <= max(columns, 60)


class _Stop(ExciseError):
    pass


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `run` would be given."""
    seen: dict[str, Any] = {}

    def stop(config: RunConfig, **rest: Any) -> None:
        seen.update(rest, config=config)
        raise _Stop("stopped here")

    monkeypatch.setattr("excise.pipeline.run", stop)
    return seen


def test_options_not_given_are_the_presets_own(configured: dict[str, Any]) -> None:
    assert excise("run").exit_code == 2
    assert configured["config"] == RunConfig()
    assert re.fullmatch(r"runs/default-bbq-age-\d{8}-\d{6}", str(configured["out"]))


def test_every_flag_reaches_its_option(configured: dict[str, Any]) -> None:
    flags = (
        "run org/model-x --task bbq-age,bbq-ses -t bbq-race --preset v1 -o X -L 7 --n 12 --seed 3 "
        "--instructions i.toml --trials 2 --controls 4 --dtype bfloat16 --device cpu --data-dir d "
        "--apply-chat-template no --split-by example --test-instructions 5 --tune-instances 6 "
        "--find-instances 8 --find-instructions 9 --normalisation per_token --mode generation "
        "--revision abc --set resamples=200 --set attribution.tokens=mean "
        "--set selection.grid=[0,4]"
    )
    excise(*flags.split())
    config: RunConfig = configured["config"]
    assert config.model == "org/model-x"
    assert config.tasks == ("bbq-age", "bbq-ses", "bbq-race")
    assert (config.preset, config.limit, config.seed) == ("v1", 7, 3)
    assert (config.trials, config.controls, config.resamples) == (2, 4, 200)
    assert (config.dtype, config.device, config.data_dir) == ("bfloat16", "cpu", "d")
    assert (config.instructions, config.apply_chat_template) == ("i.toml", "no")
    assert (config.split_by, config.test_instructions, config.revision) == ("example", 5, "abc")
    assert (config.selection.n, config.selection.tune_instances) == (12, 6)
    assert config.selection.grid == (0, 4)
    assert (config.attribution.instances, config.attribution.instructions) == (8, 9)
    assert config.attribution.tokens == "mean"
    assert config.attribution.instance_weight == "uniform"  # from the preset
    assert (config.scoring.normalisation, config.scoring.mode) == ("per_token", "generation")
    assert configured["out"] == Path("X")


def choices(annotation: Any) -> set[str]:
    """The texts that an option of the configuration accepts."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {text for part in get_args(annotation) for text in choices(part)}


@pytest.mark.parametrize(
    ("flag", "annotation"),
    [
        ("--dtype", RunConfig.model_fields["dtype"].annotation),
        ("--apply-chat-template", RunConfig.model_fields["apply_chat_template"].annotation),
        ("--split-by", RunConfig.model_fields["split_by"].annotation),
        ("--normalisation", ScoringConfig.model_fields["normalisation"].annotation),
        ("--mode", ScoringConfig.model_fields["mode"].annotation),
    ],
)
def test_help_names_the_choices_of_the_configuration(flag: str, annotation: Any) -> None:
    shown = re.search(rf"{flag} (\S+)", excise("run", "--help", columns=120).stdout)
    assert shown is not None
    assert set(shown[1].split("|")) == choices(annotation)


def test_underscores_are_dashes_as_in_lm_eval(configured: dict[str, Any]) -> None:
    excise("run", "--tasks", "bbq-age", "--output_path", "X", "--apply_chat_template", "yes")
    assert configured["config"].apply_chat_template == "yes"
    assert configured["out"] == Path("X")


def test_the_command_line_wins_over_the_file(configured: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'model = "from-file"\npreset = "v1"\nseed = 5\nlimit = 50\n[selection]\nn = 9\n'
        '[attribution]\ntokens = "sum"\n'
    )
    excise("run", "--config", file, "--seed", 1, "--n", "auto")
    config: RunConfig = configured["config"]
    assert (config.model, config.preset, config.seed) == ("from-file", "v1", 1)
    assert (config.limit, config.selection.n, config.attribution.tokens) == (50, "auto", "sum")
    excise("run", "default", "--config", file)
    assert configured["config"].model is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--task", "bbq-agee"], "bbq-age"),
        (["--task", "bbq-age,"], "--task"),
        (["--task", "bbq-age,bbq-age"], "bbq-age"),
        (["--preset", "v3"], "official"),
        (["--n", "many"], "--n"),
        (["--n", "-3"], "selection"),
        (["--limit", "0"], "limit"),
        (["--dtype", "int8"], "dtype"),
        (["--normalisation", "x"], "scoring.normalisation"),
        (["--split-by", "row"], "split_by"),
        (["--set", "nothing"], "--set"),
        (["--set", "selection.depth=3"], "selection.depth"),
        (["--set", "selection=3", "--set", "selection.n=3"], "selection"),
        (["--config", "missing.toml"], "missing.toml"),
        (["--task", "missing.jsonl"], "missing.jsonl"),
        (["--task", WORKPLACE, "--instructions", "missing.toml"], "missing.toml"),
        (["--task", "bbq-age", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_give_one_line(
    arguments: list[Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = excise("run", *arguments, "--out", "X", "--quiet")
    assert_one_line(result, named)
    assert list(tmp_path.iterdir()) == []


def assert_one_line(result: Any, named: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if not re.match(r"excise: \[", line)]
    assert line.startswith("excise: error: ")
    assert named in line


@pytest.mark.parametrize("arguments", [["--nonsense"], ["jump"], ["run", "--limit", "x"]])
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    result = excise(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_an_interrupt_says_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("excise.pipeline.run", interrupt)
    result = excise("run")
    assert result.exit_code == 130
    assert result.stderr == "excise: interrupted; nothing was written\n"


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("excise.pipeline.run", fail)
    assert isinstance(excise("run").exception, RuntimeError)


def estimate(low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    values = {"original": 0.3, "patched": 0.4, "difference": 0.1, "level": 0.95}
    rest = {"low": low, "high": high, "controls": (0.31, 0.33), "verdict": "improved"}
    return {**values, **rest, **more}


def test_the_verdict_is_that_of_the_tests() -> None:
    assert verdict(estimate(0.02, 0.2)) == "improved"
    # An interval above 0 whose corrected p-value is not significant.
    assert verdict(estimate(0.02, 0.2, verdict="no evidence")) == "no evidence"
    assert "no evidence" in verdict(estimate(None, None, verdict=None))


def test_the_disambiguated_loss_stands_beside_the_gain() -> None:
    loss = estimate(-0.09, -0.01, original=0.6, patched=0.55, difference=-0.05, verdict="worse")
    text = meaning("t", {"accuracy": estimate(0.02, 0.2), "accuracy_disambiguated": loss}, n=3)
    assert "30.0 -> 40.0 %, +10.0 points (95 % interval +2.0 to +20.0): improved" in text
    assert "above all 2 random controls" in text
    assert "60.0 -> 55.0 %, -5.0 points (95 % interval -9.0 to -1.0): worse" in text
    assert not FORBIDDEN.search(text)


def test_what_is_not_measured_is_said() -> None:
    text = meaning("t", {"accuracy": estimate(0.02, 0.2, controls=(0.5, None))}, n=3)
    assert "above 0 of 1 random controls, so random neurons can do as well" in text
    assert "a loss there is not measured" in text
    assert "undefined" in meaning("t", {}, n=3)
    assert "not compared" in meaning("t", {"accuracy": estimate(0, 1, controls=())}, n=3)
    assert "nothing was excised" in meaning("t", {}, n=0)


def test_numbers() -> None:
    assert (percent(None), percent(0.1234), percent(-0.0001)) == ("undefined", "12.3", "0.0")
    assert (signed(None), signed(0.05), signed(-0.05)) == ("undefined", "+5.0", "-5.0")
    assert signed(0.0) == "0.0"


@pytest.mark.parametrize("width", [40, 60, 120])
def test_tables_fit(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    row = [Cell("Accuracy,", "disambiguated"), "50.0", Cell("+3.1", "(-1.0 to +7.2)")]
    print_table(Console(width=width), "title", ["metric", "original", "difference"], [row])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    for part in ("disambiguated", "50.0", "+3.1", "(-1.0 to +7.2)"):
        assert part in printed


def test_help_uses_no_words_that_promise() -> None:
    for verb in ([], ["run"], ["evaluate"], ["locate"], ["apply"], ["ls"]):
        assert not FORBIDDEN.search(excise(*verb, "--help").stdout)


def test_a_collapse_of_the_correct_answers_is_said() -> None:
    from excise.report.notes import damage

    def after(original: float | None, patched: float | None) -> str | None:
        return damage("age", {"gold_probability_disambiguated": _gold(original, patched)})

    said = after(0.214, 0.0004)
    assert said is not None
    assert "from 21.4 to 0.0 %" in said
    assert "damaged" in said
    assert after(0.2, 0.021) is None  # just above a tenth
    assert after(0.2, 0.019) is not None
    assert after(None, 0.1) is None
    assert damage("age", {}) is None


def _gold(original: float | None, patched: float | None) -> dict[str, float | None]:
    return {"original": original, "patched": patched}
