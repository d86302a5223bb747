"""What all sections of the options have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _all_means_none(value: Any) -> Any:
    return None if value == "all" else value


Count = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_all_means_none)]
"""A positive number, or None for all; `all` in files and on the command line."""


class Section(BaseModel):
    """Options that belong together; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
