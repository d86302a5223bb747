"""`excise gate`: decisions on intervals worked out by hand, exit codes, JUnit and Markdown."""

from __future__ import annotations

import json
import xml.etree.ElementTree as tree
from pathlib import Path
from typing import Any

import pytest

from audits import change_json, copied, small_run
from cli_models import WORKPLACE, excise
from excise.auditing import Decision, Gate, Limit, gate
from excise.auditing.gate import change_of, decide
from excise.auditing.reports import junit, markdown
from excise.errors import ConfigError, RunFolderError, UnknownNameError
from excise.metrics import METRICS
from test_cli import assert_one_line


def entry(low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    middle = None if low is None or high is None else (low + high) / 2
    return {"original": 0.5, "difference": middle, "low": low, "high": high} | more


@pytest.mark.parametrize(
    ("low", "high", "limit", "verdict"),
    [
        (-0.01, 0.03, 0.02, "pass"),  # loses 0.01 at worst
        (-0.02, 0.03, 0.02, "pass"),  # just so
        (-0.021, 0.03, 0.02, "no evidence"),  # may lose more, may gain
        (-0.5, -0.019, 0.02, "no evidence"),
        (-0.5, -0.021, 0.02, "fail"),  # loses more at best
        (0.0, 0.0, 0.0, "pass"),
        (None, None, 0.02, "no evidence"),
    ],
)
def test_a_loss_is_decided_at_its_bad_end(
    low: float | None, high: float | None, limit: float, verdict: str
) -> None:
    made = decide(Limit.parse("max-loss", "accuracy", limit), "t", entry(low, high))
    assert made.verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "amount", "verdict"),
    [
        (0.05, 0.2, 0.05, "pass"),
        (0.049, 0.2, 0.05, "no evidence"),
        (-0.1, 0.05, 0.05, "no evidence"),
        (-0.1, 0.049, 0.05, "fail"),
        (None, None, 0.0, "no evidence"),
    ],
)
def test_a_gain_is_decided_at_its_low_end(
    low: float | None, high: float | None, amount: float, verdict: str
) -> None:
    made = decide(Limit.parse("min-gain", "accuracy", amount), "t", entry(low, high))
    assert made.verdict == verdict


def test_gains_point_towards_the_ideal() -> None:
    assert change_of(METRICS["accuracy"], entry(-0.1, 0.3)) == (pytest.approx(0.1), -0.1, 0.3)
    # Fewer unknowns where the context decides are better.
    change, low, high = change_of(METRICS["unknown_disambiguated"], entry(-0.1, 0.3))
    assert (change, low, high) == (pytest.approx(-0.1), -0.3, 0.1)
    # s_amb has the ideal 0: from 0.5 by -0.7..-0.1 it is between -0.2 and 0.4.
    change, low, high = change_of(METRICS["s_amb"], entry(-0.7, -0.1))
    assert (change, low, high) == (pytest.approx(0.4), pytest.approx(0.1), pytest.approx(0.5))
    # From -0.2 by -0.1..0.1: between -0.3 and -0.1.
    change, low, high = change_of(METRICS["s_amb"], entry(-0.1, 0.1, original=-0.2))
    assert (change, low, high) == (pytest.approx(0), pytest.approx(-0.1), pytest.approx(0.1))
    assert change_of(METRICS["s_amb"], entry(None, None)) == (None, None, None)
    undefined = entry(None, None, difference=-0.1)
    assert change_of(METRICS["s_amb"], undefined) == (pytest.approx(0.1), None, None)


def test_limits_of_names_that_are_not_known() -> None:
    assert Limit.parse("max-loss", "bbq-age:accuracy", 0.1).task == "bbq-age"
    assert Limit.parse("max-loss", "a:b.csv:accuracy", 0.1).task == "a:b.csv"
    assert Limit.parse("max-loss", "accuracy", 0.1).task is None
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        Limit.parse("max-loss", "acuracy", 0.1)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="at least 0"):
            Limit.parse("min-gain", "accuracy", wrong)


# The command, on a run whose differences are put there by hand.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_run(tmp_path_factory.mktemp("gate"), "--trials", 1)

    def known(document: Any) -> None:
        ends = {"accuracy": (0.1, 0.3), "accuracy_disambiguated": (-0.04, 0.01)}
        for row in document["paired"]["workplace"]:
            if row["metric"] in ends:
                row["low"], row["high"] = ends[row["metric"]]
                row["difference"] = sum(ends[row["metric"]]) / 2

    change_json(folder, "results.json", known, seal=True)
    return folder


def test_it_passes(run: Path) -> None:
    result = excise(
        *("gate", run, "--min-gain", "accuracy=0.1"),
        *("--max-loss", "accuracy=0, workplace:accuracy_disambiguated=0.04"),
    )
    assert result.exit_code == 0, result.output
    assert "= workplace: loss of accuracy_disambiguated <= 0.04: pass: even the bad end" in (
        result.stdout
    )
    assert result.stdout.endswith(f"{run}: passes.\n")
    assert excise("gate", run, "--min-gain", "accuracy=0.1", "-q").stdout == ""


@pytest.mark.parametrize(("policy", "code"), [("fail", 1), ("pass", 0)])
def test_no_evidence_is_what_it_is_declared_to_be(policy: str, code: int, run: Path) -> None:
    options = ["--max-loss", "accuracy_disambiguated=0.02", "--on-no-evidence", policy]
    result = excise("gate", run, *options, "--json")
    assert result.exit_code == code
    document = json.loads(result.stdout)
    assert document["passed"] is (code == 0)
    (decision,) = document["decisions"]
    assert decision["verdict"] == "no evidence"
    assert decision["stops"] is (code == 1)


def test_it_fails_whatever_no_evidence_is(run: Path) -> None:
    result = excise("gate", run, "--min-gain", "accuracy=0.31", "--on-no-evidence", "pass")
    assert result.exit_code == 1
    assert "x workplace: gain of accuracy >= 0.31: fail: even the good end gains 0.3 only" in (
        result.stdout
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "no limit is given"),
        (["--max-loss", "accuracy"], "--max-loss needs NAME=LIMIT"),
        (["--min-gain", "accuracy=much"], "--min-gain needs NAME=LIMIT"),
        (["--max-loss", "nothing=0.1"], "unknown metric 'nothing'"),
        (["--max-loss", "bbq-age:accuracy=0.1"], "unknown task of"),
        (["--max-loss", "perplexity=0.1"], "unknown metric of workplace 'perplexity'"),
        (["--max-loss", "accuracy=0.1", "--on-no-evidence", "maybe"], "must be fail or pass"),
        (["--max-loss", "accuracy=0.1", "--junit", "none/x.xml"], "cannot write none/x.xml"),
    ],
)
def test_bad_requests(options: list[str], named: str, run: Path) -> None:
    assert_one_line(excise("gate", run, *options), named)


def test_folders_that_cannot_be_decided(run: Path, tmp_path: Path) -> None:
    limits = [Limit.parse("max-loss", "accuracy", 0.5)]
    with pytest.raises(RunFolderError, match="is no run folder"):
        gate(tmp_path, limits)
    folder = copied(run, tmp_path / "run")
    (folder / "README.md").write_text("better")
    with pytest.raises(RunFolderError, match=r"README\.md: changed .* no decision"):
        gate(folder, limits)
    alone = tmp_path / "alone"
    options = ["-t", WORKPLACE, "--limit", 8, "--test-instructions", 1, "--set", "resamples=100"]
    result = excise("evaluate", run.parent / "model", *options, "-o", alone, "-q")
    assert result.exit_code == 0, result.output
    with pytest.raises(ConfigError, match="holds no patched model"):
        gate(alone, limits)
    both = tmp_path / "both"
    excise("evaluate", run.parent / "model", *options, "-p", run, "-o", both, "-q")
    assert [decision.task for decision in gate(both, limits).decisions] == ["workplace"]


# Reports.

DECISIONS = (
    Decision("max-loss", "a", "accuracy", 0.1, "pass", 0.0, -0.05, 0.05, "fine"),
    Decision("max-loss", 'b|<"&', "accuracy", 0.1, "fail", -0.3, -0.4, -0.2, "lost < all"),
    Decision("min-gain", "c", "accuracy", 0.1, "no evidence", None, None, None, "no interval"),
)


@pytest.mark.parametrize(("policy", "failures", "quiet"), [("fail", 2, 0), ("pass", 1, 1)])
def test_junit_counts_what_stops_the_gate(policy: Any, failures: int, quiet: int) -> None:
    made = Gate(Path("runs/x"), DECISIONS, policy)
    assert not made.passed
    root = tree.fromstring(junit(made))
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors")} == {
        "tests": 3,
        "failures": failures,
        "errors": 0,
    }
    assert suite.attrib["skipped"] == str(quiet)
    assert root.attrib["failures"] == str(failures)
    cases = suite.findall("testcase")
    assert len(cases) == 3
    assert all({"classname", "name", "time"} == case.attrib.keys() for case in cases)
    assert len(suite.findall("testcase/failure")) == failures
    assert len(suite.findall("testcase/skipped")) == quiet
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "fail"
    assert "lost < all; change -0.3000 (-0.4000 to -0.2000)" in failure.attrib["message"]
    assert cases[1].attrib["name"] == 'b|<"&: loss of accuracy <= 0.1'


def test_the_summary_is_one_table() -> None:
    text = markdown(Gate(Path("runs/x"), DECISIONS, "fail"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert "## excise gate: x did not pass" in text
    assert r"| ✘ | b\|&lt;" in rows[3]
    assert "| ? | c: gain of accuracy >= 0.1 | undefined | none |" in rows[4]


def test_reports_are_written_also_where_it_does_not_pass(run: Path, tmp_path: Path) -> None:
    files = ["--junit", tmp_path / "gate.xml", "--summary", tmp_path / "summary.md"]
    (tmp_path / "summary.md").write_text("# Before\n")
    result = excise("gate", run, "--min-gain", "accuracy=0.9", *files)
    assert result.exit_code == 1
    root = tree.parse(tmp_path / "gate.xml").getroot()
    assert root.attrib["failures"] == "1"
    assert (tmp_path / "summary.md").read_text().startswith("# Before\n## excise gate")
