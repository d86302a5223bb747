"""Methods side by side: the same questions, spreads by hand, resume, tables and plot."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from cli_models import WORKPLACE, excise, save
from excise.comparing import compare, record, write
from excise.comparing.plot import _front
from excise.comparing.retention import Retention, default_retention
from excise.comparing.tables import csv_text, latex, markdown, number
from excise.config import RunConfig
from excise.errors import ConfigError
from excise.evaluation.passages import read_passages
from excise.methods import Excision, Fitting, method_named
from excise.methods.guarded import guarding_items
from excise.metrics import METRICS, value
from excise.patches import Patch
from excise.progress import Silent
from excise.splits import split_instances
from excise.tasks import load_task, texts
from excise.types import Neuron, Passage, PromptTask, TextTask
from test_cli import assert_one_line
from test_measuring import Memory

CONFIG = RunConfig.model_validate(
    {
        "tasks": [str(WORKPLACE)],
        "limit": 16,
        "trials": 2,
        "test_instructions": 2,
        "resamples": 100,
        "attribution": {"instances": 2, "instructions": 1},
        "selection": {"n": 4},
    }
)


PASSAGES = (
    Passage("1", "The engineer was late.", "page", ""),
    Passage("2", "Who is the manager?", "page", ""),
)


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny.loaded("llama")


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A task that no method is fitted on."""
    path = tmp_path_factory.mktemp("tasks") / "sums.jsonl"
    rows = [
        {"question": f"What is {a} plus one?", "options": [str(a), str(a + 1)], "gold": 1}
        for a in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def comparison(llama: Any, sums: str) -> Any:
    return compare(
        CONFIG,
        ["crispr", "random"],
        retention=[sums],
        retention_limit=6,
        model=llama.model,
        tokenizer=llama.tokenizer,
    )


def test_every_method_gets_the_same_questions(comparison: Any) -> None:
    assert comparison.methods == ("original", "crispr", "random")
    first = comparison.states[0].test
    for state in comparison.states:
        assert state.test.instances == first.instances
        assert state.test.instructions == first.instructions
    trials = [(state.method, state.trial) for state in comparison.states]
    # The original is the same in every trial.
    assert trials == [
        *[("original", 0), ("crispr", 0), ("random", 0)],
        *[("crispr", 1), ("random", 1)],
    ]


def test_a_row_by_hand(comparison: Any) -> None:
    document = record(comparison)
    (row,) = [
        row
        for row in document["metrics"]
        if (row["method"], row["metric"]) == ("crispr", "accuracy")
    ]
    right = [
        (state.test.choice == state.test.gold).mean(axis=1)
        for state in comparison.of("crispr", "workplace")
    ]
    means = [of_trial.mean() for of_trial in right]
    assert row["value"] == pytest.approx(np.mean(means))
    assert row["std_over_trials"] == pytest.approx(np.std(means, ddof=1))
    assert row["std_over_instructions"] == pytest.approx(np.mean([r.std() for r in right]))
    (original,) = comparison.of("original", "workplace")
    before = (original.test.choice == original.test.gold).mean()
    assert row["difference"] == pytest.approx(np.mean(means) - before)


def test_what_left_the_weights_alone_is_said(comparison: Any) -> None:
    cost = {row["method"]: row for row in record(comparison)["cost"]}
    assert cost["original"]["weights_unchanged"] is True
    assert cost["crispr"]["weights_unchanged"] is False
    assert (cost["crispr"]["neurons"], cost["random"]["neurons"]) == (4, 4)
    assert cost["crispr"]["fit_work"] == 2 * 8  # two prompts attributed


def test_an_identity_edit_is_found_out(
    llama: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A method that claims to change weights, but multiplies them by one."""

    class Identity:
        name, description = "identity", "nothing"

        def fit(self, fitting: Fitting) -> Excision:
            neuron = Neuron(fitting.loaded.sites[0].module, 0)
            loaded = fitting.loaded
            return Excision("identity", Patch((neuron,), (1.0,), "x", loaded.digest, factor=1.0))

    from excise.methods.original import Original

    table = {"original": Original(), "identity": Identity()}
    monkeypatch.setattr("excise.comparing.comparison.method_named", table.__getitem__)
    found = compare(CONFIG, ["identity"], model=llama.model, tokenizer=llama.tokenizer)
    document = record(found)
    assert document["cost"][1]["weights_unchanged"] is True
    assert "identity (weights unchanged)" in markdown(document)
    assert "original (weights unchanged)" not in markdown(document)


def test_an_interrupted_comparison_goes_on(
    llama: Any, sums: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[str] = []
    from excise.methods.crispr import Crispr

    plain = Crispr.excise

    def counting(self: Crispr, fitting: Fitting) -> Excision:
        fits.append(f"{fitting.seed}")
        return plain(self, fitting)

    monkeypatch.setattr(Crispr, "excise", counting)
    given = {"model": llama.model, "tokenizer": llama.tokenizer}
    options: dict[str, Any] = {"retention": [sums], "retention_limit": 4, **given}

    def numbers(journal: Memory | None) -> Any:
        document = record(compare(CONFIG, ["crispr"], journal=journal, **options))
        for row in document["cost"]:
            del row["fit_seconds"], row["fits"], row["facts"]
        return document

    whole = numbers(None)
    assert fits == ["0", "1"]
    # test, retention and facts of the original; then test and retention of the first trial
    journal = Memory(stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        numbers(journal)
    journal.stop_after = None
    fits.clear()
    assert numbers(journal) == whole
    assert fits == ["0", "1"]  # the facts of the first were not kept yet
    fits.clear()
    assert numbers(journal) == whole
    assert fits == []


def test_the_files(comparison: Any, tmp_path: Path) -> None:
    document = record(comparison)
    write(comparison, document, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *(f"comparison.{ending}" for ending in ("json", "csv", "md", "tex")),
        *("config.toml", "files.json", "items.parquet", "pareto.svg"),
    }
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == document
    svg = (tmp_path / "out" / "pareto.svg").read_text()
    assert svg.lstrip().startswith("<?xml")
    for name in ("original", "crispr", "random", "workplace"):
        assert name in svg
    write(comparison, document, tmp_path / "again")
    assert (tmp_path / "again" / "pareto.svg").read_text() == svg


def test_tables_hold_the_numbers(comparison: Any) -> None:
    document = record(comparison)
    rows = list(csv.DictReader(io.StringIO(csv_text(document))))
    assert {row["part"] for row in rows} == {"metrics", "retention"}
    (accuracy,) = [
        row
        for row in rows
        if (row["method"], row["metric"], row["part"]) == ("crispr", "accuracy", "metrics")
    ]
    (line,) = [line for line in markdown(document).splitlines() if line.startswith("| crispr")][:1]
    assert number("accuracy", float(accuracy["value"])) in line
    text = latex(document)
    assert r"\toprule" in text
    assert "bias_score" not in text.replace(r"\_", "")


def test_numbers_read_as_the_field_reads_them() -> None:
    assert number("accuracy", 0.1234) == "12.3"
    assert number("s_amb", -0.0501, signed=True) == "-5.0"
    assert number("accuracy", 0.0001, signed=True) == "0.0"
    assert number("accuracy", -0.0001, signed=True) == "0.0"
    assert number("accuracy", None) == "-"
    assert number("perplexity", 12.345) == "12.35"


def test_the_front_is_what_no_other_beats() -> None:
    points = [(50.0, 1.0), (30.0, 35.0), (49.0, 30.0), (48.0, 20.0), (30.0, 10.0)]
    assert _front(points) == [(30.0, 35.0), (49.0, 30.0), (50.0, 1.0)]


def test_the_command(tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    result = excise(
        *("compare", model, "-t", WORKPLACE, "--methods", "crispr,random", "--n", 3),
        *("--retention", "none", "--limit", 8, "--find-instances", 2),
        *("--find-instructions", 1, "--test-instructions", 1, "--set", "resamples=100"),
        *("-o", tmp_path / "out"),
        columns=120,
    )
    assert result.exit_code == 0, result.output
    for text in ("workplace: 8 test items, 1 trial", "Cost of fitting", "original", "random"):
        assert text in result.stdout
    assert "Retention" not in result.stdout
    listed = excise("ls", "methods")
    for name in ("original", "crispr", "random"):
        assert name in listed.stdout


def test_plain_text_tells_how_far_each_method_went(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TextTask("text", PASSAGES, "", "", "", texts.METRICS)
    found_by_name = load_task
    monkeypatch.setattr(
        "excise.comparing.retention.load_task",
        lambda name, **given: text if name == "text" else found_by_name(name, **given),
    )
    found = compare(
        CONFIG,
        ["crispr", "cc"],
        retention=["text"],
        model=llama.model,
        tokenizer=llama.tokenizer,
    )
    document = record(found)
    rows = {(row["method"], row["metric"]): row for row in document["retention"]}
    assert rows["original", "kl_divergence"]["value"] == 0
    assert rows["cc", "kl_divergence"]["value"] == 0  # weights unchanged
    assert rows["crispr", "kl_divergence"]["value"] > 0
    assert rows["crispr", "kl_divergence"]["verdict"] is None
    assert rows["crispr", "perplexity"]["verdict"] is not None
    # The same as reading under each trial's patch.
    values = [
        value(METRICS["kl_divergence"], state.retention["text"])
        for state in found.of("crispr", "workplace")
    ]
    assert rows["crispr", "kl_divergence"]["worst"] == pytest.approx(max(values))
    fitted = method_named("crispr").fit(
        Fitting(
            loaded=tiny.loaded("llama"),
            task=found.tasks[0],
            split=split_instances(found.tasks[0].instances, by="template", seed=0, trial=1),
            config=CONFIG,
            seed=CONFIG.seed + 1,
        )
    )
    again = read_passages(llama, text, text.instances, CONFIG.text, patch=fitted.patch)
    assert values[1] == pytest.approx(value(METRICS["kl_divergence"], again))
    assert "KL divergence" in markdown(document)


def test_what_guards_read_is_no_retention(tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n\n".join(f"Row {n} of the market keeps {n} keys." for n in range(9)))
    config = CONFIG.model_copy(
        update={"guard": CONFIG.guard.model_copy(update={"max_loss": {str(text): 0.1}})}
    )
    guarding = {passage.text for passage in guarding_items(config, [])}
    assert len(guarding) == 4
    asked = {passage.text for passage in Retention.of(str(text), [], config, limit=20).instances}
    assert len(asked) == 5
    assert not asked & guarding
    copy = tmp_path / "copy.txt"
    copy.write_text("\n\n".join(sorted(guarding)))
    with pytest.raises(ConfigError, match="nothing but items that methods are fitted on"):
        Retention.of(str(copy), [], config, limit=20)


def test_continuations_are_no_retention_task(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = PromptTask("own", (), "honest", "", "", "", ())
    monkeypatch.setattr("excise.comparing.retention.load_task", lambda name, **_: prompts)
    with pytest.raises(ConfigError, match="--patch"):
        Retention.of("own", [], CONFIG, limit=3)


def test_a_retention_task_without_correct_options_has_its_own_metric(llama: Any) -> None:
    pairs = tuple(
        replace(tiny.instance(n, ""), options=("He was late.", "She was late."), gold=-1)
        for n in range(4)
    )
    task = replace(tiny.task(pairs), kind="sentences", prompt_format="", metrics=("crows_pairs",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("excise.comparing.retention.load_task", lambda name, **_: task)
        kept = Retention.of("pairs", [], CONFIG, limit=3)
        assert kept.metrics == ("crows_pairs",)
        bare = replace(task, kind="choice", metrics=())
        patch.setattr("excise.comparing.retention.load_task", lambda name, **_: bare)
        with pytest.raises(ConfigError, match="no correct options to lose"):
            Retention.of("pairs", [], CONFIG, limit=3)


def test_what_guards_may_ask_is_not_retained(sums: str, tmp_path: Path) -> None:
    # The ids of both files are row-0, row-1, ...: items are known by what they ask.
    other = tmp_path / "products.jsonl"
    rows = [
        {"question": f"What is {a} times two?", "options": [str(a), str(2 * a)], "gold": 1}
        for a in range(1, 13)
    ]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = CONFIG.model_copy(update={"tasks": (sums,)})
    mitigated = [load_task(sums)]
    assert len(Retention.of(str(other), mitigated, config, limit=60).task.instances) == 12
    guard = config.guard.model_copy(update={"max_loss": {str(other): 0.1}})
    guarded = config.model_copy(update={"guard": guard})
    split = split_instances(load_task(str(other)).instances, by="template", seed=0)
    left = Retention.of(str(other), mitigated, guarded, limit=60).task.instances
    assert {i.id for i in left} == {i.id for i in split.test}


def test_the_usual_retention_tasks_are_those_that_are_not_mitigated() -> None:
    assert default_retention(["bbq-age"])[:2] == ["bbq", "mrpc"]
    assert "bbq" not in default_retention(["bbq"])
    assert "mrpc" not in default_retention(["mrpc", "bbq-age"])


def test_kept_answers_are_not_those_of_other_instructions(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "instructions.txt"
    config = CONFIG.model_copy(update={"trials": 1, "instructions": str(told)})
    memory, asked = Memory(), []
    plain = Excision.answers
    monkeypatch.setattr(
        Excision, "answers", lambda *a, **k: asked.append(k["instructions"]) or plain(*a, **k)
    )
    for text in ("Pick one.", "Pick one.", "Choose well."):
        told.write_text(f"{text}\n")
        compare(config, ["random"], model=llama.model, tokenizer=llama.tokenizer, journal=memory)
    assert [list(each) for each in asked] == [["Pick one."]] * 2 + [["Choose well."]] * 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ["--trials", "2", "--set", "selection.trials=average"],
            "selection.trials = average ranks all trials together",
        ),
        (["--methods", "crisper"], "crispr"),
        (["--methods", "original"], "nothing to compare"),
        (["--methods", "crispr,"], "--methods got an empty name"),
        (["--retention", "nonsense"], "unknown task"),
        (["--retention", str(WORKPLACE)], "nothing but items that methods are fitted on"),
    ],
)
def test_bad_requests(arguments: list[str], named: str, tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    if "--retention" not in arguments:
        arguments = [*arguments, "--retention", "none"]
    result = excise("compare", model, "-t", WORKPLACE, "-o", tmp_path / "out", *arguments)
    assert_one_line(result, named)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_what_methods_share_is_computed_once_and_counts_for_each(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    from excise.methods import crispr

    plain = crispr.locate

    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return plain(*arguments, **options)

    monkeypatch.setattr("excise.methods.crispr.locate", counting)
    found = compare(
        CONFIG.model_copy(update={"trials": 1}),
        ["crispr", "random", "lowest", "crispr-mean"],
        model=llama.model,
        tokenizer=llama.tokenizer,
    )
    work = {row["method"]: row["fit_work"] for row in record(found)["cost"]}
    assert len(calls) == 2  # the scores of crispr-mean are others
    assert work["crispr"] == work["random"] == work["lowest"] == 16
    alone = compare(
        CONFIG.model_copy(update={"trials": 1}),
        ["random"],
        model=llama.model,
        tokenizer=llama.tokenizer,
    )
    together, single = found.of("random", "workplace")[0], alone.of("random", "workplace")[0]
    np.testing.assert_array_equal(together.test.log_likelihood, single.test.log_likelihood)


def test_what_a_method_was_trained_on_is_not_reported(llama: Any, sums: str) -> None:
    class Trained:
        def refuses(self, task: Any) -> str:
            return f"trained on {task.name}"

    entry = Retention.of(sums, [], CONFIG, limit=3)
    trained: Any = Trained()
    with pytest.raises(ConfigError, match="trained on sums"):
        entry.answers(llama, trained, CONFIG, Silent())
