"""All figures of a network's latency."""

from __future__ import annotations

from collections.abc import Sequence

from rest_deploy.reporting.contender import Contender
from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import Form, case_label, count, interval, number, plain, rate
from rest_deploy.reporting.records import result_of
from rest_deploy.reporting.table import Cells, Rows, Wide, folded, numbers, table, texts

_TIMES = {"p50_ms": "p50, ms", "p90_ms": "p90, ms", "p99_ms": "p99, ms", "mean_ms": "mean, ms"}
_GPU = {
    "host_to_host_ms": "host to host, ms",
    "compute_ms": "compute, ms",
    "copy_in_ms": "copy in, ms",
    "copy_out_ms": "copy out, ms",
    "enqueue_ms": "enqueue, ms",
    "calls": "calls",
}
_WORK: dict[str, tuple[str, Form]] = {
    "calls": ("calls", count),
    "images_per_second": ("images/s", plain),
    "gflops": ("GFLOP/s", plain),
    "share_of_machine": ("of the machine", rate),
}
_COLUMNS = [
    *texts("contender"),
    *numbers(*_TIMES.values(), "ratio", "interval"),
    *texts("verdict"),
    *numbers(*(head for head, _ in _WORK.values())),
]


def latency_table(network: str, members: Sequence[Contender], cases: Sequence[Node], *, opened: bool) -> Html:
    """A table with a group of rows for each case, and one of where the time on a GPU goes, where there is any.

    Args:
        network: That the contenders compute.
        members: The contenders.
        cases: In the order of the plots.
        opened: Whether it is shown at once.
    """
    results = [result_of(case, one.name) for case in cases for one in members]
    groups = [Rows([_row(one, result_of(case, one.name)) for one in members], _title(case)) for case in cases]
    drawn = table(f"Latency of {network}", _COLUMNS, groups, _notes(results))
    gpu = _gpu_table(network, members, cases)
    return folded(f"All figures of {network}: {len(results)} results", drawn, gpu, opened=opened)


def _gpu_table(network: str, members: Sequence[Contender], cases: Sequence[Node]) -> Html:
    groups = []
    for case in cases:
        found = [(one, result_of(case, one.name)["gpu"]) for one in members]
        rows = [
            [one.label(), *(number(gpu[name], count if name == "calls" else plain) for name in _GPU)]
            for one, gpu in found
            if gpu.there
        ]
        groups += [Rows(rows, _title(case))] if rows else []
    if not groups:
        return NOTHING
    return table(f"Where the time on the GPU goes: {network}", [*texts("contender"), *numbers(*_GPU.values())], groups)


def _row(one: Contender, result: Node) -> Cells:
    if result["error"].there or result["p50_ms"].number is None:
        why = result["error"].text or one.node["error"].text or "not measured"
        return [one.label(), Wide(element("span", why, class_="bad"))]
    times = [number(result[name]) for name in _TIMES]
    return [one.label(), *times, *_ratio(result), *(number(result[name], form) for name, (_, form) in _WORK.items())]


def _ratio(result: Node) -> list[str]:
    ratio = result["ratio"]
    if not ratio.there:
        return ["1", "—", "—"]
    return [number(ratio["median"]), interval(ratio["low"], ratio["high"]), ratio["verdict"].text or "—"]


def _title(case: Node) -> Html:
    warned = element("span", " see warnings", class_="warn") if case["conditions"]["flags"].value else ""
    return join([case_label(case), ": ", number(case["rounds"], count), " rounds", warned])


def _notes(results: Sequence[Node]) -> list[str]:
    notes = []
    shares = sorted({result["ratio"]["confidence"].number or 0.0 for result in results if result["ratio"].there})
    if shares:
        told = ", ".join(f"{100 * share:g}%" for share in shares)
        names = ", ".join(sorted({result["ratio"]["to"].text for result in results if result["ratio"].there}))
        notes.append(f"Ratio: time over that of {names}; interval of {told} confidence.")
    measured = [result for result in results if result["p50_ms"].there]
    if any(result["p90_ms"].number is None or result["p99_ms"].number is None for result in measured):
        notes.append("— at p90 or p99: too few calls to tell that percentile.")
    if any(result["share_of_machine"].there for result in measured):
        notes.append("Of the machine: of the largest float32 matrix-product rate found on it (How it was made).")
    return notes
