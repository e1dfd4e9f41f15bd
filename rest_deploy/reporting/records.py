"""What a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rest_deploy.reporting.contender import Contender, contenders
from rest_deploy.reporting.node import Node


@dataclass(frozen=True)
class Records:
    """The records; one of them may be a node of None.

    Args:
        verification: Of rest-verify.
        benchmark: Of rest-bench.
        contenders: Of the benchmark.
    """

    verification: Node
    benchmark: Node
    contenders: tuple[Contender, ...]

    @classmethod
    def of(cls, verification: Mapping[str, Any] | None, benchmark: Mapping[str, Any] | None) -> Records:
        """Records as JSON has them, checked before."""
        measured = Node(benchmark, "benchmark")
        return cls(Node(verification, "verification"), measured, tuple(contenders(measured)))

    @property
    def environments(self) -> list[tuple[str, Node]]:
        """What each record was made on, and what for."""
        known = (("verified", self.verification), ("measured", self.benchmark))
        return [(what, record["environment"]) for what, record in known if record.there]


def area(case: Node) -> tuple[int, int]:
    """Order of cases: by pixels, then by batch."""
    return case["height"].value * case["width"].value, case["batch"].value


def of_each_size(cases: Node) -> list[Node]:
    """For each size, the case of its smallest batch."""
    smallest: dict[tuple[int, int], Node] = {}
    for case in sorted(cases, key=area):
        smallest.setdefault((case["height"].value, case["width"].value), case)
    return list(smallest.values())


def result_of(case: Node, name: str) -> Node:
    """The result of a contender in a case; a node of None where there is none."""
    return next((result for result in case["results"] if result["contender"].text == name), Node(None, case.key))
