"""Kept tasks of gated excision: what is asked beside, out of which splits, and what it does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import test_guarded as planted_pair
import tiny
from excise.attribution.effects import Question
from excise.comparing.retention import Retention
from excise.config import GateConfig, RunConfig, ScoringConfig, resolve
from excise.errors import ConfigError
from excise.evaluation import predict
from excise.measuring import Measured
from excise.methods import Fitting
from excise.methods.gated import Gated
from excise.methods.gated.gates import Gates
from excise.methods.gated.keeping import Kept, check_encodable, kept_questions
from excise.methods.gated.passes import batches, held_out, passes
from excise.methods.gated.training import Lesson, Steps, gold_of
from excise.methods.guarded import pools
from excise.methods.guarded.panel import reading
from excise.splits import split_instances
from excise.types import Instance, Neuron, Task, TextTask

OWN = "workplace"


def instances(name: str, *, conditions: tuple[str, ...]) -> tuple[Instance, ...]:
    """Six templates of three blocks, each with one instance of every condition."""
    blocks = [(template, block) for template in range(6) for block in range(3)]
    return tuple(
        replace(
            tiny.instance(
                n,
                f"{name} asks who was {n}?",
                template=f"{name}-{template}",
                block=f"{name}-{template}-{block}",
            ),
            id=f"{name}-{n}",
            condition=condition,
        )
        for n, (template, block, condition) in enumerate(
            (t, b, c) for t, b in blocks for c in conditions
        )
    )


def task_of(name: str, items: tuple[Instance, ...]) -> Task:
    return replace(tiny.task(items), name=name, digest=name)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    both = ("ambiguous", "disambiguated", "disambiguated")
    own = instances(OWN, conditions=both)
    found: dict[str, Any] = {
        OWN: task_of(OWN, own),
        "kitchen": task_of("kitchen", instances("kitchen", conditions=both)),
        "garden": task_of("garden", instances("garden", conditions=("disambiguated",))),
        "vague": task_of("vague", instances("vague", conditions=("ambiguous",))),
        # The whole of a benchmark holds the task itself.
        "house": task_of("house", own + instances("kitchen", conditions=both)),
        # A file by its path: the same data, or some of it, under another name.
        "copy": task_of(OWN, own),
        "half": replace(task_of("half", own), digest="half"),
        "plain": TextTask("plain", (), "", "", "", ()),
    }
    monkeypatch.setattr(pools, "load_task", lambda name, **_: found[name])
    return found


def config_of(*keep: str, **options: Any) -> RunConfig:
    gate = {"keep": keep, **options.pop("gate", {})}
    return resolve({"tasks": [OWN], "gate": gate, **options})


def test_kept_questions_come_from_find_and_tune_and_are_decided(tasks: dict[str, Any]) -> None:
    kitchen, garden = tasks["kitchen"], tasks["garden"]
    asked = kept_questions(tasks[OWN], config_of("kitchen", "garden"), count=20, seed=0)
    assert [each.task.name for each in asked] == ["kitchen", "garden"] * 10
    for name, task in (("kitchen", kitchen), ("garden", garden)):
        mine = [each for each in asked if each.task.name == name]
        split = split_instances(task.instances, by="template", seed=0)
        allowed = {i.id for i in split.find + split.tune if i.condition == "disambiguated"}
        blocks = []
        for each in mine:
            (block,) = {q.instance.block for q in each.questions}
            blocks.append(block)
            assert {q.instance.id for q in each.questions} == {
                i.id for i in task.instances if i.block == block and i.condition == "disambiguated"
            }
            assert {q.instance.id for q in each.questions} <= allowed
            assert len({q.instruction for q in each.questions}) == 1
        # Three templates of three blocks: all nine before the first comes back, under another
        # instruction.
        assert len(set(blocks[:9])) == 9
        assert blocks[9] == blocks[0]
        told = [each.questions[0].instruction for each in mine]
        assert told[9] != told[0]
        assert set(told) == set(task.instructions)
    assert kept_questions(tasks[OWN], config_of("kitchen", "garden"), count=20, seed=0) == asked
    assert kept_questions(tasks[OWN], config_of("kitchen", "garden"), count=20, seed=1) != asked


def test_names_need_no_brackets() -> None:
    assert resolve({"gate": {"keep": "bbq"}}).gate.keep == ("bbq",)
    assert resolve({"gate": {"keep": "bbq, mrpc"}}).gate.keep == ("bbq", "mrpc")
    with pytest.raises(ConfigError, match=r"gate\.keep"):
        resolve({"gate": {"keep": 3}})
    for empty in ("", "bbq,", [""]):
        with pytest.raises(ConfigError, match="keep got an empty name"):
            resolve({"gate": {"keep": empty}})


def test_nothing_is_kept_by_default(tasks: dict[str, Any]) -> None:
    assert kept_questions(tasks[OWN], config_of(), count=5, seed=0) == ()


def test_items_of_the_task_itself_and_of_guards_are_never_kept(tasks: dict[str, Any]) -> None:
    own = {item.content for item in tasks[OWN].instances}
    asked = kept_questions(tasks[OWN], config_of("house"), count=40, seed=0)
    contents = {q.instance.content for each in asked for q in each.questions}
    assert contents
    assert not contents & own
    config = config_of("house", guard={"max_loss": {"kitchen": 0.1}})
    split = split_instances(tasks["kitchen"].instances, by="template", seed=0)
    guarding = {item.content for item in split.find + split.tune}
    assert contents & guarding
    asked = kept_questions(tasks[OWN], config, count=40, seed=0)
    assert not {q.instance.content for each in asked for q in each.questions} & guarding


@pytest.mark.parametrize(
    ("keep", "options", "message"),
    [
        ((OWN,), {}, "names 'workplace' alone"),
        (("copy",), {}, "names 'workplace' alone"),
        (("vague",), {}, "kept task 'vague' holds no question"),
        (("kitchen",), {"guard": {"max_loss": {"kitchen": 0.1}}}, "and that guards nothing"),
        (("half",), {}, "kept task 'half' holds nothing but items of the tasks of this run"),
        (("plain",), {}, "kept task 'plain' is a text.*--max-loss plain=0.2"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    keep: tuple[str, ...], options: dict[str, Any], message: str, tasks: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        kept_questions(tasks[OWN], config_of(*keep, **options), count=5, seed=0)


def test_the_task_itself_is_left_out_beside_others(tasks: dict[str, Any]) -> None:
    asked = kept_questions(tasks[OWN], config_of(OWN, "garden"), count=4, seed=0)
    assert {each.task.name for each in asked} == {"garden"}


def test_one_task_of_a_run_may_keep_another(tasks: dict[str, Any]) -> None:
    config = config_of("kitchen", tasks=[OWN, "kitchen"])
    asked = kept_questions(tasks[OWN], config, count=4, seed=0)
    assert {each.task.name for each in asked} == {"kitchen"}
    split = split_instances(tasks["kitchen"].instances, by="template", seed=0)
    reported = {item.content for item in split.test}
    assert not {q.instance.content for each in asked for q in each.questions} & reported
    # The kitchen itself has nothing else to keep.
    assert kept_questions(tasks["kitchen"], config, count=4, seed=0) == ()
    # The whole that holds both keeps nothing of what the run mitigates.
    with pytest.raises(ConfigError, match="nothing but items of the tasks of this run"):
        kept_questions(tasks[OWN], config_of("house", tasks=[OWN, "kitchen"]), count=4, seed=0)


def test_a_run_of_one_task_loads_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **_: Any) -> Any:
        raise AssertionError(name)

    monkeypatch.setattr(pools, "load_task", load)
    task = task_of(OWN, instances(OWN, conditions=("disambiguated",)))
    assert pools.tasks_of_run(task, resolve({})) == [task]


def test_as_many_instructions_as_the_task_itself(tasks: dict[str, Any]) -> None:
    config = config_of("kitchen", gate={"instructions": 1})
    asked = kept_questions(tasks[OWN], config, count=20, seed=0)
    told = {q.instruction for each in asked for q in each.questions}
    assert told == {tasks["kitchen"].instructions[0]}


def test_a_kept_question_that_cannot_be_asked_is_refused_before_learning(
    tasks: dict[str, Any],
) -> None:
    model = tiny.loaded("llama")
    asked = kept_questions(tasks[OWN], config_of("kitchen"), count=3, seed=0)
    check_encodable(model, asked, end_token=False)
    question = asked[0].questions[0]
    endless = replace(question.instance, fields={**question.instance.fields, "context": "a " * 999})
    broken = Kept(asked[0].task, (replace(question, instance=endless),))
    with pytest.raises(ConfigError, match=r"kept task 'kitchen': .*positions"):
        check_encodable(model, (*asked, broken), end_token=False)


def test_what_is_kept_is_no_retention(
    tasks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("excise.comparing.retention.load_task", lambda name, **_: tasks[name])
    split = split_instances(tasks["kitchen"].instances, by="template", seed=0)
    for keep, expected in (((), tasks["kitchen"].instances), (("kitchen",), split.test)):
        found = Retention.of("kitchen", [tasks[OWN]], config_of(*keep), limit=100)
        assert {i.id for i in found.instances} == {i.id for i in expected}


def _lesson(model: Any, task: Task, batch_size: int = 3) -> Lesson:
    asked = tuple(Question(i, task.instructions[0], 0) for i in tiny.INSTANCES)
    scoring = ScoringConfig(normalisation="per_token")
    gate = GateConfig(batch_size=batch_size, gold_weight=0.0)
    gold = gold_of(model, task, (asked,), scoring, lambda n: None)
    return Lesson(model, task, (asked,), gold, scoring, gate, lambda n: None)


@pytest.mark.parametrize("name", ["llama", "bloom", "t5-gated"])
def test_kept_questions_are_asked_in_their_own_words(name: str) -> None:
    # Another prompt format and other instructions: the loss of both, as scoring reads them.
    model = tiny.loaded(name)
    other = replace(
        task_of("other", instances("other", conditions=("disambiguated",))),
        prompt_format="{instruction} Now {context} So {question}",
        instructions=("Say it.",),
    )
    teaching = _lesson(model, tiny.task(), batch_size=100)
    kept = Kept(other, tuple(Question(i, "Say it.", 0) for i in other.instances[:3]))
    with torch.no_grad():
        got = float(teaching._loss_of(teaching.passes[0], kept))
    terms = []
    for task, items in ((tiny.task(), tiny.INSTANCES), (other, other.instances[:3])):
        told = task.instructions[:1]
        said = reading(predict(model, task, items, teaching.scoring, instructions=told))
        weights = np.where(said.decided, teaching._weight, 1.0)
        terms += list(-weights * said.share)
    assert got == pytest.approx(np.mean(terms), abs=1e-4)


def test_every_step_takes_the_next_kept_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.loaded("llama")
    counted: list[int] = []
    teaching = replace(_lesson(model, tiny.task()), advance=counted.append)
    gates = Gates.of(model, [Neuron(model.sites[0].module, 1)])
    (values,) = gates.values.values()
    asked: list[Any] = []

    def loss(_: Lesson, batch: Any, kept: Any) -> torch.Tensor:
        asked.append((len(batch), kept))
        return values.sum()

    monkeypatch.setattr(Lesson, "_loss_of", loss)
    questions = teaching.passes[0][:2]
    first, second, third = (Kept(tiny.task(), questions[:n]) for n in (1, 2, 1))
    beside = iter([first, second, third])
    how = Steps(0.1, 0.0, 1.0, 0.0)
    teaching.learn(gates, teaching.passes, how, beside)
    teaching.learn(gates, teaching.passes, how, beside)
    sizes = [size for size, _ in asked]
    assert [kept for _, kept in asked] == [first, second, third, None]
    assert counted == [sizes[0] + 1, sizes[1] + 2, sizes[2] + 1, sizes[3]]


@pytest.mark.parametrize("neurons", [6, "all"])
def test_a_fit_keeps_other_tasks(
    neurons: Any, tasks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = planted_pair.planted()
    base = planted_pair.fitting(model)
    monkeypatch.setitem(tasks, base.task.name, base.task)
    gate = {
        "neurons": neurons,
        "instances": 16,
        "deciding_instances": 16,
        "epochs": 2,
        "few_passes": (1, 2),
        "keep": ("kitchen",),
    }
    options = base.config.model_dump(exclude_unset=True) | {"tasks": [base.task.name]}
    fitting: Fitting = replace(base, config=resolve({**options, "gate": gate}))
    learned: list[int] = []
    backward = Lesson._backward

    def watched(teaching: Lesson, batch: Any, kept: Any = None) -> None:
        learned.append(len(kept.questions) if kept else 0)
        backward(teaching, batch, kept)

    monkeypatch.setattr(Lesson, "_backward", watched)
    fitted = Gated().excise(fitting)
    assert fitted.describe()["templates"]["kept"] == 3
    assert fitted.patch.provenance["kept"] == [{"task": "kitchen", "data_digest": "kitchen"}]
    # Steps of the few are the last ones, those of the costs between them ask nothing beside.
    teach, _ = held_out(
        base.split.find + base.split.tune, fitting.config.gate.deciding_share, base.seed
    )
    taught = passes(base.task, teach, fitting.config.gate, base.seed)
    first = 2 if neurons == 6 else 0
    expected = sum(len(batches(asked, fitting.config.gate.batch_size)) for asked in taught[first:])
    assert expected > 3
    assert sum(size > 0 for size in learned) == expected
    assert learned[0] == (0 if neurons == 6 else 2)
    assert learned[-1] == 2
    # Who measures the patch on what was kept is told so.
    nobody: Any = None
    for name, known in (("kitchen", True), ("garden", False)):
        asked = Measured(tasks[name], "model", "digest", nobody, nobody, fitted.patch)
        assert asked.found_on_this_task == known
