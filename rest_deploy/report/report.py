"""The report: the records in, one HTML file out. What the page says is in the template, what it draws is chosen here."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from rest_deploy.errors import ConfigError
from rest_deploy.preprocess.thumbnail import thumbnail
from rest_deploy.report.charts import Line, Look, Row, Stop, plane, rows
from rest_deploy.report.fields import BENCHMARK, SHAPES, VERIFICATION, Node, check_record, plain, visible

_LARGEST = 512  # pixels of a side of a picture that is shown; those of rest-verify have 128
_ERRORS = {"max_error": "max error", "rms_error": "rms error"}  # that a limit may be meant of


def render(verification: Mapping[str, Any] | None, benchmark: Mapping[str, Any] | None) -> str:
    """The report as HTML that loads nothing and runs nothing.

    Raises:
        ConfigError: There is neither record.
        ArtifactError: One of them is no such record.
    """
    if verification is None and benchmark is None:
        raise ConfigError("a report needs a record; got neither; give one of rest-verify, one of rest-bench, or both")
    if verification is not None:
        check_record(verification, (VERIFICATION,))
    if benchmark is not None:
        check_record(benchmark, (BENCHMARK,))

    def seen(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = {"node": Node, "contender": Contender, "derived": Derived}
    environment.tests |= {name: lambda one, kind=kind: isinstance(one, kind) for name, kind in kinds.items()}
    environment.tests["numeric"] = lambda one: isinstance(one, Derived) or (isinstance(one, Node) and one.number is not None)
    environment.filters |= {"present_in": present_in, "class_name": class_name}
    environment.globals |= {"picture": picture, "moment": moment, "judged_by": judged_by, "over": over, "words": words}
    style = (folder / "style.css").read_text(encoding="utf-8")
    template = environment.get_template("template.html.j2")
    page = template.render(r=Records(verification, benchmark), style=Markup(style))  # noqa: S704  # our own
    return page.lstrip()


@dataclass(frozen=True)
class Contender:
    """A contender of the benchmark, with the number, short name and marker that it has all over the report."""

    number: int
    node: Node
    short: str
    look: Look

    @property
    def name(self) -> str:
        """Its whole name."""
        return self.node["name"].text

    @property
    def label(self) -> str:
        """What charts call it."""
        return f"{self.number} {self.short}"


@dataclass(frozen=True)
class Derived:
    """A number that is formed from numbers of the record: their paths say how."""

    number: float
    shown: str
    tip: str


@dataclass(frozen=True)
class Reading:
    """How near to the reference a contender is in one case, as one figure to set against its latency.

    Args:
        contender: Which.
        result: What it took.
        words: What was verified of it.
        figure: The figure; None where there is none.
        where: On what it was measured.
        best: Whether no other one is both faster and better; None where it does not compete.
    """

    contender: Contender
    result: Node
    words: str
    figure: Node | Derived | None
    where: str
    best: bool | None = None

    @property
    def drawn(self) -> bool:
        """Whether it has a place in a chart."""
        return self.figure is not None and self.figure.number is not None and self.result["p50_ms"].number is not None


class Records:
    """What a report is made from, and what is drawn of it; one of the records may be a node of None."""

    def __init__(self, verification: Mapping[str, Any] | None, benchmark: Mapping[str, Any] | None) -> None:
        self.verification = Node(verification, "verification", SHAPES[VERIFICATION])
        self.benchmark = Node(benchmark, "benchmark", SHAPES[BENCHMARK])
        self.artifacts, self.reference = list(self.verification["artifacts"]), self.verification["reference"]
        self.cases = sorted(self.benchmark["cases"], key=_area)
        self.contenders: list[Contender] = []
        #: Network -> its contenders.
        self.networks: dict[str, list[Contender]] = {}
        nodes = list(self.benchmark["contenders"])
        for number, (node, short) in enumerate(zip(nodes, short_names(nodes), strict=True), start=1):
            members = self.networks.setdefault(node["network"].text, [])
            members.append(Contender(number, node, short, Look(len(members))))
            self.contenders.append(members[-1])
        known = (("verified", self.verification), ("measured", self.benchmark))
        #: What each record was made for, and on what.
        self.environments = {what: record["environment"] for what, record in known if record}

    def result(self, case: Node, one: Contender) -> Node:
        """What a contender took in a case; a node of None where it was not there."""
        found = (result for result in case["results"] if result["contender"].text == one.name)
        return next(found, case["results"].absent())

    def match(self, one: Contender) -> tuple[Node | None, str]:
        """What was verified of a contender, and the verdict in words.

        By SHA-256 of its file; by name only where the benchmark has no SHA-256 of it. Of several that are one file, the
        one on the contender's device.
        """
        by = "sha256" if one.node["sha256"] else "name"
        alike = [artifact for artifact in self.artifacts if artifact[by].text == one.node[by].text]
        alike.sort(key=lambda artifact: artifact["device"].text != one.node["device"].text)
        if alike:
            return alike[0], "passed" if alike[0]["passed"].value else "FAILED"
        if self.reference and self.reference[by].text == one.node[by].text:
            return None, "is the reference"
        named = any(artifact["name"].text == one.name for artifact in self.artifacts)
        return None, "not verified: the file of that name has another SHA-256" if named else "not verified"

    @cached_property
    def measure(self) -> str:
        """The strongest figure that there is: accuracy where classes are known, else agreement, else the error."""
        images = [image for artifact in self.artifacts for image in artifact["images"]]
        for name in ("top1_accuracy", "top1_agreement"):
            if any(image[name] for image in images):
                return name
        return "max_error"

    @cached_property
    def sizes(self) -> list[Node]:
        """For each size, the case of its smallest batch."""
        smallest: dict[tuple[int, int], Node] = {}
        for case in self.cases:
            smallest.setdefault((case["height"].value, case["width"].value), case)
        return list(smallest.values())

    def reading(self, case: Node, artifact: Node | None, *, own: bool = False) -> tuple[Node | Derived | None, str]:
        """The figure of an artifact, or of PyTorch as the reference, and on what it was measured.

        Args:
            case: Whose size is preferred to others.
            artifact: What was verified; None for the reference.
            own: Whether the error is that which PyTorch has itself in float32.
        """
        if self.measure == "max_error":
            error = "reference_error" if own else "max_error"
            rows = [row for row in (artifact["synthetic"] if artifact is not None else ()) if row[error] and row["logit_std"].number]
            size = [row for row in rows if _area(row)[0] == _area(case)[0] and row["height"].value == case["height"].value]
            same = [row for row in size if row["batch"].value == case["batch"].value]
            figures = [(over(row[error], row["logit_std"]), row) for row in same or size or rows]
            figure, row = max(figures, key=lambda one: one[0].number, default=(None, None))
            words = f"synthetic images of {row['height'].text}x{row['width'].text}" if row is not None else "—"
            return figure, words + ("" if size or row is None else ", the worst case")
        of = artifact["images"] if artifact is not None else self.verification["data"]["reference"]
        found = [row for row in of if self.measure == "top1_accuracy" or artifact is not None]
        wanted = f"{case['height'].text}x{case['width'].text}"
        found.sort(key=lambda row: (row["size"].text != wanted, bool(row["size"])))
        if not found or found[0][self.measure].number is None:
            return None, "—"
        return found[0][self.measure], f"images at {found[0]['size'].text or 'their own size'}"

    def readings(self, case: Node) -> list[Reading]:
        """Of all contenders that were verified, that are the reference, or that are PyTorch with the same network."""
        made = []
        verified = {one.number: self.match(one) for one in self.contenders}
        networks = {one.node["network"].text: found for one in self.contenders if (found := verified[one.number][0])}
        for one in self.contenders:
            (artifact, words), result = verified[one.number], self.result(case, one)
            kin = networks.get(one.node["network"].text)
            own = artifact is None and kin is not None and one.node["format"].text == "pytorch" and self.by_pytorch
            if not result or not (artifact is not None or own or words == "is the reference"):
                continue
            figure, where = self.reading(case, kin if own and self.measure == "max_error" else artifact, own=own)
            if own:
                words = "PyTorch's own"
            made.append(Reading(one, result, words, figure, where))
        fit = [one for one in made if one.drawn]
        points = [self._point(one) for one in fit]
        best = {id(one): on for one, on in zip(fit, on_frontier(points), strict=True)}
        return [replace(one, best=best.get(id(one))) for one in made]

    @property
    def left_out(self) -> dict[str, list[Contender]]:
        """Why contenders have no reading -> which."""
        shown = {one.contender.number for case in self.sizes for one in self.readings(case)}
        found: dict[str, list[Contender]] = {}
        for one in self.contenders:
            if one.number not in shown:
                found.setdefault(self.match(one)[1], []).append(one)
        return found

    def _point(self, reading: Reading) -> tuple[float, float]:
        """What it costs, and what is better where it is more."""
        assert reading.figure is not None
        value, cost = reading.figure.number, reading.result["p50_ms"].number
        assert value is not None
        assert cost is not None
        return cost, value if self.measure != "max_error" else -value

    @property
    def by_pytorch(self) -> bool:
        """Whether the reference is a checkpoint, which PyTorch runs."""
        return self.reference["format"].text == "pytorch"

    def tradeoff_charts(self, title: str) -> list[Markup]:
        """Accuracy against latency at each size."""
        return [chart for case in self.sizes if (chart := self._tradeoff_chart(case, title)) is not None]

    def _tradeoff_chart(self, case: Node, title: str) -> Markup | None:
        """Accuracy against latency in a case; None where nothing has both."""
        readings = [one for one in self.readings(case) if one.drawn]
        if not readings:
            return None
        share = self.measure != "max_error"
        lines, best = [], []
        for one in readings:
            cost, gain = self._point(one)
            look = replace(one.contender.look, hollow=not one.best)
            lines.append(Line(one.contender.label, look, [Stop(cost, abs(gain), one.result["p50_ms"])]))
            best += [(cost, abs(gain))] * bool(one.best)
        figure, _ = self.reading(case, None)
        level = None
        if figure is not None and figure.number is not None:
            who = "PyTorch's own" if self.by_pytorch else "the reference's own"
            level = (f"{who}: {figure.shown} ({self.reference['name'].text})", figure.number)
        described = f"{title} against the median latency of {len(lines)} contenders."
        return plane(f"{case_text(case)}: {title}", described, lines, share=share, frontier=sorted(best), level=level)

    def growth_chart(self, network: str) -> Markup | None:
        """Time per image over sizes, at the smallest batch and, dashed, at the largest; None of a single size."""
        batches = sorted({case["batch"].value for case in self.cases})
        lines = []
        for batch in dict.fromkeys((*batches[:1], *batches[-1:])):
            for one in self.networks[network]:
                stops = []
                for case in (case for case in self.cases if case["batch"].value == batch):
                    p50 = self.result(case, one)["p50_ms"]
                    if p50.number is not None:
                        stops.append(Stop(float(_area(case)[0]), p50.number / max(1, batch), p50))
                look = replace(one.look, hollow=batch != batches[0])
                label = one.label + (f", batch {batch}" if len(batches) > 1 else "")
                lines += [Line(label, look, stops, look.hollow)] if stops else []
        sizes = {float(_area(case)[0]): f"{case['height'].text}x{case['width'].text}" for case in self.cases}
        if len({stop.x for line in lines for stop in line.stops}) < 2:
            return None
        return plane("time per image, ms", f"Time per image of {network} over sizes.", lines, sizes=sizes)

    def times_chart(self, network: str) -> Markup:
        """p50 of each case, and up to p90."""
        def row(one: Contender, result: Node) -> Row:
            p50 = result["p50_ms"]
            told = p50.shown if p50 else "error" if result["error"] or one.node["error"] else "—"
            return Row(one.label, p50, told, one.look, high=result["p90_ms"].number)

        return rows("p50 ms, up to p90", f"Latency of {network}.", self._by_case(network, row))

    def ratios_chart(self, network: str) -> Markup | None:
        """Times over that of the contender that ratios are formed to; None where there are none."""
        def row(one: Contender, result: Node) -> Row:
            ratio = result["ratio"]
            same = ratio["verdict"].text not in ("slower", "faster")
            told = f"{ratio['median'].shown} {'' if same else ratio['verdict'].text}" if ratio["median"] else "—"
            ends = (ratio["low"].number, ratio["high"].number)
            return Row(one.label, ratio["median"], told, replace(one.look, hollow=same), *ends)

        base = self.compared_with(network)
        if not base:
            return None
        title = f"x {' or '.join(base)}; left of 1 is faster"
        return rows(title, f"Ratios of times of {network}.", self._by_case(network, row), base=1.0)

    def compared_with(self, network: str) -> list[str]:
        """Names of the contenders that ratios of a network are formed to."""
        results = [self.result(case, one) for case in self.cases for one in self.networks[network]]
        return list(dict.fromkeys(result["ratio"]["to"].text for result in results if result["ratio"]))

    def _by_case(self, network: str, row: Callable[[Contender, Node], Row]) -> list[tuple[str, list[Row]]]:
        return [
            (
                case_text(case) + " (see warnings)" * bool(case["conditions"]["flags"]),
                [row(one, self.result(case, one)) for one in self.networks[network]],
            )
            for case in self.cases
        ]

    @property
    def error_charts(self) -> list[Markup]:
        """Of each artifact the error of each case, beside what is allowed."""
        found = [(artifact["name"].text, sorted(artifact["synthetic"], key=_area)) for artifact in self.artifacts]
        return [error_chart(f"error of {name}", [(case_text(one), one) for one in rows]) for name, rows in found if rows]

    @property
    def block_charts(self) -> list[Markup]:
        """Of each artifact that was looked into the error of each block, beside what is allowed."""
        found = [(artifact["name"].text, list(artifact["blocks"]["rows"])) for artifact in self.artifacts]
        return [error_chart(f"{name} by block", [(one["block"].text, one) for one in rows]) for name, rows in found if rows]

    def results(self, network: str) -> list[Node]:
        """Of all contenders of a network in all cases."""
        return [self.result(case, one) for case in self.cases for one in self.networks[network]]

    @property
    def fastest(self) -> list[tuple[Node, Contender, Node]]:
        """For each size, the quickest contender that was verified and passed."""
        passed = [one for one in self.contenders if self.match(one)[1] == "passed"]
        made = []
        for case in self.sizes:
            times = [(p50.number, one, p50) for one in passed if (p50 := self.result(case, one)["p50_ms"])]
            made += [(case, one, p50) for _, one, p50 in sorted(times, key=lambda time: time[0] or 0.0)[:1]]
        return made

    @property
    def assumed(self) -> dict[str, list[str]]:
        """What nobody said when artifacts were made -> their names; comparing with the checkpoint cannot find it wrong."""
        found: dict[str, list[str]] = {}
        for artifact in self.artifacts:
            what = "; ".join(f"{name} {value.text}" for name, value in artifact["assumed"].entries())
            if what:
                found.setdefault(what, []).append(artifact["name"].text)
        return found

    @property
    def broken(self) -> list[str]:
        """Names of contenders that failed, as a whole or in a case."""
        errors = {result["contender"].text for case in self.cases for result in case["results"] if result["error"]}
        return [one.name for one in self.contenders if one.name in errors or one.node["error"]]

    @property
    def peaks(self) -> dict[str, str]:
        """Cases whose peak memory was measured -> head of their column."""
        return {case: f"peak MiB {case}" for one in self.contenders for case, _ in one.node["cold"]["peak_mib"].entries()}

    def every(self, artifacts: Sequence[Node], what: str) -> list[Node]:
        """Rows of one kind, of several artifacts."""
        return [row for artifact in artifacts for row in (artifact["blocks"]["rows"] if what == "blocks" else artifact[what])]

    @cached_property
    def by_class(self) -> dict[str, dict[str, dict[int, Node]]]:
        """Size -> who answers -> class -> how many of its images are answered rightly."""
        named = [(f"{self.reference['name'].text} (the reference)", row) for row in self.verification["data"]["reference"]]
        named += [(artifact["name"].text, row) for artifact in self.artifacts for row in artifact["images"]]
        found: dict[str, dict[str, dict[int, Node]]] = {}
        for name, row in named:
            if row["by_class"]:
                classes = {one["label"].value: one for one in row["by_class"]}
                found.setdefault(row["size"].text, {})[name] = classes
        return found

    @cached_property
    def class_names(self) -> dict[int, str]:
        """Class -> its name, as the artifacts have it."""
        rows = self.every(self.artifacts, "images")
        found = {one["label"].value: one["label_name"].text for row in rows for one in row["by_class"]}
        return found | {one["artifact"].value: one["artifact_name"].text for row in rows for one in row["confused"]}

    @property
    def confusions(self) -> list[tuple[Node, Node, list[int]]]:
        """Artifact, its figures at a size, and the classes that its images have and that it answers."""
        made = []
        for artifact in self.artifacts:
            for row in artifact["images"]:
                labels = {one["label"].value for one in row["by_class"]} | {one["artifact"].value for one in row["confused"]}
                made += [(artifact, row, sorted(labels))] if row["by_class"] else []
        return made

    def matrix(self, row: Node) -> dict[tuple[int, int], Node]:
        """(class, answer) -> how many images."""
        right = {(one["label"].value, one["label"].value): one["right"] for one in row["by_class"]}
        return right | {(one["label"].value, one["artifact"].value): one["images"] for one in row["confused"]}

    @property
    def pictures(self) -> list[tuple[Node, Node, list[Node]]]:
        """Artifact, its figures at a size, and the pictures that it answers wrongly, or not as the reference does."""
        made = []
        for artifact in self.artifacts:
            for row in artifact["images"]:
                shown = {one["image"].text: one for one in (*row["worst_flips"], *row["worst_wrong"])}
                order = dict.fromkeys(one["image"].text for one in (*row["worst_wrong"], *row["worst_flips"]))
                made += [(artifact, row, [shown[name] for name in order])] if shown else []
        return made

    @property
    def settings(self) -> list[tuple[str, list[Node | str]]]:
        """What was chosen, of each record."""
        own = [[("seed", self.verification["seed"])]] if self.verification else []
        own += [self.benchmark["settings"].entries()] if self.benchmark else []
        names = dict.fromkeys(name for entries in own for name, _ in entries)
        return [(name.replace("_", " "), [dict(entries).get(name, "") for entries in own]) for name in names]

    @property
    def most_gpus(self) -> int:
        """How many GPUs the machine with the most of them has."""
        return max((len(list(environment["gpus"])) for environment in self.environments.values()), default=0)

    def gpus(self, at: int) -> list[Node]:
        """A GPU of each machine."""
        found = [(list(one["gpus"]), one["gpus"].absent()) for one in self.environments.values()]
        return [own[at] if at < len(own) else none for own, none in found]

    def fields(self, nodes: Sequence[Node]) -> list[tuple[str, list[Node]]]:
        """Of several objects of one kind, all values that have a name in words."""
        names = [name for name in (nodes[0].names if nodes else []) if name != "command"]
        known = [(nodes[0][name].words, [node[name] for node in nodes]) for name in names]
        return [(words, values) for words, values in known if words and any(values)]

    def entries(self, nodes: Sequence[Node], what: str) -> list[tuple[str, list[Node]]]:
        """Of objects with any names, all values."""
        names = dict.fromkeys(name for node in nodes for name, _ in node[what].entries())
        return [(name, [node[what][name] for node in nodes]) for name in names]


def error_chart(title: str, named: Sequence[tuple[str, Node]]) -> Markup:
    """Errors with their limits, and with what float32 itself loses."""
    made = []
    for label, row in named:
        error, bad = row[judged_by(row)], row["passed"].value is False
        own = row["reference_error"].number if judged_by(row) == "max_error" else None
        told = f"{error.shown or 'not a number'}{' over' if bad else ''}"
        made.append(Row(label, error, told, Look(1 if bad else 0), limit=row["limit"].number, own=own))
    return rows(title, f"{title} in {len(made)} rows, with what is allowed.", [("", made)])


def present_in(nodes: Sequence[Node], names: Sequence[str]) -> list[str]:
    """Names that any of some objects has a value of."""
    return [name for name in names if any(node[name] for node in nodes)]


def words(node: Node, names: Sequence[str]) -> list[str]:
    """What values are called."""
    return [node[name].words for name in names]


def class_name(label: int, names: Mapping[int, str]) -> str:
    """A class by its name, if it has one, and its number."""
    name = names.get(label, "")
    return f"{name} ({label})" if name and name != str(label) else str(label)


def judged_by(row: Node) -> str:
    """Which error of a row has the limit; the largest where the record does not say."""
    named = row["judged_by"].text if "judged_by" in row.names else ""
    return named if named in _ERRORS else "max_error"


def over(one: Node, other: Node) -> Derived | None:
    """One number over another one."""
    if one.number is None or not other.number:
        return None
    return Derived(one.number / other.number, plain(one.number / other.number), f"{one.key} / {other.key}")


def on_frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, gain), whether no other one is as good in both and better in one; equal ones stand together."""
    return [not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def short_names(nodes: Sequence[Node]) -> list[str]:
    """Names of contenders without the network's in front; whole ones where two of a network would be alike."""
    short = []
    for node in nodes:
        name, network = node["name"].text, node["network"].text
        short.append((name.removeprefix(network).lstrip("_-. ") or name, network))
    return [key[0] if short.count(key) == 1 else node["name"].text for key, node in zip(short, nodes, strict=True)]


def _area(case: Node) -> tuple[int, int]:
    """Order of cases: by pixels, then by batch."""
    return case["height"].value * case["width"].value, case["batch"].value


def case_text(case: Node) -> str:
    """A case as the terminal calls it."""
    return "x".join(case[name].text for name in ("batch", "height", "width"))


def moment(environment: Node) -> str:
    """When a record was made, to the minute; as the record has it where that is no time."""
    try:
        made = datetime.datetime.fromisoformat(environment["created"].text)
    except ValueError:
        return environment["created"].text or "—"
    if made.tzinfo is None:
        return f"{made:%Y-%m-%d %H:%M}"
    return f"{made.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def picture(source: str) -> str:
    """A picture of a record, written anew so that it can be nothing else; empty where it is none."""
    form, _, encoded = source.partition(";base64,")
    if form not in ("data:image/jpeg", "data:image/png"):
        return ""
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("JPEG", "PNG")) as image:
            return thumbnail(image.convert("RGB")) if max(image.size) <= _LARGEST else ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return ""
