"""What was compared: every contender and artifact, with the number and marker that stand for it."""

from __future__ import annotations

from collections.abc import Iterator

from rest_deploy.reporting.contender import Contender, networks
from rest_deploy.reporting.markup import Html, element
from rest_deploy.reporting.matching import match
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import count, mebibytes, number
from rest_deploy.reporting.records import Records
from rest_deploy.reporting.table import Column, Rows, numbers, table, texts

_COLUMNS = [
    *texts("name", "what it is", "format", "precision", "device"),
    *numbers("threads", "file, MiB"),
    *texts("SHA-256", "verified"),
]


def compared(records: Records) -> Html:
    """A table of all that was compared."""
    notes = [text for text in map(_note, _errors(records)) if text]
    return table("Contenders and artifacts", _columns(records), _groups(records), notes)


def _columns(records: Records) -> list[Column]:
    return _COLUMNS if records.verification.there else _COLUMNS[:-1]


def _groups(records: Records) -> Iterator[Rows]:
    seen = set()
    groups = networks(records.contenders)
    for network, members in groups.items():
        rows = []
        for one in members:
            found = match(one.node, records.verification)
            seen.add(found.artifact.key)
            rows.append([one.label(), *_common(one.node, one.node["threads"]), found.words])
        yield Rows(rows, network if len(groups) > 1 else "")
    rest = [node for node in records.verification["artifacts"] if node.key not in seen]
    if rest:
        yield Rows([_verified(node) for node in rest], "Verified, not measured" if groups else "")


def _verified(artifact: Node) -> list[str]:
    words = "passed" if artifact["passed"].value else "failed"
    name = element("span", artifact["name"].text, class_="id")
    return [name, *_common(artifact, artifact["threads"]), words]


def _common(node: Node, threads: Node) -> list[str]:
    kind = node["kind"].text or "artifact"
    what = ": ".join(filter(None, (kind * (kind != "artifact"), node["description"].text))) or kind
    sha = node["sha256"].text
    short = element("code", sha[:12], title=sha) if sha else element("span", "—", class_="none")
    told = [node[name].text or "—" for name in ("format", "precision", "device")]
    return [what, *told, number(threads, count), number(node["bytes"], mebibytes), short]


def _errors(records: Records) -> Iterator[tuple[Contender, str]]:
    return ((one, one.node["error"].text) for one in records.contenders if one.node["error"].there)


def _note(error: tuple[Contender, str]) -> str:
    return f"{error[0].number} {error[0].name} was not measured: {error[1]}"
