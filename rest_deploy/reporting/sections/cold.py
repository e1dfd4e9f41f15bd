"""What a contender costs before it is warm, and in memory."""

from __future__ import annotations

from rest_deploy.reporting.contender import Contender, networks
from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.quantity import number
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.table import Cells, Rows, Wide, numbers, table, texts

_NOTE = (
    "In a process of its own: to import the runtime and load the network, then the first call; memory is the largest "
    "that the process has had once it has run the case, smaller cases before."
)


def cold(records: Records) -> Html:
    """Load time, first answer and memory of every contender that was started alone."""
    started = [one for one in records.contenders if one.node["cold"].there]
    if not started:
        return NOTHING
    peaks = list(dict.fromkeys(case for one in started for case, _ in one.node["cold"]["peak_mib"].entries()))
    columns = [*texts("contender"), *numbers("load, ms", "first answer, ms", *(f"peak MiB, {case}" for case in peaks))]
    groups = networks(started)
    rows = (
        Rows([_row(one, peaks) for one in members], name if len(groups) > 1 else "") for name, members in groups.items()
    )
    drawn = table("First start and memory", columns, rows, [_NOTE, *_errors(started)])
    return join([element("h3", "First start and memory"), drawn])


def _row(one: Contender, peaks: list[str]) -> Cells:
    found = one.node["cold"]
    if found["load_ms"].number is None and found["error"].there:
        return [one.label(), Wide(element("span", found["error"].text, class_="bad"))]
    memory = [number(found["peak_mib"][case]) for case in peaks]
    return [one.label(), number(found["load_ms"]), number(found["first_answer_ms"]), *memory]


def _errors(started: list[Contender]) -> list[str]:
    late = [one for one in started if one.node["cold"]["error"].there and one.node["cold"]["load_ms"].there]
    return [f"{one.number} {one.name}: {one.node['cold']['error'].text}" for one in late]
