"""Tables that scroll in a box of their own where the page is narrower than they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rest_deploy.reporting.markup import Html, element, html, join


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        head: What it holds, with its unit.
        numeric: Whether it is set flush right.
    """

    head: str
    numeric: bool = True


@dataclass(frozen=True)
class Wide:
    """A cell that takes all columns that are left, for an error in place of figures."""

    content: str


Cells = Sequence[str | Wide]


@dataclass(frozen=True)
class Rows:
    """Rows under one heading, or under none.

    Args:
        rows: Cells of each; the first one names it.
        title: The heading.
    """

    rows: Sequence[Cells]
    title: str = ""


def texts(*heads: str) -> list[Column]:
    """Columns of text."""
    return [Column(head, numeric=False) for head in heads]


def numbers(*heads: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(head) for head in heads]


def table(caption: str, columns: Sequence[Column], groups: Iterable[Rows], notes: Sequence[str] = ()) -> Html:
    """A table with its caption above and its footnotes below."""
    drawn = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *map(_head, columns))),
        *(_body(group, columns) for group in groups),
    )
    box = element("div", drawn, class_="scroll", role="region", aria_label=caption, tabindex=0)
    return join([box, *(element("p", note, class_="note") for note in notes)])


def folded(summary: str, *content: str, opened: bool) -> Html:
    """Content that is shown when asked for, and in print."""
    return element("details", element("summary", summary), *content, open=opened)


def _head(column: Column) -> Html:
    """A head that is no wider than its longest word, so that columns of numbers are as narrow as their numbers."""
    longest = max(map(len, column.head.split()), default=0)
    style = f"max-width:calc({longest}ch + 1.1rem)" if column.numeric else None
    return element("th", column.head, scope="col", class_=_look(column), style=style)


def _body(group: Rows, columns: Sequence[Column]) -> Html:
    rows = [element("tr", *_cells(row, columns)) for row in group.rows]
    if group.title:
        heading = element("th", element("span", group.title), scope="rowgroup", colspan=len(columns))
        rows.insert(0, element("tr", heading, class_="group"))
    return element("tbody", *rows)


def _cells(row: Cells, columns: Sequence[Column]) -> list[Html]:
    cells = []
    for number, (cell, column) in enumerate(zip(row, columns, strict=False)):
        if isinstance(cell, Wide):
            cells.append(element("td", cell.content, colspan=len(columns) - number, class_="wide"))
        elif number == 0:
            cells.append(element("th", html(cell), scope="row", class_=_look(column)))
        else:
            cells.append(element("td", html(cell), class_=_look(column)))
    return cells


def _look(column: Column) -> str | None:
    return "num" if column.numeric else None
