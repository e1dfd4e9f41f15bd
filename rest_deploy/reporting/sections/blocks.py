"""Where an error comes from: its size after each block of the network."""

from __future__ import annotations

from rest_deploy.reporting.figure import panels
from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.row_plot import Group, RowPlot
from rest_deploy.reporting.quantity import deviation, number
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.sections.exactness import KEYS, error_row, judged_by, share_of_limit, verdict_word
from rest_deploy.reporting.table import Rows, folded, numbers, table, texts

_READ = (
    "Errors of what each block gives, on a logarithmic axis; blocks in the order of the network. The error is the "
    "largest, or the root mean squared (RMS) one where the limit is meant of that, as of blocks in INT8. A point right "
    "of its bar is past the limit: it is square, and says “over”."
)
_COLUMNS = [
    *texts("block"),
    *numbers("largest error", "RMS error", "limit"),
    *texts("limit of"),
    *numbers("error / limit", "float32's own", "std"),
    *texts("verdict"),
]


def blocks(records: Records) -> Html:
    """A plot and a table for each artifact that was looked into."""
    found = [artifact for artifact in records.verification["artifacts"] if artifact["blocks"]["rows"].value]
    if not found:
        return NOTHING
    first = element("ul", *(element("li", _first(artifact)) for artifact in found))
    plots = panels([_plot(artifact) for artifact in found], _READ, (("point", "error"), *KEYS[1:]))
    groups = [Rows([_figures(row) for row in artifact["blocks"]["rows"]], artifact["name"].text) for artifact in found]
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
    described = f"Error of {name} after each of {len(rows)} blocks, with limits; {over} are over."
    drawn = [error_row(row["block"].text, row) for row in rows]
    return RowPlot(name, f"Blocks of {name}", described, [Group("", drawn)], log=True).draw()


def _figures(row: Node) -> list[str]:
    errors = [number(row[name], deviation) for name in ("max_error", "rms_error", "limit")]
    own, of = number(row["reference_error"], deviation), {"max_error": "largest", "rms_error": "RMS"}[judged_by(row)]
    return [row["block"].text, *errors, of, share_of_limit(row), own, number(row["std"]), verdict_word(row)]
