"""Where an error comes from: its size after each block of the network."""

from __future__ import annotations

from rest_deploy.reporting.figure import panels
from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.row_plot import Group, RowPlot
from rest_deploy.reporting.quantity import deviation, number
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.sections.exactness import ERRORS, KEYS, error_row, share_of_limit, verdict_word
from rest_deploy.reporting.table import Rows, folded, numbers, table, texts

_READ = (
    "Errors of what each block gives, on a logarithmic axis; blocks in the order of the network. Of INT8 they are root "
    "mean squared (RMS) errors, of the others the largest. A point right of its bar is past the limit: it is square, "
    "and says “over”."
)
_COLUMNS = [
    *texts("block"),
    *numbers("largest error", "RMS error", "limit", "error / limit", "float32's own", "std"),
    *texts("verdict"),
]


def blocks(records: Records) -> Html:
    """A plot and a table for each artifact that was looked into."""
    found = [artifact for artifact in records.verification["artifacts"] if artifact["blocks"]["rows"].value]
    if not found:
        return NOTHING
    first = element("ul", *(element("li", _first(artifact)) for artifact in found))
    plots = panels([_plot(artifact) for artifact in found], _READ, (("point", "error"), *KEYS[1:]))
    groups = [Rows(_figures(artifact), artifact["name"].text) for artifact in found]
    drawn = table("Error after each block", _COLUMNS, groups)
    return join([first, plots, folded("All figures by block", drawn, opened=False)])


def _first(artifact: Node) -> Html:
    found = artifact["blocks"]
    name = element("b", artifact["name"].text, class_="id")
    case = f" at {found['case'].text}" if found["case"].there else ""
    if not found["first_past_tolerance"].there:
        return join([name, f"{case}: every block is within its limit."])
    return join(
        [name, f"{case}: the first block past its limit is ", element("b", found["first_past_tolerance"].text), "."]
    )


def _plot(artifact: Node) -> Html:
    name, rows = artifact["name"].text, list(artifact["blocks"]["rows"])
    over = sum(row["passed"].value is False for row in rows)
    judged = _judged_by(artifact)
    described = (
        f"{ERRORS[judged].capitalize()} of {name} after each of {len(rows)} blocks, with limits; {over} are over."
    )
    drawn = [error_row(row["block"].text, row, judged) for row in rows]
    return RowPlot(name, f"Blocks of {name}", described, [Group("", drawn)], log=True).draw()


def _judged_by(artifact: Node) -> str:
    """Which of a block's errors has the limit; the largest in records that do not say."""
    named = artifact["blocks"]["judged_by"].text
    return named if named in ERRORS else "max_error"


def _figures(artifact: Node) -> list[list[str]]:
    return [_row(row, _judged_by(artifact)) for row in artifact["blocks"]["rows"]]


def _row(row: Node, judged_by: str) -> list[str]:
    errors = [number(row[name], deviation) for name in ("max_error", "rms_error", "limit")]
    own = number(row["reference_error"], deviation)
    return [row["block"].text, *errors, share_of_limit(row, judged_by), own, number(row["std"]), verdict_word(row)]
