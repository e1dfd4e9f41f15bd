"""The contenders of a benchmark, each with the number, short name and marker that it has all over the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rest_deploy.reporting.markup import Html, element, join, visible
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.marker import Marker


@dataclass(frozen=True)
class Contender:
    """A contender.

    Args:
        number: Counted from 1, as the record lists them.
        node: What the record says of it.
        short: Its name without the network's, where that tells it from the others.
        marker: What it looks like; those of one network differ.
    """

    number: int
    node: Node
    short: str
    marker: Marker

    @property
    def name(self) -> str:
        """Its whole name."""
        return self.node["name"].text

    @property
    def network(self) -> str:
        """What it computes."""
        return self.node["network"].text

    def label(self) -> Html:
        """Marker, number and name, for a table."""
        number = element("span", self.marker.key(), str(self.number), class_="no")
        return join([number, Html("&nbsp;"), element("span", self.name, class_="id")])


def contenders(benchmark: Node) -> list[Contender]:
    """All contenders, in the order of the record."""
    made: list[Contender] = []
    nodes = list(benchmark["contenders"])
    short = short_names([(node["name"].text, node["network"].text) for node in nodes])
    for number, (node, name) in enumerate(zip(nodes, short, strict=True), start=1):
        before = sum(other.network == node["network"].text for other in made)
        made.append(Contender(number, node, name, Marker(before)))
    return made


def by_name(known: Sequence[Contender]) -> Mapping[str, Contender]:
    """Contenders under the names by which results call them."""
    return {contender.name: contender for contender in known}


def networks(known: Sequence[Contender]) -> dict[str, list[Contender]]:
    """Contenders of each network."""
    groups: dict[str, list[Contender]] = {}
    for contender in known:
        groups.setdefault(contender.network, []).append(contender)
    return groups


def short_names(names: Sequence[tuple[str, str]]) -> list[str]:
    """Names without the network's in front; whole ones where two of a network would be alike.

    Args:
        names: Name and network of each.
    """
    short = [_without(visible(name), visible(network)) for name, network in names]
    keys = [(name, network) for name, (_, network) in zip(short, names, strict=True)]
    return [
        name if keys.count(key) == 1 else visible(whole)
        for name, key, (whole, _) in zip(short, keys, names, strict=True)
    ]


def _without(name: str, network: str) -> str:
    rest = name.removeprefix(network).lstrip("_-. ") if network else name
    return rest or name
