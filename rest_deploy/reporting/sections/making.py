"""How the records were made: commands, settings, machine and packages."""

from __future__ import annotations

from collections.abc import Iterator

from rest_deploy.reporting.markup import Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import Form, count, exact, number, plain
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.table import Cells, Rows, table, texts

_ABSENT = "—"
_WORDS = {
    "created": "created",
    "os": "operating system",
    "python": "Python",
    "cpu": "processor",
    "governor": "governor",
    "gpus_note": "GPUs",
}
_NUMBERS: dict[str, tuple[str, Form]] = {
    "logical_cpus": ("logical processors", count),
    "physical_cores": ("cores", count),
    "cpu_quota": ("quota, in cores", plain),
    "memory_mib": ("memory, MiB", count),
}
_GPU_WORDS = {
    "name": "name",
    "driver": "driver",
    "compute_capability": "compute capability",
    "throttle_reasons": "throttle reasons",
}
_GPU: dict[str, tuple[str, Form]] = {
    "memory_mib": ("memory, MiB", count),
    "sm_clock_mhz": ("SM clock, MHz", count),
    "max_sm_clock_mhz": ("largest SM clock, MHz", count),
    "memory_clock_mhz": ("memory clock, MHz", count),
    "temperature_c": ("temperature, °C", plain),
    "power_w": ("power, W", plain),
}


def making(records: Records) -> Html:
    """Commands, settings and environments."""
    environments = records.environments
    commands = [
        _command(what, environment["command"].text)
        for what, environment in environments
        if environment["command"].there
    ]
    nodes = [environment for _, environment in environments]
    groups = [Rows(_settings(records), "Settings"), Rows(list(_machine(nodes)), "Machine"), *_gpus(nodes)]
    groups += [*_named(nodes, "packages"), *_named(nodes, "variables")]
    columns = texts("", *(what for what, _ in environments))
    return join([*commands, table("Settings and environment", columns, groups)])


def _command(what: str, command: str) -> Html:
    return join([element("p", f"{what.capitalize()} with", class_="note"), element("pre", element("code", command))])


def _settings(records: Records) -> list[Cells]:
    """Settings of each record, and the rate that shares of the machine are formed with."""
    verification, benchmark = records.verification, records.benchmark
    chosen = [Node({"seed": verification["seed"].value}, verification.key)] if verification.there else []
    chosen += [benchmark["settings"]] if benchmark.there else []
    rows = _compared(chosen)
    if benchmark["machine"].there:
        rows.append(["largest float32 matrix product", *["" for _ in chosen[1:]], _rate(benchmark["machine"])])
    return rows


def _rate(machine: Node) -> Html:
    by = f" by {machine['by'].text}" if machine["by"].there else ""
    threads = join([" on ", number(machine["threads"], count), " threads"]) if machine["threads"].there else ""
    return join([number(machine["gflops"]), " GFLOP/s", by, threads])


def _compared(nodes: list[Node]) -> list[Cells]:
    """A row for each name that any of some objects has."""
    names = dict.fromkeys(name for node in nodes for name, _ in node.entries())
    return [[name.replace("_", " "), *(_value(node, name) for node in nodes)] for name in names]


def _value(node: Node, name: str) -> str:
    """A value, words or a number; one that is null was left to its default, one that is missing is not asked for."""
    found = node[name]
    if found.number is not None:
        return number(found, exact)
    return found.text or ("default" if any(name == own for own, _ in node.entries()) else "")


def _machine(nodes: list[Node]) -> Iterator[Cells]:
    """Rows of what any of the machines tells."""
    for name, words in _WORDS.items():
        if any(node[name].there for node in nodes):
            yield [words, *(node[name].text or _ABSENT for node in nodes)]
    for name, (words, form) in _NUMBERS.items():
        if any(node[name].there for node in nodes):
            yield [words, *(number(node[name], form) for node in nodes)]
    yield ["bound to processors", *(_several(node["affinity"]) for node in nodes)]
    yield ["clocks, MHz", *(_several(node["clocks_mhz"]) for node in nodes)]


def _several(node: Node) -> str:
    return join([number(one, count) for one in node], ", ") or _ABSENT


def _gpus(nodes: list[Node]) -> list[Rows]:
    of_each = [list(node["gpus"]) for node in nodes]
    groups = []
    for index in range(max(map(len, of_each), default=0)):
        found = [own[index] if index < len(own) else Node(None, "") for own in of_each]
        rows: list[Cells] = [
            [words, *(gpu[name].text or _ABSENT for gpu in found)] for name, words in _GPU_WORDS.items()
        ]
        rows += [[words, *(number(gpu[name], form) for gpu in found)] for name, (words, form) in _GPU.items()]
        groups.append(Rows(rows, f"GPU {index}"))
    return groups


def _named(nodes: list[Node], what: str) -> list[Rows]:
    names = dict.fromkeys(name for node in nodes for name, _ in node[what].entries())
    rows: list[Cells] = [[name, *(node[what][name].text or _ABSENT for node in nodes)] for name in names]
    return [Rows(rows, what.capitalize())] if rows else []
