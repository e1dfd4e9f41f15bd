"""Figures in rows, for a terminal and as Markdown."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rest_deploy.cli.terminal import clean


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column and the last ``words`` ones hold words, the others figures.

    Args:
        title: Above it; may be empty.
        head: Names of the columns.
        rows: As many texts each.
        words: How many columns at the end are to be read as words.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 0

    def text(self) -> str:
        """In columns; where a terminal is too narrow for all of them, the others follow below, after the first again.

        rich would break figures, or cut them off.
        """
        lines = [[clean(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.head))]
        blocks = _blocks(widths, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
        title = [clean(self.title)] if self.title else []
        return "\n".join([*title, *(self._line(row, widths, block) for block in blocks for row in lines)])

    def _line(self, row: Sequence[str], widths: Sequence[int], columns: Sequence[int]) -> str:
        cells = (row[i].ljust(widths[i]) if self._is_words(i) else row[i].rjust(widths[i]) for i in columns)
        return f"  {'  '.join(cells)}".rstrip()

    def markdown(self) -> str:
        """As a table of Markdown."""
        rule = ["---" if self._is_words(i) else "---:" for i in range(len(self.head))]
        lines = [self.head, rule, *self.rows]
        title = [f"**{escaped(self.title)}**", ""] if self.title else []
        return "\n".join([*title, *(f"| {' | '.join(escaped(cell) for cell in row)} |" for row in lines), ""])

    def _is_words(self, column: int) -> bool:
        return column == 0 or column >= len(self.head) - self.words


def _blocks(widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Numbers of the columns that stand side by side."""
    blocks = [[0]]
    for column in range(1, len(widths)):
        taken = sum(widths[i] + 2 for i in blocks[-1]) + 2 + widths[column]
        if room is not None and taken > room and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(column)
    return blocks


def escaped(cell: str) -> str:
    """Text for Markdown, in which what means something there or in HTML is shown as it is."""
    return "".join(f"\\{c}" if c in "\\|*_`<>[]" else c for c in clean(cell))


def figure(value: float | None, digits: str, unit: str = "") -> str:
    """A figure by a format, or a dash where there is none."""
    return f"{value:{digits}}{unit}" if value is not None else "-"
