"""Against an earlier benchmark: what became slower, what became faster, and what only the machine did."""

from __future__ import annotations

from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import interval, number, plain
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.table import Rows, numbers, table, texts

_NOTE = (
    "Ratio: new over old, the machine's own change divided out; over 1 is slower. Machine: how much longer one fixed "
    "matrix product takes now."
)


def regression(records: Records) -> Html:
    """A table of old against new, and what could not be compared."""
    found = records.benchmark["comparison"]
    if not found.there:
        return NOTHING
    columns = [
        *texts("contender", "case"),
        *numbers("old, ms", "new, ms", "ratio", "interval", "machine"),
        *texts("verdict"),
    ]
    rows = [_row(row) for row in found["rows"]]
    drawn = table(f"Compared with {found['with'].text or 'an earlier record'}", columns, [Rows(rows)], [_NOTE])
    notes = [element("li", note.text) for note in found["notes"]]
    counts = ", ".join(f"{count} × {word}" for word, count in _counts(found).items())
    return join([element("p", counts or "Nothing in common."), drawn, element("ul", *notes) if notes else NOTHING])


def _counts(found: Node) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in found["rows"]:
        word = row["verdict"].text or "no verdict"
        counts[word] = counts.get(word, 0) + 1
    return counts


def _row(row: Node) -> list[str]:
    times = [number(row["old_ms"]), number(row["new_ms"]), number(row["ratio"], plain)]
    verdict = row["verdict"].text or "—"
    looks = {"regression": "bad", "improvement": "good"}
    word = element("span", verdict, class_=looks.get(verdict))
    return [
        row["contender"].text,
        row["case"].text,
        *times,
        interval(row["low"], row["high"]),
        number(row["machine_ratio"]),
        word,
    ]
