"""The head of the report: what was compared, what came of it, when and where."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from rest_deploy.reporting.contender import Contender, networks
from rest_deploy.reporting.markup import Html, element, join
from rest_deploy.reporting.matching import match
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import case_label, count, number
from rest_deploy.reporting.records import Records, of_each_size, result_of
from rest_deploy.reporting.sections.verdict import verdict


def title(records: Records) -> str:
    """Of the page."""
    done = [what for what, of in (("verification", records.verification), ("benchmark", records.benchmark)) if of.there]
    return f"{_subject(records)}: {' and '.join(done)}"


def heading(records: Records) -> Html:
    """The head."""
    facts = [join([element("dt", name), element("dd", what)]) for name, what in _facts(records) if what]
    return element("header", element("h1", title(records)), verdict(records), element("dl", *facts, class_="facts"))


def moment(environment: Node) -> str:
    """When a record was made, to the minute; as the record has it where that is no time."""
    try:
        made = datetime.datetime.fromisoformat(environment["created"].text)
    except ValueError:
        return environment["created"].text
    if made.tzinfo is None:
        return f"{made:%Y-%m-%d %H:%M}"
    return f"{made.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def _subject(records: Records) -> str:
    reference = records.verification["reference"]
    names = [reference["model"].text or reference["name"].text] if records.verification.there else []
    names += [name for name in networks(records.contenders) if name not in names]
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more networks"


def _facts(records: Records) -> Iterator[tuple[str, str]]:
    verification, benchmark = records.verification, records.benchmark
    if verification.there:
        reference = verification["reference"]
        told = [reference[name].text for name in ("format", "precision", "computed")]
        yield "Reference", f"{reference['name'].text} ({', '.join(filter(None, told))})"
        yield "Verified", f"{len(list(verification['artifacts']))} artifacts, seed {verification['seed'].text or '—'}"
        yield "Images", _images(verification["data"])
    if benchmark.there:
        cases = len(list(benchmark["cases"]))
        yield "Measured", f"{len(records.contenders)} contenders in {cases} cases"
    yield "Fastest that passed", _fastest(records)
    yield "Machine", _machines(records)
    yield "Made", "; ".join(f"{what} {moment(environment)}" for what, environment in records.environments)


def _images(data: Node) -> str:
    if not data.there:
        return "none: noise only"
    labelled = "with labels" if data["labelled"].value else "without labels"
    skipped = len(list(data["skipped"]))
    left = f"; {skipped} skipped" if skipped else ""
    return join([number(data["images"], count), f" of {data['folder'].text}, {labelled}{left}"])


def _fastest(records: Records) -> Html:
    """For each size, the quickest contender that was verified and passed."""
    passed = [one for one in records.contenders if match(one.node, records.verification).words == "passed"]
    found = []
    for case in of_each_size(records.benchmark["cases"]):
        times = [(p50, one) for one in passed if (p50 := _p50(case, one)).number is not None]
        if times:
            p50, one = min(times, key=lambda time: time[0].number or 0.0)
            found.append(element("div", case_label(case), ": ", one.label(), " ", number(p50), " ms"))
    return join(found)


def _p50(case: Node, contender: Contender) -> Node:
    return result_of(case, contender.name)["p50_ms"]


def _machines(records: Records) -> str:
    told = {what: _machine(environment) for what, environment in records.environments}
    if len({machine[0] for machine in told.values()}) == 1:
        return next(iter(told.values()))[1]
    return join([join([f"{what} on ", machine[1]]) for what, machine in told.items()], "; ")


def _machine(environment: Node) -> tuple[str, Html]:
    """A machine, to compare it with another, and to show it."""
    gpus = "".join(f", {gpu['name'].text or 'GPU'}" for gpu in environment["gpus"])
    cpu = environment["cpu"].text or "unknown processor"
    cores = environment["physical_cores"]
    told = join([cpu, ", ", number(cores, count), f" cores{gpus}" if cores.value != 1 else f" core{gpus}"])
    return f"{cpu} {cores.text}{gpus}", told
