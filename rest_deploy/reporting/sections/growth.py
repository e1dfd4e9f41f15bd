"""How the latency of a network's contenders grows with the size of an image, at the smallest and the largest batch."""

from __future__ import annotations

from collections.abc import Sequence

from rest_deploy.reporting.contender import Contender
from rest_deploy.reporting.markup import NOTHING, Html
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.trend import Line, Stop, Trend
from rest_deploy.reporting.quantity import case_text, plain
from rest_deploy.reporting.records import result_of


def growth(name: str, members: Sequence[Contender], cases: Sequence[Node]) -> Html:
    """A plot of lines; nothing where there is one size only."""
    batches = sorted({case["batch"].value for case in cases})
    ends = dict.fromkeys((batches[0], batches[-1])) if batches else {}
    lines = [_line(one, cases, batch, dashed=batch != batches[0]) for batch in ends for one in members]
    lines = [line for line in lines if line.stops]
    if len({stop.pixels for line in lines for stop in line.stops}) < 2:
        return NOTHING
    described = f"Milliseconds per image of {len(members)} contenders of {name} over sizes, at batch {batches[0]}"
    described += f" and, dashed, {batches[-1]}." if len(ends) > 1 else "."
    return Trend("Time per image, ms", f"Growth of {name}", described, lines).draw()


def _line(one: Contender, cases: Sequence[Node], batch: int, *, dashed: bool) -> Line:
    of_batch = [case for case in cases if case["batch"].value == batch]
    stops = [stop for case in of_batch if (stop := _stop(one, case)) is not None]
    return Line(one.number, one.marker, stops, dashed)


def _stop(one: Contender, case: Node) -> Stop | None:
    p50 = result_of(case, one.name)["p50_ms"]
    if p50.number is None:
        return None
    height, width = case["height"].value, case["width"].value
    value = p50.number / max(1, case["batch"].value)
    tip = f"{one.name}, {case_text(case)}: {plain(value)} ms per image"
    return Stop(height * width, f"{height}×{width}", value, p50, tip)
