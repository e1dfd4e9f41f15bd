"""How near to its reference an artifact is, as one figure to set against its latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rest_deploy.reporting.markup import Html
from rest_deploy.reporting.matching import Match
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.axis import Axis, axis, close_axis, tick_text
from rest_deploy.reporting.quantity import deviation, number, percent


@dataclass(frozen=True)
class Reading:
    """One figure.

    Args:
        value: As it is drawn.
        shown: As it is told in a table.
        where: On what it was measured.
    """

    value: float
    shown: Html
    where: str


@dataclass(frozen=True)
class Measure:
    """A kind of figure.

    Args:
        title: Of its axis.
        head: Of its column in a table.
        more_is_better: Whether it is a share that agrees, and not an error.
        read: What was verified of a contender, and the case whose latency it is set against -> the figure, or None.
    """

    title: str
    head: str
    more_is_better: bool
    read: Callable[[Match, Node], Reading | None]

    def gain(self, reading: Reading) -> float:
        """What is better where it is more."""
        return reading.value if self.more_is_better else -reading.value

    def scale(self, values: Sequence[float]) -> Callable[[float, float], Axis]:
        """The vertical axis, given the positions of its bottom and its top; what is better is higher."""
        if self.more_is_better:
            return lambda bottom, top: close_axis(values, bottom, top, least=0.004, most=1.0)
        return lambda bottom, top: axis(values, top, bottom, log=True)

    def told(self, values: Sequence[float]) -> list[str]:
        """Values in words, with as many digits as all of them need."""
        if not self.more_is_better:
            return [tick_text(value) for value in values]
        digits = max((len(f"{100 * value:.5g}".partition(".")[2]) for value in values), default=0)
        return [f"{100 * value:.{digits}f}%" for value in values]


def choose(verification: Node, reference: Node) -> Measure:
    """The strongest figure that there is: accuracy where images had labels, else agreement, else the error.

    Args:
        verification: The record.
        reference: Accuracy of the reference: ``verification.data.reference``.
    """
    images = [image for artifact in verification["artifacts"] for image in artifact["images"]]
    if any(image["top1_accuracy"].there for image in images):
        return Measure("top-1 accuracy; more is better", "top-1 accuracy", True, _accuracy(list(reference)))
    if any(image["top1_agreement"].there for image in images):
        title = "top-1 agreement with the reference; more is better"
        return Measure(title, "top-1 agreement", True, _agreement)
    title = "largest error in std of the logits, log; higher is better"
    return Measure(title, "largest error, std of the logits", False, _error)


def _accuracy(reference: Sequence[Node]) -> Callable[[Match, Node], Reading | None]:
    def read(match: Match, case: Node) -> Reading | None:
        rows = reference if match.is_reference else list(match.artifact["images"])
        return _share(_at_size(rows, case), "top1_accuracy")

    return read


def _agreement(match: Match, case: Node) -> Reading | None:
    return _share(_at_size(list(match.artifact["images"]), case), "top1_agreement")


def _share(image: Node | None, name: str) -> Reading | None:
    if image is None or image[name].number is None:
        return None
    size = image["size"].text
    where = f"images of {size}" if size else "images as the transform gives them"
    return Reading(image[name].number or 0.0, number(image[name], percent), where)


def _at_size(rows: Sequence[Node], case: Node) -> Node | None:
    """The row of a case's own size, else of the size that the transform gives, else the first."""
    own = f"{case['height'].text}x{case['width'].text}"
    for size in (own, ""):
        found = [row for row in rows if row["size"].text == size]
        if found:
            return found[0]
    return rows[0] if rows else None


def _error(match: Match, case: Node) -> Reading | None:
    """Of the synthetic case of the same size, the same batch preferred; else of the worst one."""
    known = [(error, row) for row in match.artifact["synthetic"] if (error := relative_error(row)) is not None]
    size = [(error, row) for error, row in known if _size(row) == _size(case)]
    same = [(error, row) for error, row in size if row["batch"].value == case["batch"].value]
    found = max(same or size or known, default=None, key=lambda one: one[0])
    if found is None:
        return None
    where = f"noise of {found[1]['height'].text}×{found[1]['width'].text}" + ("" if size else ", the worst case")
    return Reading(found[0], Html(deviation(found[0])), where)


def relative_error(row: Node) -> float | None:
    """Largest error in standard deviations of the reference's logits."""
    error, spread = row["max_error"].number, row["logit_std"].number
    return error / spread if error is not None and spread else None


def _size(row: Node) -> tuple[object, object]:
    return row["height"].value, row["width"].value
