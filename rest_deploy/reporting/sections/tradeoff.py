"""Accuracy against latency: a plot for each size, and which contenders nothing else beats in both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rest_deploy.reporting.contender import Contender
from rest_deploy.reporting.figure import panels
from rest_deploy.reporting.frontier import on_frontier
from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.matching import Match, match
from rest_deploy.reporting.measure import Measure, Reading, choose
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.scatter import Point, Scatter, Vertical
from rest_deploy.reporting.quantity import case_label, case_text, number, plain
from rest_deploy.reporting.records import Records, of_each_size, result_of
from rest_deploy.reporting.table import Rows, numbers, table, texts

_READ = (
    "One point for each contender that was verified too, under its number. The line is the Pareto frontier: no other "
    "contender is both faster and better than a point on it. It goes by the medians; whether two of them truly differ "
    "stands with the ratios under Latency."
)
_KEYS = (("point", "on the frontier"), ("hollow", "not on it"), ("frontier", "the frontier"))


@dataclass(frozen=True)
class _Entry:
    """A contender in a case."""

    contender: Contender
    found: Match
    result: Node
    reading: Reading | None

    @property
    def drawn(self) -> bool:
        return self.reading is not None and self.result["p50_ms"].number is not None


def tradeoff(records: Records) -> Html:
    """The plots, their table and what is not in them."""
    if not (records.verification.there and records.benchmark.there):
        return NOTHING
    measure = choose(records.verification, records.verification["data"]["reference"])
    cases = [(case, _entries(records, case, measure)) for case in of_each_size(records.benchmark["cases"])]
    values = [entry.reading.value for _, entries in cases for entry in entries if entry.drawn and entry.reading]
    if not values:
        nothing = "No contender of the benchmark is both measured and verified: files are compared by SHA-256."
        return join([element("p", nothing), _left_out(records)])
    vertical = Vertical(measure.title, measure.scale(values), measure.told)
    plots = [_plot(case, entries, measure, vertical) for case, entries in cases if any(e.drawn for e in entries)]
    columns = [
        *texts("contender"),
        *numbers(measure.head, "p50, ms"),
        *texts("on the frontier", "verified", "figure of"),
    ]
    groups = (Rows(list(_rows(entries, measure)), case_label(case)) for case, entries in cases)
    words = f"{measure.head.capitalize()} against latency"
    return join([panels(plots, _READ, _KEYS), table(words, columns, groups), _left_out(records)])


def _entries(records: Records, case: Node, measure: Measure) -> list[_Entry]:
    """Contenders that were verified or are the reference, in the case."""
    entries = []
    for one in records.contenders:
        found = match(one.node, records.verification)
        reading = measure.read(found, case)
        result = result_of(case, one.name)
        if result.there and (found.artifact.there or (found.is_reference and reading is not None)):
            entries.append(_Entry(one, found, result, reading))
    return entries


def _frontier(entries: list[_Entry], measure: Measure) -> dict[int, bool]:
    """Number of each contender that is drawn -> whether it is on the frontier."""
    drawn = [(entry, entry.reading) for entry in entries if entry.drawn and entry.reading is not None]
    points = [(entry.result["p50_ms"].number or 0.0, measure.gain(reading)) for entry, reading in drawn]
    return {entry.contender.number: best for (entry, _), best in zip(drawn, on_frontier(points), strict=True)}


def _plot(case: Node, entries: list[_Entry], measure: Measure, vertical: Vertical) -> Html:
    on = _frontier(entries, measure)
    points = [
        Point(one.number, one.short, entry.result["p50_ms"], entry.reading.value, tip, one.marker, on[one.number])
        for entry, tip in ((entry, _tip(entry, measure)) for entry in entries)
        if (one := entry.contender).number in on and entry.reading is not None
    ]
    best = ", ".join(point.name for point in points if point.frontier)
    described = f"{measure.head} against median latency of {len(points)} contenders. On the frontier: {best}."
    return Scatter(case_text(case), described, points, vertical).draw()


def _tip(entry: _Entry, measure: Measure) -> str:
    value = entry.reading.value if entry.reading is not None else 0.0
    latency = plain(entry.result["p50_ms"].number or 0.0)
    return f"{entry.contender.name}: p50 {latency} ms, {measure.head} {measure.told([value])[0]}, {entry.found.words}"


def _rows(entries: list[_Entry], measure: Measure) -> Iterator[list[str]]:
    on = _frontier(entries, measure)
    for entry in entries:
        one, reading = entry.contender, entry.reading
        frontier = {True: element("b", "yes"), False: Html("no"), None: Html("not drawn")}[on.get(one.number)]
        shown, where = (reading.shown, reading.where) if reading is not None else ("—", "—")
        why = f"not measured: {entry.result['error'].text}" if entry.result["error"].there else entry.found.words
        yield [one.label(), shown, number(entry.result["p50_ms"]), frontier, why, where]


def _left_out(records: Records) -> Html:
    """Contenders without a figure, and why."""
    groups: dict[str, list[Html]] = {}
    for one in records.contenders:
        found = match(one.node, records.verification)
        if not found.artifact.there:
            groups.setdefault(found.words, []).append(one.label())
    items = [element("li", element("b", why), ": ", join(names, ", ")) for why, names in groups.items()]
    return element("ul", *items, class_="left-out") if items else NOTHING
