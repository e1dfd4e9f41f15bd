"""Latency by size and by batch: plots of each network, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from rest_deploy.reporting.contender import Contender, by_name, networks
from rest_deploy.reporting.figure import panels
from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.row import Row
from rest_deploy.reporting.plots.row_plot import Group, RowPlot
from rest_deploy.reporting.quantity import case_text, plain
from rest_deploy.reporting.records import Records, area, result_of
from rest_deploy.reporting.sections.cold import cold
from rest_deploy.reporting.sections.conditions import conditions
from rest_deploy.reporting.sections.growth import growth
from rest_deploy.reporting.sections.latency_table import latency_table

_GROWTH = "Time per image is that of a call over its batch."
_RATIO = (
    "Ratios are formed within rounds; their whiskers are confidence intervals: one that crosses 1 shows no difference."
)
_KEYS = (("point", "median (p50)"), ("whisker", "up to p90, where there are calls enough to tell it"))
_DASHED = ("dashed", "dashed: the largest batch")
_HOLLOW = ("hollow", "ratio without a difference beyond noise, or of too few rounds")


def latency(records: Records) -> Html:
    """Plots and a table of each network, warnings first."""
    if not records.benchmark.there:
        return NOTHING
    cases = sorted(records.benchmark["cases"], key=area)
    groups = networks(records.contenders)
    drawn = [_network(name, members, cases, alone=len(groups) == 1) for name, members in groups.items()]
    return join([conditions(cases), *drawn, cold(records)])


def _network(name: str, members: Sequence[Contender], cases: Sequence[Node], *, alone: bool) -> Html:
    plots, words, keys = [_times(name, members, cases)], [], list(_KEYS)
    grown = growth(name, members, cases)
    if grown:
        plots.insert(0, grown)
        words.append(_GROWTH)
        keys += [_DASHED] * any(case["batch"].value != cases[0]["batch"].value for case in cases)
    if any(result_of(case, one.name)["ratio"].there for case in cases for one in members):
        plots.append(_ratios(name, members, cases))
        words.append(_RATIO)
        keys.append(_HOLLOW)
    figure = panels(plots, " ".join(words), keys, look="beside" if len(plots) == 3 else "")
    return join([element("h3", name), figure, latency_table(name, members, cases, opened=alone)])


def _title(case: Node) -> str:
    return case_text(case) + (" (see warnings)" if case["conditions"]["flags"].value else "")


def _times(name: str, members: Sequence[Contender], cases: Sequence[Node]) -> Html:
    groups = [Group(_title(case), [_time(one, result_of(case, one.name)) for one in members]) for case in cases]
    described = f"Median and 90th percentile of the latency of {len(members)} contenders in {len(cases)} cases."
    return RowPlot("Time of a call, ms", f"Latency of {name}", described, groups, own_axes=True).draw()


def _time(one: Contender, result: Node) -> Row:
    p50, p90 = result["p50_ms"], result["p90_ms"].number
    if p50.number is None:
        why = result["error"].text or one.node["error"].text or "not measured"
        return Row(_label(one), p50, "error" if result["error"].there else "—", f"{one.name}: {why}", one.marker)
    tip = f"{one.name}: p50 {plain(p50.number)} ms" + (f", p90 {plain(p90)} ms" if p90 is not None else "")
    return Row(_label(one), p50, plain(p50.number), tip, one.marker, high=p90)


def _ratios(name: str, members: Sequence[Contender], cases: Sequence[Node]) -> Html:
    groups = [Group(_title(case), [_ratio(one, result_of(case, one.name)) for one in members]) for case in cases]
    ratios = [result_of(case, one.name)["ratio"] for case in cases for one in members]
    base = by_name(members).get(next((ratio["to"].text for ratio in ratios if ratio.there), ""), members[0])
    described = f"Time of each contender of {name} over that of {base.name}, with confidence intervals."
    title = f"Time over that of {base.number} {base.short}; left of 1 is faster"
    return RowPlot(title, f"Ratios of {name}", described, groups, log=True, base=1.0).draw()


def _ratio(one: Contender, result: Node) -> Row:
    ratio = result["ratio"]
    median = ratio["median"]
    if median.number is None:
        return Row(_label(one), median, "1" if result["p50_ms"].there else "—", one.name, one.marker)
    low, high, verdict = ratio["low"].number, ratio["high"].number, ratio["verdict"].text
    interval = f" ({plain(low)} to {plain(high)})" if low is not None and high is not None else ""
    tip = f"{one.name}: {plain(median.number)} times the time of {ratio['to'].text}{interval}, {verdict}"
    differs = verdict in ("slower", "faster")
    told = f"{_short(median.number)} {verdict}" if differs else _short(median.number)
    return Row(_label(one), median, told, tip, one.marker, low=low, high=high, hollow=not differs)


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if 0.1 <= ratio < 1000 else f"{ratio:.2g}"


def _label(one: Contender) -> str:
    return f"{one.number} {one.short}"
