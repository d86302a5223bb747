"""report.html: what it says, that it holds its data safely, and how it behaves in a browser."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import browser
from cli_models import WORKPLACE, excise, save
from excise.errors import ConfigError, OutputError, RunFolderError
from excise.evidence import open_run
from excise.evidence.items import stored_predictions, write_items
from excise.evidence.manifest import check_manifest
from excise.report.answers import answers
from excise.report.changes import changes
from excise.report.curve import tune_curve
from excise.report.notes import notes
from excise.report.page import embedded
from excise.report.places import place
from excise.report.provenance import methods
from excise.report.report import verdict
from excise.report.story import above, kind_of, tell
from excise.report.svg import ticks
from excise.report.writing import write_comparison, write_report

EVIL = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> <!-- \"'"
RTL = "שלום عالم 🙂 \u2028 & more"
LIMIT_BYTES = 8_000_000
needs_browser = pytest.mark.skipif(
    browser.found() is None, reason="no Chromium: apt-get install chromium"
)


def row(metric: str, original: float, patched: float, low: float, high: float, **more: Any) -> Any:
    return {
        "metric": metric,
        "original": original,
        "patched": patched,
        "difference": patched - original,
        "low": low,
        "high": high,
        "level": 0.95,
        "n_clusters": 14,
        "controls": [original, original + 0.01],
        **more,
    }


# --- the story ------------------------------------------------------------------------------------


def test_a_verdict_follows_the_direction_of_its_metric() -> None:
    assert kind_of(row("accuracy", 0.5, 0.6, 0.02, 0.2)) == "improved"
    assert kind_of(row("accuracy", 0.6, 0.5, -0.2, -0.02)) == "worse"
    assert kind_of(row("unknown_disambiguated", 0.1, 0.3, 0.1, 0.3)) == "worse"
    assert kind_of(row("s_amb", -0.3, -0.1, 0.1, 0.3)) == "improved"
    assert kind_of(row("s_amb", 0.1, 0.4, 0.1, 0.5)) == "worse"
    assert kind_of(row("accuracy", 0.5, 0.6, 0.0, 0.2)) == "unclear"


def test_the_runs_own_verdict_comes_first() -> None:
    stated = row("accuracy", 0.5, 0.6, 0.02, 0.2, verdict="no evidence")
    assert kind_of(stated) == "unclear"
    spared = row("accuracy", 0.5, 0.5, -0.01, 0.01, verdict="not worse by more than 2 points")
    assert kind_of(spared) == "spared"
    (finding,) = tell("t", [spared]).of("spared")
    assert finding.beside == "Not worse by more than 2 points."


def test_a_gain_names_the_controls_that_do_as_well() -> None:
    gain = row("accuracy", 0.5, 0.6, 0.02, 0.2, controls=[0.55, 0.6, None, 0.7])
    assert above(gain) == (1, 3)
    told = tell("t", [gain])
    assert "but random neurons can do as well" in told.headline
    assert told.findings[0].beside.startswith("Better than only 1 of 3")
    assert above(row("s_amb", 0.4, -0.1, 0, 0, controls=[-0.2, 0.05])) == (1, 2)


def test_the_headline_pairs_the_leading_gain_with_the_leading_cost() -> None:
    told = tell(
        "t",
        [
            row("accuracy", 0.3, 0.4, 0.02, 0.2),
            row("accuracy_ambiguous", 0.1, 0.5, 0.2, 0.6),
            row("unknown_disambiguated", 0.0, 0.3, 0.2, 0.4),
            row("accuracy_disambiguated", 0.5, 0.4, -0.2, -0.05),
        ],
    )
    assert told.headline == (
        "Gained: right answers in ambiguous contexts, 10.0 to 50.0 %. "
        "Paid for: right answers in disambiguated contexts, 50.0 to 40.0 %."
    )
    assert "2 improved, 2 got worse, and 0 show no evidence" in told.summary
    assert "No gain is matched by any of 2 random controls" in told.summary
    nothing = tell("t", [row("accuracy", 0.3, 0.3, -0.1, 0.1)], n_excised=0)
    assert nothing.headline.startswith("Nothing was excised")


def test_a_metric_that_repeats_another_is_told_once() -> None:
    rows = [row(name, 0.1, 0.5, 0.2, 0.6) for name in ("accuracy_ambiguous", "unknown_ambiguous")]
    assert [f.row["metric"] for f in tell("t", rows).of("improved")] == ["accuracy_ambiguous"]
    rows[1]["patched"] = 0.6
    assert len(tell("t", rows).of("improved")) == 2


def test_changes_are_told_by_context() -> None:
    part = {"answers": 10, "fixed": 3, "net": {}}
    abstaining = {"original": 0.1, "patched": 0.4, "difference": 0.3, "low": 0.1, "high": 0.5}
    block = {"all": part, "disambiguated": {**part, "net": {"unknown": abstaining}}}
    found = changes(block)
    assert found is not None
    assert found.parts == ("all contexts", "disambiguated")
    assert ("Fixed: wrong, then right", ("3", "3")) in found.counts
    assert found.net == (("“Unknown”", ("–", "+30.0 (+10.0 to +50.0)")),)
    assert found.abstention.startswith("Over-abstention")
    assert changes(None) is None
    assert changes({"all": 3}) is None


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(-37, 52) == [-20, 0, 20, 40]
    assert ticks(0, 0.1) == [0, 0.02, 0.04, 0.06, 0.08, 0.1]


def test_a_curve_needs_two_points() -> None:
    point = {"n": 0, "objective": 0.5, "metrics": {"accuracy": 0.5}}
    assert tune_curve([{"n": 0, "curve": [point]}], 0) is None
    drawn = tune_curve([{"n": 3, "curve": [{**point, "n": 3, "metrics": {}}, point]}], 0)
    assert drawn is not None
    assert drawn.rows == (("0", "50.0"), ("3", "undefined"))


def test_modules_find_their_place() -> None:
    found = place("decoder.block.1.layer.2.DenseReluDense.wi_0")
    assert (found.stack, found.layer, found.sublayer) == ("decoder", 1, "feed-forward")
    assert found.name == "DenseReluDense.wi_0"
    own = place("net.blocks.7.mix.out", [r"net\.blocks\.(?P<layer>\d+)\.mix\.out"])
    assert (own.layer, own.sublayer, own.name) == (7, "", "mix.out")
    assert place("strange.stack.3.thing").layer == 3
    assert place("head").layer == -1


def test_json_cannot_leave_its_element() -> None:
    value = {"text": EVIL + RTL + "\ud800"}
    text = str(embedded(value))
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text) == value
    text.encode()


# --- pages ----------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Tags, texts and attributes as a browser without scripts reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def written(folder: Path, task: Path, *more: object) -> Path:
    model = save(folder / "model")
    result = excise(
        *("run", model, "-t", task, "--limit", 16, "--controls", 2, "--set", "resamples=100"),
        *("--find-instances", 2, "--find-instructions", 1, "--test-instructions", 2),
        *("--out", folder / "run", *more),
    )
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a task whose texts try to break out."""
    folder = tmp_path_factory.mktemp("report")
    lines = []
    for line in WORKPLACE.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        item["question"] = f"{item['question']} {EVIL} {RTL}"
        lines.append(json.dumps(item))
    task = folder / "evil.jsonl"
    task.write_text("\n".join(lines) + "\n")
    return written(folder, task, "--set", "selection.grid=[0,4,9]")


def test_every_run_folder_has_its_report(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert len(outline.all("h1")) == 1
    assert check_manifest(run) == []
    policy = str(outline.all("meta")[1]["content"])
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag, attributes in outline.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert "style" not in attributes, tag
        for name in ("src", "href"):
            assert str(attributes.get(name) or "#")[0] in "#d", (tag, attributes)
    scripts = outline.all("script")
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert "onerror=alert" not in text.split('id="data"')[0]


def test_plots_have_names_and_their_numbers_as_tables(run: Path) -> None:
    outline = Outline((run / "report.html").read_text(encoding="utf-8"))
    pictures = outline.all("svg")
    assert len(pictures) == 3
    ids = {attributes.get("id") for _, attributes in outline.tags}
    for picture in pictures:
        assert picture["role"] == "img"
        assert set(str(picture["aria-labelledby"]).split()) <= ids
    assert len(outline.all("figure")) == 3
    assert outline.texts.count("The same numbers as a table") == 3
    for cell in outline.all("th"):
        assert cell.get("scope") in ("row", "col")


def test_no_data_is_written_as_html(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    script = page.split("<script>")[-1]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script


def test_the_report_is_made_again_alike(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = (copy / "report.html").read_text(encoding="utf-8")
    (copy / "report.html").unlink()
    result = excise("report", copy, "--quiet")
    assert (result.exit_code, result.stdout) == (0, f"{copy / 'report.html'}\n")
    ids = re.compile(r"(title|desc)-([a-z-]+)-\d+")
    after = (copy / "report.html").read_text(encoding="utf-8")
    assert ids.sub("", after) == ids.sub("", before)
    assert check_manifest(copy) == []
    elsewhere = tmp_path / "pages" / "mine.html"
    told = json.loads(excise("report", copy, "--out", elsewhere, "--json").stdout)
    assert told["report"] == str(elsewhere)
    assert told["runs"][str(copy)] == verdict(open_run(copy))
    assert elsewhere.is_file()


def test_an_older_folder_and_missing_parts_are_read(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "files.json").unlink()
    results = json.loads((copy / "results.json").read_text())
    results.pop("changes", None)
    kept = ("metric", "original", "patched", "difference", "low", "high", "level", "n_clusters")
    for rows in results["paired"].values():
        for number, entry in enumerate(rows):
            rows[number] = {name: entry[name] for name in (*kept, "controls")}
    (copy / "results.json").write_text(json.dumps(results))
    (copy / "scores.safetensors").unlink()
    (copy / "evidence.json").write_text("no JSON")
    write_report(copy)
    assert "Answers that changed" not in (copy / "report.html").read_text(encoding="utf-8")


def test_what_drives_a_neuron_is_told(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    task, neuron = open_run(copy).tasks[0], {"module": f"m.1.{EVIL}", "index": 3}
    instance = open_run(copy).predictions(task, "original").instances[0].id
    peak = {"instance": instance, "before": "a ", "token": EVIL, "after": " b", "value": 0.5}
    evidence = {
        "neurons": [
            {**neuron, "task": task, "score": 0.5, "stability": 0.9, "tokens": [RTL]},
            {"index": "not a neuron"},
            None,
        ],
        "tokens": {task: {"neurons": [{**neuron, "peaks": [peak, None]}]}, "other": None},
        "items": {task: {instance: [[EVIL, 0.5], ["\n ", -0.25], [None], "y"]}, "other": None},
    }
    (copy / "evidence.json").write_text(json.dumps(evidence))
    write_report(copy)
    text = (copy / "report.html").read_text(encoding="utf-8")
    assert "One by one" in text
    assert "90%" in text
    assert Outline(text).all("img") == []
    (part,) = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])
    assert part["items"][0][-1] == [[EVIL, 0.5], ["⏎␣", -0.25]]


def test_runs_are_put_side_by_side(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    record = json.loads((other / "run.json").read_text())
    record["config"]["seed"] = 7
    (other / "run.json").write_text(json.dumps(record))
    out = tmp_path / "both.html"
    result = excise("report", run, other, "--out", out)
    assert result.exit_code == 0, result.output
    outline = Outline(out.read_text(encoding="utf-8"))
    texts = [text.strip() for text in outline.texts]
    assert texts.count(f"{run.parent.name}/run") >= 3
    assert "seed" in texts
    assert "7" in texts


def test_runs_that_cannot_be_compared_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        write_comparison([run, run], tmp_path / "x.html")
    other = tmp_path / "run"
    shutil.copytree(run, other)
    for name in ("run.json", "results.json"):
        text = (other / name).read_text().replace('"evil"', '"good"')
        (other / name).write_text(text)
    with pytest.raises(ConfigError, match="share no task"):
        write_comparison([run, other], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_mistakes_give_one_line(run: Path, tmp_path: Path) -> None:
    for arguments, named in (
        ((run, tmp_path), "need --out"),
        ((tmp_path,), "no run folder"),
        ((run, "--out", tmp_path), "is a folder"),
        ((tmp_path / "nothing",), "is no folder"),
    ):
        result = excise("report", *arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert named in result.stderr
    with pytest.raises(RunFolderError):
        write_report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_report(run, tmp_path / "file" / "report.html")


def test_notes_of_several_tasks_are_joined() -> None:
    task = {"trials": [{"n": 3, "curve": []}] * 2}
    config = {"split_by": "example", "controls": 0, "selection": {"n": 3}}
    gold = row("gold_probability_disambiguated", 0.2, 0.001, -0.3, -0.1)
    results = {
        "paired": {"a": [gold], "b": [{**gold, "n_clusters": 4}]},
        "n-samples": {name: {"original": 40, "effective": 10} for name in "ab"},
        "results": {},
    }
    run_record = {"config": config, "tasks": {"a": task, "b": task}}
    found = notes(run_record, results, n_excised=6)
    assert "leaks" in found[0]
    assert "(a 20.0 to 0.1 %, b 20.0 to 0.1 %)" in found[1]
    assert found[2].startswith("b: the intervals rest on 4 question templates")
    assert "a 10 of 40, b 10 of 40" in found[3]
    assert "those of trials 1 (a), 1 (b)" in found[4]
    assert "chance is not ruled out" in found[5]
    assert "(6 neurons)" in found[6]


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def count(page: browser.Page) -> int:
    return int(page.run("document.querySelector('#count').textContent").split()[0].replace(",", ""))


def press(page: browser.Page, name: str, value: str) -> None:
    page.run(f"document.querySelector('input[name={name}][value={value}]').click()")


@needs_browser
def test_texts_stay_texts(run: Path, page: browser.Page) -> None:
    page.open(run / "report.html")
    assert page.complaints() == []
    assert "excise report" in page.run("document.title")
    assert page.run("document.images.length") == 0
    assert page.run("document.scripts.length") == 2
    shown = page.run("document.querySelector('.item .question').textContent")
    assert EVIL in shown
    assert RTL in shown
    assert page.run("document.querySelectorAll('figure svg').length") == 3
    assert page.run("document.querySelector('figure svg .dot').getBoundingClientRect().width") > 1


def test_methods_with_limits_use_find_and_tune(run: Path) -> None:
    stored = open_run(run)
    assert "used the find split only" in methods(stored)[0]
    for name, how in (("guarded", "measured one by one"), ("gated", "learned by gradient")):
        config = {**stored.run["config"], "method": name}
        told = methods(replace(stored, run={**stored.run, "config": config}))[0]
        assert how in told
        assert "within the declared limits on damage" in told
        assert "find split only" not in told
        assert "were taught, too" not in told
        config["gate"] = {**config["gate"], "keep": ["bbq", "/home/someone/mine.jsonl"]}
        told = methods(replace(stored, run={**stored.run, "config": config}))[0]
        assert ("Questions of bbq, mine.jsonl whose context" in told) == (name == "gated")
        assert "someone" not in told


@needs_browser
def test_filters_agree_with_the_answers(run: Path, page: browser.Page) -> None:
    stored = open_run(run)
    before = stored.predictions("evil", "original")
    after = stored.predictions("evil", "patched")
    page.open(run / "report.html")
    assert count(page) == 16
    for wording in range(2):
        page.run(
            f"(s => {{ s.value = '{wording}'; s.dispatchEvent(new Event('change')) }})"
            "(document.querySelector('#wording'))"
        )
        old, new, gold = before.choice[wording], after.choice[wording], before.gold
        for name, expected in {
            "all": 16,
            "changed": (old != new).sum(),
            "fixed": ((old != gold) & (new == gold)).sum(),
            "broken": ((old == gold) & (new != gold)).sum(),
            "abstained": ((new == before.unknown) & (new >= 0) & (old != before.unknown)).sum(),
        }.items():
            press(page, "change", name)
            assert count(page) == expected, name
        press(page, "change", "all")
        for name, marked in (
            ("ambiguous", before.ambiguous),
            ("disambiguated", before.disambiguated),
        ):
            press(page, "context", name)
            assert count(page) == marked.sum(), name
        press(page, "context", "all")
    page.run(
        "(s => { s.value = 'no such words'; s.dispatchEvent(new Event('input')) })"
        "(document.querySelector('#search'))"
    )
    assert count(page) == 0
    assert page.complaints() == []


def test_the_longest_bar_is_that_of_the_answer(run: Path) -> None:
    part = answers(open_run(run), "evil", {})
    looked = 0
    for item in part["items"]:
        for old, new, before, after, *_ in item[-2]:
            for chosen, shares in ((old, before), (new, after)):
                assert shares[chosen] == max(shares)
                assert sum(shares) == pytest.approx(1000, abs=2)
                looked += 1
    assert looked == 16 * 2 * 2


@needs_browser
def test_print_keeps_intervals_and_drops_controls(run: Path, page: browser.Page) -> None:
    page.open(run / "report.html")
    shown = "getComputedStyle(document.querySelector('{}')).display"
    assert page.run(shown.format("#controls")) != "none"
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.run(shown.format("svg .bar")) != "none"
    assert page.run(shown.format("#controls")) == page.run(shown.format("header.bar")) == "none"
    assert (
        page.run("getComputedStyle(document.querySelector('.item')).contentVisibility") == "visible"
    )
    page.call("Emulation.setEmulatedMedia", media="")


@needs_browser
def test_it_fits_a_telephone_and_turns_dark(run: Path, page: browser.Page) -> None:
    page.open(run / "report.html", width=390)
    assert page.run("document.documentElement.scrollWidth") <= 390
    light = page.run("getComputedStyle(document.body).backgroundColor")
    page.run("document.querySelector('#theme').click()")
    dark = page.run("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    page.run("localStorage.clear()")
    page.open(run / "report.html", dark=True)
    assert page.run("getComputedStyle(document.body).backgroundColor") == dark
    assert page.run("document.querySelector('#theme').textContent") == "Light"


def many(run: Path, folder: Path, n: int) -> Path:
    """A run folder with as many items, copies of those of a small run."""
    shutil.copytree(run, folder)
    (folder / "files.json").unlink()
    states = []
    for state, trial in (("original", None), ("patched", 0)):
        rows = open_run(run).rows("evil", state, trial)
        small = stored_predictions(rows, folder)
        size = len(small.instances)
        chosen = [number % size for number in range(n)]
        instances = tuple(
            replace(
                small.instances[k],
                id=f"item {number}",
                fields={"context": f"Context {number}. " * 12, "question": f"Who? {EVIL}"},
            )
            for number, k in enumerate(chosen)
        )
        assert small.log_likelihood is not None
        assert small.n_tokens is not None
        likelihoods = small.log_likelihood[:, chosen]
        larger = replace(
            small,
            instances=instances,
            choice=small.choice[:, chosen],
            log_likelihood=likelihoods,
            n_tokens=small.n_tokens[:, chosen],
            compared=likelihoods,
        )
        states.append(({"task": "evil", "state": state, "trial": trial}, larger))
    write_items(iter(states), folder / "items.parquet")
    return folder


@pytest.fixture(scope="module")
def large(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = many(run, tmp_path_factory.mktemp("large") / "run", 5000)
    write_report(folder)
    return folder


def test_5000_items_stay_small(large: Path) -> None:
    assert pyarrow.parquet.read_table(large / "items.parquet").num_rows == 20_000
    assert (large / "report.html").stat().st_size < LIMIT_BYTES


@needs_browser
def test_5000_items_open_fast(large: Path, page: browser.Page) -> None:
    page.call("Performance.enable", timeDomain="threadTicks")
    page.open(large / "report.html")
    metrics = page.call("Performance.getMetrics")["metrics"]
    spent = {entry["name"]: entry["value"] for entry in metrics}
    # Time of the processor: other processes of the machine do not count.
    assert spent["TaskDuration"] < 2
    assert count(page) == 5000
    assert page.run("document.querySelectorAll('.item').length") == 24
    assert page.run("document.querySelector('#page').textContent") == "page 1 of 209"
    page.run("document.querySelector('#next').click()")
    assert "item 24" in page.run("document.querySelector('.item .id').textContent")
    start = time.monotonic()
    page.run(
        "(s => { s.value = 'context 4321.'; s.dispatchEvent(new Event('input')) })"
        "(document.querySelector('#search'))"
    )
    assert count(page) == 1
    assert time.monotonic() - start < 5
    assert page.complaints() == []


@needs_browser
def test_several_runs_in_a_browser(run: Path, tmp_path: Path, page: browser.Page) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    write_comparison([run, other], tmp_path / "both.html")
    page.open(tmp_path / "both.html", width=390)
    assert page.complaints() == []
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.run("document.querySelectorAll('figure svg').length") == 1
