"""Which artifact of the verification a contender of the benchmark is: the same content, not the same name."""

from __future__ import annotations

from dataclasses import dataclass

from rest_deploy.reporting.node import Node


@dataclass(frozen=True)
class Match:
    """What the verification says of a contender.

    Args:
        artifact: Its figures; a node of None where it has none.
        words: In a few words, for a table.
        is_reference: Whether it is what the artifacts were compared with.
    """

    artifact: Node
    words: str
    is_reference: bool = False


def match(contender: Node, verification: Node) -> Match:
    """Find a contender among what was verified.

    By SHA-256 of its file; by name only where the benchmark has no SHA-256 of it. Of several that are one file, the one
    on the contender's device.
    """
    alike = [artifact for artifact in verification["artifacts"] if _same(contender, artifact)]
    alike.sort(key=lambda artifact: artifact["device"].text != contender["device"].text)
    if alike:
        return Match(alike[0], "passed" if alike[0]["passed"].value else "failed")
    nothing = Node(None, verification.key)
    if verification["reference"].there and _same(contender, verification["reference"]):
        return Match(nothing, "is the reference", is_reference=True)
    named = any(artifact["name"].text == contender["name"].text for artifact in verification["artifacts"])
    return Match(nothing, "not verified: other SHA-256 than that name's" if named else "not verified")


def _same(contender: Node, verified: Node) -> bool:
    if contender["sha256"].there:
        return contender["sha256"].text == verified["sha256"].text
    return contender["name"].text == verified["name"].text
