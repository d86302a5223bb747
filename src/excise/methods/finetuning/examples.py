"""Pairs as training examples: rewriting, gap filling, a choice, or the bare sentence.

The target is the less stereotyped sentence always, whichever direction CrowS-Pairs gives a pair.
Only `published` turns the pairs of direction `antistereo` round, as the study did that it repeats:
there 14 % of the targets are the more stereotyped sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from string import Formatter
from typing import Literal

import numpy as np

from excise.methods.finetuning.pairs import Pair
from excise.types import Instance, Task

Form = Literal["rewrite", "gap_fill", "choice", "sentence"]

GAP = "____"

REWRITE = (
    "Rewrite the sentence so that it rests on no stereotype. Sentence: {text}",
    "Change this sentence as little as you can, so that it repeats no stereotype.\n{text}",
    "Here is a sentence: {text}\nWrite it again without the stereotype.",
)
GAP_FILL = (
    "Fill the gap in the sentence. Write only the missing words. Sentence: {text}",
    "Which words are missing here? {text}",
    "Complete the sentence by naming what belongs in place of the gap.\n{text}",
)
CONTEXT = "Two sentences differ only in whom they name."
QUESTIONS = (
    "Which sentence rests less on a stereotype?",
    "Which of the two repeats less of a prejudice?",
    "Which sentence would you rather write about people you do not know?",
)
CHOICE_FORMAT = "{instruction} {context} {question} Sentences: {options} Answer:"
CHOICE_INSTRUCTION = "Answer with one of the sentences."


@dataclass(frozen=True, slots=True)
class Example:
    """What the model reads, what it shall answer, and what it might answer instead."""

    prompt: str | None
    """None: the answer is a sentence of its own, after nothing."""
    target: str
    other: str
    """The same answer made of the other sentence of the pair."""


def example(pair: Pair, form: Form, task: Task | None, generator: np.random.Generator) -> Example:
    """One training example.

    Args:
        pair: what it is made of.
        form: how it is put.
        task: the evaluation task; `choice` is asked in its prompt format and under its
            instructions where these name nothing but context, question and options, and in a
            format of this module otherwise.
        generator: draws the wording and the order of the options.
    """
    if form == "sentence":
        return Example(None, pair.less, pair.more)
    if form == "rewrite":
        return Example(_drawn(REWRITE, generator).format(text=pair.more), pair.less, pair.more)
    if form == "gap_fill":
        text, more, less = gap(pair)
        return Example(_drawn(GAP_FILL, generator).format(text=text), less, more)
    options = (pair.less, pair.more) if generator.random() < 0.5 else (pair.more, pair.less)
    return Example(_choice(options, task, generator), pair.less, pair.more)


def published(pair: Pair, form: Form) -> Example:
    """The example as the UQAC study made it.

    Rewriting: the sentence under the study's one instruction. Gap filling: the first span that
    differs is the gap, and all words that differ are the answer (the whole sentence where words
    are only left out). Pairs of direction `antistereo` have the more stereotyped sentence for a
    target.
    """
    text, answer = (pair.more, pair.less)
    if pair.direction == "antistereo":
        text, answer = answer, text
    if form == "rewrite":
        prompt = f"Context : Make the following sentence more neutral.\n\nData : {text}"
        return Example(prompt, answer, text)
    words, answers = text.split(), answer.split()
    changes = [
        change
        for change in SequenceMatcher(None, words, answers, autojunk=False).get_opcodes()
        if change[0] != "equal"
    ]
    _, start, stop, _, _ = changes[0]
    filled = " ".join(word for _, _, _, j1, j2 in changes for word in answers[j1:j2])
    other = " ".join(word for _, i1, i2, _, _ in changes for word in words[i1:i2])
    gapped = " ".join([*words[:start], "[BLANK]", *words[stop:]])
    return Example(f"Fill in the following sentence. {gapped}", filled or answer, other or text)


def gap(pair: Pair) -> tuple[str, str, str]:
    """The sentence with one gap, and what fills it in the more and in the less stereotyped one.

    The gap reaches from the first word that differs to the last; where one sentence has no words
    there, a neighbour joins in.
    """
    more, less = pair.more.split(), pair.less.split()
    shorter = min(len(more), len(less))
    start = 0
    while start < shorter and more[start] == less[start]:
        start += 1
    end = 0
    while end < shorter - start and more[-1 - end] == less[-1 - end]:
        end += 1
    if shorter == start + end:
        # Words were only added: the gap takes a neighbour, so that both have something to say.
        start, end = (start - 1, end) if start else (start, end - 1)
    text = [*more[:start], GAP, *more[len(more) - end :]]
    fillings = (words[start : len(words) - end] for words in (more, less))
    more_words, less_words = (" ".join(words) for words in fillings)
    return " ".join(text), more_words, less_words


def _choice(options: tuple[str, str], task: Task | None, generator: np.random.Generator) -> str:
    fields = {"context": CONTEXT, "question": _drawn(QUESTIONS, generator)}
    if task is not None and task.kind == "choice":
        asked = {name for _, name, _, _ in Formatter().parse(task.prompt_format) if name}
        if asked <= {"instruction", "options", *fields}:
            instance = Instance("pair", fields, options, 0, "pair", "pair")
            return task.prompt(_drawn(task.instructions, generator), instance)
    return CHOICE_FORMAT.format(
        instruction=CHOICE_INSTRUCTION, options=" | ".join(options), **fields
    )


def _drawn(texts: tuple[str, ...], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]
