"""What the documentation shows is true: code runs, flags, links, files and options exist."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import typer.main

import excise
import tiny
from cli_models import WORKPLACE, save
from excise import config as configuration
from excise.cli.app import app
from excise.metrics import METRICS
from excise.models import loading
from excise.sources import SOURCES
from excise.tasks import TASKS, user

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SCRIPTS = sorted(ROOT.glob("examples/*.py"))
RUN_FILES = sorted([*ROOT.glob("examples/*.toml"), *ROOT.glob("docs/results/*.toml")])
TREE_ROOT = ROOT / "src" / "excise"


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)[ ]?(.*)\n((?s:.*?))^```$", text, re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(*match.groups(), line=line))
    return found


# --- code -----------------------------------------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models on several threads wait for each other far longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> dict[str, Any]:
    """A folder where the default model is tiny, BBQ is the hand-written task, and runs are short.

    Returns:
        What a page's code may take for granted: a loaded model and its tokenizer.
    """
    folder = save(tmp_path / loading.DEFAULT_MODEL)
    monkeypatch.chdir(tmp_path)  # a Hub id that is a folder here is read from here
    monkeypatch.setattr(loading, "_default_file", lambda: folder)
    monkeypatch.setattr(
        "excise.tasks.TASKS",
        MappingProxyType({name: replace(entry, load=_own(name)) for name, entry in TASKS.items()}),
    )
    resolve = configuration.resolve

    def short(*arguments: Any, **options: Any) -> configuration.RunConfig:
        resolved = resolve(*arguments, **options)
        attribution = resolved.attribution.model_copy(update={"instances": 4, "instructions": 1})
        selection = resolved.selection.model_copy(
            update={"grid": (0, 4), "tune_instances": 4, "tune_instructions": 1}
        )
        smaller = {"attribution": attribution, "selection": selection, "test_instructions": 1}
        return resolved.model_copy(update={**smaller, "controls": 1, "resamples": 100})

    monkeypatch.setattr(configuration, "resolve", short)
    return {"model": tiny.model("llama"), "tokenizer": tiny.tokenizer("bos")}


def _own(name: str) -> Any:
    return lambda _folder, instructions: replace(user.load(WORKPLACE, instructions), name=name)


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(block.language == "python" for block in blocks(p))],
    ids=relative,
)
def test_python_in_pages_runs_and_prints_what_the_page_says(
    page: Path, small_world: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks with a file name become files; a text block is the output of the code above it."""
    printed = None
    for block in blocks(page):
        where = f"{relative(page)}:{block.line}"
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), small_world)
            printed = capsys.readouterr().out
        elif block.language == "text":
            assert printed is not None, f"{where}: no code above"
            assert block.text.strip() == printed.strip(), where


@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
@pytest.mark.parametrize("name", ["llama", "t5-gated"])
def test_examples_run(
    script: Path,
    name: str,
    tmp_path: Path,
    one_thread: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # transformers sizes its cache by the encoder's layers, so T5 must have as many in both stacks.
    same = {"num_decoder_layers": tiny.LAYERS} if name in tiny.SEQ2SEQ else {}
    monkeypatch.setattr("sys.argv", [str(script), str(save(tmp_path / "model", name, **same))])
    runpy.run_path(str(script), run_name="__main__")
    assert "accuracy" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "an example leaves files behind"


@pytest.mark.parametrize("file", RUN_FILES, ids=relative)
def test_configurations_of_the_repository_resolve(file: Path) -> None:
    resolved = excise.resolve({}, file=file).model_dump(mode="json")
    written = tomllib.loads(file.read_text(encoding="utf-8"))
    assert written
    for key, value in written.items():
        held = resolved[key]
        assert held == value or {name: held[name] for name in value} == value


# --- commands -------------------------------------------------------------------------------------

FOREIGN = {"--no-deps"}
"""Flags of other tools that pages name by themselves."""
OTHER_TOOLS = re.compile(r"(python\S*|pip|git|make|lm_eval|pytest|ruff|torchrun|accelerate)\s")


def verbs() -> dict[str, set[str]]:
    """Verb -> its flags, as `excise VERB --help` lists them."""
    found = {}
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        for path, leaf in (
            [(f"{name} {sub}", leaf) for sub, leaf in inner.items()] if inner else [(name, command)]
        ):
            flags = {flag for parameter in leaf.params for flag in parameter.opts}
            found[path] = flags | {"--help", "-h"}
    return found


def snippets(text: str) -> list[str]:
    """Lines of fenced and indented blocks, and code spans of prose (which may wrap)."""
    fenced = re.findall(r"^```.*\n((?s:.*?))^```$", text, re.MULTILINE)
    prose = re.sub(r"^```.*\n(?s:.*?)^```$", "", text, flags=re.MULTILINE)
    indented = re.findall(r"^ {4,}(\S.*)$", prose.replace("\\\n", " "), re.MULTILINE)
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`", prose)]
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    return [line.strip().removeprefix("$ ") for line in [*lines, *indented, *spans]]


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=relative)
def test_every_verb_and_flag_that_is_shown_exists(page: Path) -> None:
    known = verbs()
    groups = {verb.split()[0] for verb in known if " " in verb}
    flags = set().union(*known.values()) | FOREIGN | {"--version"}
    wrong = []
    for snippet in snippets(page.read_text(encoding="utf-8")):
        shown = re.sub(r"\s#.*", "", snippet)
        # Settings of the environment before a command.
        shown = re.sub(r"^([A-Z_]+=\S+\s+)+", "", shown)
        options = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown))
        command = re.match(r"excise ([a-z]+)(?: ([a-z]+))?", shown)
        if command:
            verb, second = command.groups()
            path = verb if verb in known else f"{verb} {second}"
            if path not in known:
                if verb not in groups or second:
                    wrong.append(f"{snippet}: no such verb")
            else:
                wrong += [f"{snippet}: {flag}" for flag in options - known[path]]
        elif not OTHER_TOOLS.match(shown):
            long = {flag for flag in options if flag.startswith("--")}
            wrong += [f"{snippet}: {flag}" for flag in long - flags]
    assert not wrong


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in verbs() if f"`excise {verb}`" not in text] == []


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_relative_links_exist(page: Path) -> None:
    text = re.sub(r"^```.*\n(?s:.*?)^```$", "", page.read_text(encoding="utf-8"), flags=re.M)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def tree() -> list[str]:
    """Paths under src/excise in the tree of docs/architecture.md."""
    page = ROOT / "docs" / "architecture.md"
    (block,) = [b for b in blocks(page) if b.text.startswith("src/excise/")]
    found: list[str] = []
    folders: list[str] = []
    for line in block.text.splitlines()[1:]:
        indent, name = re.match(r"( +)(\S+)", line).groups()  # type: ignore[union-attr]
        folders = folders[: len(indent) // 2 - 1]
        found.append("".join(folders) + name)
        if name.endswith("/"):
            folders.append(name)
    return found


def test_the_architecture_lists_every_module() -> None:
    listed = set(tree())
    assert [path for path in sorted(listed) if not (TREE_ROOT / path).exists()] == []
    modules = {str(path.relative_to(TREE_ROOT)) for path in TREE_ROOT.rglob("*.py")}
    unlisted = {m for m in modules - listed if not m.endswith("/__init__.py")}
    assert not unlisted, "give each a line in the tree of docs/architecture.md"


def test_names_of_the_registries_are_documented() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [n for n in (*TASKS, *configuration.PRESETS) if f"`{n}`" not in readme] == []
    concepts = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    for metric in METRICS.values():
        ideal = metric.ideal if isinstance(metric.ideal, str) else f"{metric.ideal:g}"
        wanted = rf"\| `{metric.name}` \|.*\| {metric.low:g} to {metric.high:g} \| {ideal} \|"
        assert re.search(wanted, concepts), metric.name
    offline = (ROOT / "docs" / "offline.md").read_text(encoding="utf-8")
    assert [s.path for s in SOURCES if f"DIR/{s.path}\n" not in offline] == []


SECTIONS = {
    "attribution": configuration.AttributionConfig,
    "selection": configuration.SelectionConfig,
    "scoring": configuration.ScoringConfig,
    "continuation": configuration.ContinuationConfig,
    "text": configuration.TextConfig,
    "patch": configuration.PatchConfig,
    "calibration": configuration.CalibrationConfig,
    "finetuning": configuration.FinetuningConfig,
    "guard": configuration.GuardConfig,
    "gate": configuration.GateConfig,
    "dissection": configuration.DissectionConfig,
    "statistics": configuration.StatisticsConfig,
    "without a section": configuration.RunConfig,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_is_documented_with_its_default_and_choices(section: str) -> None:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    part = re.split(r"^### ", text.split(f"\n### {section}\n")[1], flags=re.MULTILINE)[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*)$", part, re.MULTILINE))
    fields = {n: f for n, f in SECTIONS[section].model_fields.items() if n not in SECTIONS}
    assert documented.keys() == fields.keys()
    written = tomllib.loads(configuration.to_toml(configuration.RunConfig()))
    defaults = written.get(section, written)
    for name, field in fields.items():
        default, choices = documented[name].split(" | ")[:2]
        assert default == (f"`{json.dumps(defaults[name])}`" if name in defaults else "unset"), name
        named = set(re.findall(r"`([^`]+)`", default.replace('"', "") + choices))
        assert _choices(field.annotation) <= named, name


def _choices(annotation: Any) -> set[str]:
    if get_origin(annotation) is Literal:
        return {str(value) for value in get_args(annotation)}
    return set().union(*(_choices(part) for part in get_args(annotation)))


# --- words ----------------------------------------------------------------------------------------

CLAIMS = re.compile(r"\b(debias\w*|unbias\w*|bias-free|fair|fairer)\b", re.IGNORECASE)
CLAIMED_MODELS = re.compile(r"\b(debiased|unbiased|fair)[ -]models?\b", re.IGNORECASE)
MACHINE_PATHS = re.compile(r"(?<![\w.~/-])/(work|root|home|tmp|mnt|Users)/")


def without_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "", re.sub(r"^```(?s:.*?)^```$", "", text, flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_name_the_operation_and_promise_nothing(page: Path) -> None:
    assert CLAIMS.findall(without_code(page.read_text(encoding="utf-8"))) == []


def test_no_promise_in_code_and_no_path_of_a_machine() -> None:
    code = [*TREE_ROOT.rglob("*.py"), *TREE_ROOT.rglob("*.toml"), *TREE_ROOT.rglob("*.jsonl")]
    files = [*PAGES, *SCRIPTS, *code, *ROOT.glob("studies/*.py"), ROOT / "CITATION.cff"]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert CLAIMED_MODELS.findall(text) == [], file
        assert MACHINE_PATHS.findall(text) == [], file
