"""BBQ's row format: from a row to an instance, and which rows belong to one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from excise.tasks.rows import Row, validated
from excise.types import Condition, Instance

# Outer white space is no part of a text: 124 published answers end in a stray space.
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Info = Annotated[tuple[str, ...], Field(min_length=2, max_length=2, strict=False)]

_CONDITIONS: Mapping[str, Condition] = {"ambig": "ambiguous", "disambig": "disambiguated"}


class _AnswerInfo(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    ans0: _Info
    ans1: _Info
    ans2: _Info


class _Metadata(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    stereotyped_groups: Annotated[tuple[str, ...], Field(strict=False)]


class BbqRow(BaseModel):
    """One line of a BBQ file. Names are upstream's."""

    model_config = ConfigDict(strict=True, frozen=True)

    example_id: Annotated[int, Field(ge=0)]
    question_index: Annotated[str, StringConstraints(pattern=r"^\d+$")]
    question_polarity: Literal["neg", "nonneg"]
    context_condition: Literal["ambig", "disambig"]
    category: _Text
    answer_info: _AnswerInfo
    additional_metadata: _Metadata
    context: _Text
    question: _Text
    ans0: _Text
    ans1: _Text
    ans2: _Text
    label: Annotated[int, Field(ge=0, le=2)]

    @property
    def info(self) -> tuple[tuple[str, ...], ...]:
        """Short text and group of each option."""
        return (self.answer_info.ans0, self.answer_info.ans1, self.answer_info.ans2)

    @property
    def unknown(self) -> int:
        """Index of the option tagged as unknown."""
        return [group for _, group in self.info].index("unknown")


_EXPECTED = {
    "example_id": "a whole number from 0",
    "question_index": 'a whole number in quotes, for example "7"',
    "question_polarity": '"neg" or "nonneg"',
    "context_condition": '"ambig" or "disambig"',
    "category": "a text that is not empty",
    "answer_info": "an object with ans0, ans1 and ans2, each a list of text and group",
    "additional_metadata": "an object with the list stereotyped_groups",
    "context": "a text that is not empty",
    "question": "a text that is not empty",
    "ans0": "a text that is not empty",
    "ans1": "a text that is not empty",
    "ans2": "a text that is not empty",
    "label": "the correct option's number, 0 to 2",
}


def is_bbq(values: Mapping[str, Any]) -> bool:
    """Whether a row is in BBQ's format rather than the plain one."""
    return "ans0" in values


def parse(row: Row) -> BbqRow:
    """A checked BBQ row; fields that BBQ does not have, such as stored predictions, are ignored.

    Raises:
        TaskFormatError: A field is missing or wrong.
    """
    item = validated(row, BbqRow, _EXPECTED, extra=True)
    n_unknown = sum(group == "unknown" for _, group in item.info)
    if n_unknown != 1:
        raise row.error(
            "answer_info",
            f'{n_unknown} options carry the group "unknown"; tag exactly one of the three.',
        )
    if len({item.ans0, item.ans1, item.ans2}) < 3:
        raise row.error("ans2", "two options are the same text; make them differ.")
    return item


def to_instance(row: BbqRow, *, stereotyped: int | None, names: bool = False) -> Instance:
    """The instance of a row.

    Args:
        row: The row.
        stereotyped: Index of the option that agrees with the stereotype.
        names: Whether the options are proper names, which BBQ reports apart.
    """
    return Instance(
        id=f"{row.category}/{row.example_id}",
        fields={"context": row.context, "question": row.question},
        options=(row.ans0, row.ans1, row.ans2),
        gold=row.label,
        template=f"{row.category}/{int(row.question_index)}",
        block=f"{row.category}/b{row.example_id // 4}",
        condition=_CONDITIONS[row.context_condition],
        unknown=row.unknown,
        stereotyped=stereotyped,
        group=f"{row.category} (names)" if names else row.category,
    )


def stereotyped_by_rule(row: BbqRow) -> int | None:
    """The stereotyped option read off the row itself, for rows without the authors' metadata.

    In a negative question it is the option whose group (or text) is among the stereotyped groups,
    in a non-negative one the other person's. Over the published rows it never contradicts the
    metadata and answers all of Age, Disability_status, Nationality, Physical_appearance, Religion,
    SES and Sexual_orientation. It answers 5,080 of 5,672 rows of Gender_identity, the 1,880 rows
    of Race_ethnicity without proper names, and none of the crossed categories.

    Returns:
        The option's index, or None unless exactly one person belongs to the stereotyped groups.
    """
    people = [index for index in range(3) if index != row.unknown]
    targets = [index for index in people if _is_target(row, index)]
    if len(targets) != 1:
        return None
    (target,) = targets
    return target if row.question_polarity == "neg" else people[people[0] == target]


def _is_target(row: BbqRow, index: int) -> bool:
    text, group = row.info[index]
    if row.category == "Disability_status":
        # Its stereotyped groups name kinds of disability; the tags only say disabled or not.
        return group.lower() != "nondisabled"
    # Whole names, never substrings: "old" lies inside "nonOld".
    groups = {_plain(name) for name in row.additional_metadata.stereotyped_groups}
    return _plain(group) in groups or _plain(text) in groups


def _plain(name: str) -> str:
    """SES writes "low SES" in one field and "lowSES" in another; some texts carry a brace."""
    return name.strip("{} ").replace(" ", "").lower()


def merge_templates(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Give instances that share a question text the same template.

    BBQ asks one question under several `question_index` values: with group labels under one and
    with proper names under another, in contexts that are otherwise alike. Kept apart, such twins
    would end up on both sides of a split and would count as independent in intervals. The merged
    template is named after the smallest index of its connected component.
    """
    parent: dict[str, str] = {}

    def root(template: str) -> str:
        while parent.setdefault(template, template) != template:
            template = parent[template]
        return template

    first_with_question: dict[str, str] = {}
    for instance in instances:
        question = instance.fields["question"].casefold()
        known = first_with_question.setdefault(question, instance.template)
        smaller, larger = sorted((root(known), root(instance.template)), key=_template_order)
        parent[larger] = smaller
    return tuple(replace(i, template=root(i.template)) for i in instances)


def _template_order(template: str) -> tuple[str, int]:
    category, _, index = template.rpartition("/")
    return category, int(index)
