"""Tables that stay readable on narrow terminals and without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from excise.report.numbers import UNDEFINED, counted, percent, signed

__all__ = ["UNDEFINED", "Cell", "Row", "counted", "percent", "print_table", "signed"]

_GAP, _NARROW_GAP = 3, 2
_LEAST_TEXT = 30
"""Columns in which a text still reads well."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with its detail, side by side where there is room, else one above the other."""

    main: str
    detail: str = ""
    style: str = ""
    """How a terminal with colours writes it."""

    @property
    def line(self) -> str:
        """Both in one line."""
        return f"{self.main} {self.detail}".rstrip()

    @property
    def lines(self) -> str:
        """One above the other."""
        return f"{self.main}\n{self.detail}".rstrip()


Row = Sequence[Cell | str]


def plain(text: str) -> str:
    """A text out of a dataset, without what a terminal would obey: that is spelt out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _plain(cell: Cell) -> Cell:
    return Cell(plain(cell.main), plain(cell.detail), cell.style)


def print_table(
    console: Console, title: str, header: Row, rows: Sequence[Row], *, left: bool = False
) -> None:
    """Print rows as a table, or as blocks of lines where the table would not fit.

    Args:
        console: where to.
        title: a line above.
        header: names of the columns; the first column names the rows.
        rows: cells in the order of the header.
        left: the cells are texts: align them to the left, and wrap the last column.
    """
    cells = [
        [_plain(c if isinstance(c, Cell) else Cell(c)) for c in row] for row in (header, *rows)
    ]
    console.print(Text(title, style="bold"))
    for header_side_by_side, side_by_side, gap in _LAYOUTS:
        texts = [
            [cell.line if beside else cell.lines for cell in row]
            for row, beside in zip(
                cells, (header_side_by_side, *[side_by_side] * len(rows)), strict=True
            )
        ]
        if _width(texts, gap, last=_LEAST_TEXT if left else None) <= console.width:
            styles = [[cell.style for cell in row] for row in cells]
            console.print(_table(texts, styles, gap, left=left))
            return
    _print_blocks(console, cells)


_LAYOUTS = ((True, True, _GAP), (False, True, _NARROW_GAP), (False, False, _GAP))
"""Names of columns in one line, cells in one line, columns between them: the first that fits."""


def _width(texts: Sequence[Sequence[str]], gap: int, *, last: int | None = None) -> int:
    widths = [
        max(max((len(line) for line in text.splitlines()), default=0) for text in column)
        for column in zip(*texts, strict=True)
    ]
    if last is not None:
        widths[-1] = min(widths[-1], last)
    return sum(widths) + gap * (len(widths) - 1)


def _table(
    texts: Sequence[Sequence[str]], styles: Sequence[Sequence[str]], gap: int, *, left: bool
) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        # The rule between columns is one more.
        padding=(0, (gap - 1) // 2, 0, gap - 1 - (gap - 1) // 2),
        header_style="bold",
    )
    header, *rows = texts
    for position, name in enumerate(header):
        justify: JustifyMethod = "right" if position and not left else "left"
        wraps = left and position == len(header) - 1
        table.add_column(Text(name), justify=justify, no_wrap=not wraps)
    for row, of_row in zip(rows, styles[1:], strict=True):
        table.add_row(*(Text(text, style=s) for text, s in zip(row, of_row, strict=True)))
    return table


def _print_blocks(console: Console, cells: Sequence[Sequence[Cell]]) -> None:
    header, *rows = cells
    names = [cell.line for cell in header[1:]]
    widest = max(map(len, names))
    for first, *others in rows:
        console.print(first.line, soft_wrap=True)
        for name, cell in zip(names, others, strict=True):
            start = f"  {name:<{widest}}  "
            for line in wrap(
                cell.line,
                console.width,
                initial_indent=start,
                subsequent_indent=" " * len(start),
            ):
                console.print(line, soft_wrap=True)
