"""Was the machine quiet meanwhile? Warnings first, then the evidence."""

from __future__ import annotations

from collections.abc import Sequence

from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import case_label, count, number, plain, rate
from rest_deploy.reporting.table import Rows, folded, numbers, table, texts

_COLUMNS = [
    *texts("case"),
    *numbers("rounds", "spread of a fixed product", "its last third over its first", "stolen", "used by others"),
    *texts("warnings"),
]


def conditions(cases: Sequence[Node]) -> Html:
    """Warnings of all cases, and a table of what they come from."""
    flagged = [(case, list(case["conditions"]["flags"])) for case in cases]
    warned = [
        element("li", element("b", case_label(case)), ": ", "; ".join(flag.text for flag in flags))
        for case, flags in flagged
        if flags
    ]
    notes = ["Stolen: share of the processors' time that the hypervisor took; used by others: by other processes."]
    drawn = table("Conditions of each case", _COLUMNS, [Rows([_row(case) for case in cases])], notes)
    box = element("div", element("p", element("b", "Warnings")), element("ul", *warned), class_="caution")
    summary = f"Conditions: {len(warned)} of {len(cases)} cases with warnings"
    return join([box if warned else NOTHING, folded(summary, drawn, opened=False)])


def _row(case: Node) -> list[str]:
    found = case["conditions"]
    shares = [number(found[name], rate) for name in ("stolen", "others")]
    flags = "; ".join(flag.text for flag in found["flags"]) or "none"
    spread, drift = number(found["probe_spread"], rate), number(found["probe_drift"], plain)
    return [case_label(case), number(case["rounds"], count), spread, drift, *shares, flags]
