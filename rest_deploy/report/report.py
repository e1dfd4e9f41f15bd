"""The report: records in, one HTML page out. The template has the text, this module has the data."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from rest_deploy.errors import ConfigError
from rest_deploy.preprocess.images import thumbnail
from rest_deploy.report.charts import ChartRow, Line, Look, Stop, plane, rows
from rest_deploy.report.fields import BENCHMARK, SHAPES, VERIFICATION, Node, check_record, plain, unhidden, visible

_FOLDER = Path(__file__).parent
_LARGEST = 512  # pixels of a side of a picture that is shown; those of rest-verify have 128
_WRONG_PICTURE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def render(verification: Mapping[str, Any] | None, benchmark: Mapping[str, Any] | None) -> str:
    """The report as HTML that loads nothing and runs nothing.

    Raises:
        ConfigError: There is no record.
        ArtifactError: A record is not of this kind.
    """
    if verification is None and benchmark is None:
        raise ConfigError("a report needs a record, and got none; give one of rest-verify, one of rest-bench, or both")
    for record, kind in ((verification, VERIFICATION), (benchmark, BENCHMARK)):
        if record is not None:
            check_record(record, (kind,))

    style = Markup((_FOLDER / "style.css").read_text(encoding="utf-8"))  # noqa: S704  # our own
    page = _template().render(r=Records(verification, benchmark), style=style)
    return unhidden(page.lstrip(), "\n")


@cache
def _template() -> jinja2.Template:
    def finalize(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, made in {"node": Node, "contender": DrawnContender, "derived": Derived}.items():
        environment.tests[name] = lambda one, made=made: isinstance(one, made)
    environment.filters |= {"present_in": present_in, "class_name": class_name}
    environment.globals |= {"picture": picture, "moment": moment, "judged_by": judged_by, "over": over}
    return environment.get_template("template.html.j2")


@dataclass(frozen=True)
class DrawnContender:
    """A contender of the benchmark, with its number, short name and marker in the whole report."""

    number: int
    node: Node
    short: str
    look: Look

    @property
    def name(self) -> str:
        """Its full name."""
        return self.node["name"].text

    @property
    def label(self) -> str:
        """Its label in charts."""
        return f"{self.number} {self.short}"


@dataclass(frozen=True)
class Derived:
    """A number computed from numbers of the record; its tip has their paths."""

    number: float
    tip: str

    @property
    def shown(self) -> str:
        """The number as text."""
        return plain(self.number)


@dataclass(frozen=True)
class Reading:
    """How close a contender is to the reference in one case, as one figure to plot against its latency."""

    contender: DrawnContender
    result: Node
    words: str  # the verification, in words
    figure: Node | Derived | None
    where: str  # the data of the figure
    best: bool | None = None  # whether no other is both faster and better; None if it is not in a chart


class Records:
    """The records of a report, and its charts; one of the records may be a node of None."""

    def __init__(self, verification: Mapping[str, Any] | None, benchmark: Mapping[str, Any] | None) -> None:
        self.verification = Node(verification, "verification", SHAPES[VERIFICATION])
        self.benchmark = Node(benchmark, "benchmark", SHAPES[BENCHMARK])
        self.artifacts, self.reference = list(self.verification["artifacts"]), self.verification["reference"]
        self.by_pytorch = self.reference["format"].text == "pytorch"
        self.cases = sorted(self.benchmark["cases"], key=_area)
        self.contenders: list[DrawnContender] = []
        self.networks: dict[str, list[DrawnContender]] = {}
        nodes = list(self.benchmark["contenders"])
        for number, (node, short) in enumerate(zip(nodes, short_names(nodes), strict=True), start=1):
            members = self.networks.setdefault(node["network"].text, [])
            members.append(DrawnContender(number, node, short, Look(len(members))))
            self.contenders.append(members[-1])
        known = (("verified", self.verification), ("measured", self.benchmark))
        self.environments = {what: record["environment"] for what, record in known if record}

    def result(self, case: Node, one: DrawnContender) -> Node:
        """The result of a contender in a case; a node of None if there is none."""
        found = (result for result in case["results"] if result["contender"].text == one.name)
        return next(found, case["results"].absent())

    def results(self, network: str) -> list[Node]:
        """The results of all contenders of a network in all cases."""
        return [self.result(case, one) for case, one in product(self.cases, self.networks[network])]

    def match(self, one: DrawnContender) -> tuple[Node | None, str]:
        """The verified artifact of a contender, and the verdict in words.

        They match by the SHA-256 of the file, and by name only if the benchmark has no SHA-256. If several artifacts
        are the same file, the one on the contender's device matches. A server only says what its file is, so that no
        file that is here speaks for it, nor it for one.
        """
        by, served = "sha256" if one.node["sha256"] else "name", one.node["device"].text == "server"
        alike = [
            artifact
            for artifact in self.artifacts
            if artifact[by].text == one.node[by].text and (artifact["device"].text == "server") == served
        ]
        alike.sort(key=lambda artifact: artifact["device"].text != one.node["device"].text)
        if alike:
            return alike[0], "passed" if alike[0]["passed"].value else "FAILED"
        if served:
            return None, "not verified"
        if self.reference and self.reference[by].text == one.node[by].text:
            return None, "is the reference"
        named = any(artifact["name"].text == one.name for artifact in self.artifacts)
        return None, "not verified: the file of that name has another SHA-256" if named else "not verified"

    # Accuracy against latency ----------------------------------------------------------------------------------------

    @cached_property
    def sizes(self) -> list[Node]:
        """For each size, the case of its smallest batch."""
        smallest: dict[tuple[int, int], Node] = {}
        for case in self.cases:
            smallest.setdefault((case["height"].value, case["width"].value), case)
        return list(smallest.values())

    @cached_property
    def measure(self) -> str:
        """The best available figure: accuracy if classes are known, else agreement, else the error."""
        images = self.every("images")
        return next((name for name in ("top1_accuracy", "top1_agreement") if present_in(images, [name])), "max_error")

    def figure(self, case: Node, artifact: Node | None, *, own: bool = False) -> tuple[Node | Derived | None, str]:
        """The figure of an artifact, or of the reference if it is None, and its data in words.

        Args:
            case: Its size is preferred.
            artifact: The verified artifact.
            own: Whether to use PyTorch's own error in float32.
        """
        height, width = case["height"].text, case["width"].text
        if self.measure == "max_error":
            rows = [(over(row["reference_error" if own else "max_error"], row["logit_std"]), row) for row in
                    (artifact["synthetic"] if artifact is not None else ())]  # fmt: skip
            known = [(error, row) for error, row in rows if error is not None]
            size = [one for one in known if (one[1]["height"].text, one[1]["width"].text) == (height, width)]
            same = [one for one in size if one[1]["batch"].value == case["batch"].value]
            if not known:
                return None, "—"
            error, row = max(same or size or known, key=lambda one: one[0].number)
            where = f"synthetic images of {row['height'].text}x{row['width'].text}"
            return error, where + ("" if size else ", the worst case")
        images = list(artifact["images"] if artifact is not None else self.verification["data"]["reference"])
        images.sort(key=lambda row: (row["size"].text != f"{height}x{width}", bool(row["size"])))
        if not images or self.measure not in images[0].names or images[0][self.measure].number is None:
            return None, "—"
        return images[0][self.measure], f"images at {images[0]['size'].text or 'their own size'}"

    def readings(self, case: Node) -> list[Reading]:
        """Of all contenders that were verified, are the reference, or are PyTorch with the same network."""
        matches = [(one, *self.match(one)) for one in self.contenders]
        kin = {one.node["network"].text: artifact for one, artifact, _ in matches if artifact is not None}
        made: list[Reading] = []
        for one, artifact, words in matches:
            result, alike = self.result(case, one), kin.get(one.node["network"].text)
            own = artifact is None and alike is not None and self.by_pytorch and one.node["format"].text == "pytorch"
            if not result or not (artifact is not None or own or words == "is the reference"):
                continue
            figure, where = self.figure(case, alike if own and self.measure == "max_error" else artifact, own=own)
            made.append(Reading(one, result, "PyTorch's own" if own else words, figure, where))
        points = [_point(one) for one in made]
        best = iter(on_frontier([(x, y if self.measure != "max_error" else -y) for x, y in filter(None, points)]))
        return [replace(one, best=next(best)) if at else one for one, at in zip(made, points, strict=True)]

    @property
    def left_out(self) -> dict[str, list[DrawnContender]]:
        """Why contenders have no reading -> the contenders."""
        shown = {one.contender.number for case in self.sizes for one in self.readings(case)}
        return _grouped((self.match(one)[1], one) for one in self.contenders if one.number not in shown)

    def tradeoff_charts(self, title: str) -> list[Markup]:
        """Accuracy against latency, at each size at which a contender has both."""
        drawn = []
        for case in self.sizes:
            known = [(one, at) for one in self.readings(case) if (at := _point(one)) is not None]
            lines = [
                Line(one.contender.label, replace(one.contender.look, hollow=not one.best),
                     [Stop(*at, one.result["p50_ms"])])
                for one, at in known
            ]  # fmt: skip
            figure, _ = self.figure(case, None)
            level = None
            if figure is not None:
                who = "PyTorch's own" if self.by_pytorch else "the reference's own"
                level = (f"{who}: {figure.shown} ({self.reference['name'].text})", figure.number or 0.0)
            described = f"{title} against the median latency of {len(lines)} contenders."
            best, share = sorted(at for one, at in known if one.best), self.measure != "max_error"
            if lines:
                heading = f"{case_text(case)}: {title}"
                drawn.append(plane(heading, described, lines, share=share, frontier=best, level=level))
        return drawn

    # Latency and errors ----------------------------------------------------------------------------------------------

    @property
    def fastest(self) -> list[tuple[Node, DrawnContender, Node]]:
        """For each size, the fastest contender that passed verification."""
        passed = [one for one in self.contenders if self.match(one)[1] == "passed"]
        timed = ((case, one, self.result(case, one)["p50_ms"]) for case, one in product(self.sizes, passed))
        groups = _grouped((case.key, (case, one, p50)) for case, one, p50 in timed if p50.number is not None)
        return [min(group, key=lambda one: one[2].number or 0.0) for group in groups.values()]

    def latency_charts(self, network: str) -> list[Markup]:
        """Of a network: time per image over sizes, if there are several; times of each case; ratios, if any."""

        def time(one: DrawnContender, result: Node) -> ChartRow:
            p50 = result["p50_ms"]
            told = p50.shown if p50 else "error" if result["error"] or one.node["error"] else "—"
            return ChartRow(one.label, p50, told, one.look, high=result["p90_ms"].number)

        def ratio(one: DrawnContender, result: Node) -> ChartRow:
            found = result["ratio"]
            verdict = found["verdict"].text if found["verdict"].text in ("slower", "faster") else ""
            look = replace(one.look, hollow=not verdict)
            ends = found["low"].number, found["high"].number
            return ChartRow(one.label, found["median"], f"{found['median'].shown or '—'} {verdict}", look, *ends)

        base = self.compared_with(network)
        drawn = [self._growth(network), rows("p50 ms, up to p90", f"Latency of {network}.", self._each(network, time))]
        if base:
            title = f"x {' or '.join(base)}; left of 1 is faster"
            drawn.append(rows(title, f"Ratios of times of {network}.", self._each(network, ratio), base=1.0))
        return [chart for chart in drawn if chart is not None]

    def _each(self, network: str, row: Callable[[DrawnContender, Node], ChartRow]) -> list[tuple[str, list[ChartRow]]]:
        members = self.networks[network]
        titles = [case_text(case) + " (see warnings)" * bool(case["conditions"]["flags"]) for case in self.cases]
        drawn = [[row(one, self.result(case, one)) for one in members] for case in self.cases]
        return list(zip(titles, drawn, strict=True))

    def _growth(self, network: str) -> Markup | None:
        """At the smallest batch and, dashed, at the largest."""
        batches = sorted({case["batch"].value for case in self.cases})
        lines = []
        for batch, one in product(dict.fromkeys((*batches[:1], *batches[-1:])), self.networks[network]):
            times = [(case, self.result(case, one)["p50_ms"]) for case in self.cases if case["batch"].value == batch]
            stops = [
                Stop(float(_area(case)[0]), p50.number / max(1, batch), p50)
                for case, p50 in times
                if p50.number is not None
            ]
            later = batch != batches[0]
            label = one.label + (f", batch {batch}" if len(batches) > 1 else "")
            lines += [Line(label, replace(one.look, hollow=later), stops, later)] if stops else []
        sizes = {float(_area(case)[0]): f"{case['height'].text}x{case['width'].text}" for case in self.cases}
        if len({stop.x for line in lines for stop in line.stops}) < 2:
            return None
        return plane("time per image, ms", f"Time per image of {network} over sizes.", lines, sizes=sizes)

    def compared_with(self, network: str) -> list[str]:
        """Names of the contenders to which the ratios of a network relate."""
        return list(dict.fromkeys(one["ratio"]["to"].text for one in self.results(network) if one["ratio"]))

    def error_charts(self, which: str) -> list[Markup]:
        """The errors of each artifact by case or by block, on one axis, with their limits."""
        names = ("max_error", "limit", "reference_error")
        also = [row[name].number for row in self.every(which) for name in names]
        drawn = []
        for artifact in self.artifacts:
            own = self.every(which, [artifact])
            made = [_error_row(output_text(row) if which == "synthetic" else row["block"].text, row) for row in own]
            title = f"error of {artifact['name'].text}"
            drawn += [rows(title, f"{title}, with its limits.", [("", made)], also=also)] if made else []
        return drawn

    def every(self, which: str, artifacts: Sequence[Node] | None = None) -> list[Node]:
        """Rows of one kind, of some artifacts or of all."""
        chosen = self.artifacts if artifacts is None else artifacts
        found = [artifact["blocks"]["rows"] if which == "blocks" else artifact[which] for artifact in chosen]
        return [row for own in found for row in (sorted(own, key=_area) if which == "synthetic" else own)]

    # Classes and pictures --------------------------------------------------------------------------------------------

    @property
    def by_class(self) -> dict[str, dict[str, dict[int, Node]]]:
        """Size -> who answers -> class -> how many of its images have a right answer."""
        told = [(f"{self.reference['name'].text} (reference)", row) for row in self.verification["data"]["reference"]]
        told += [(artifact["name"].text, row) for artifact in self.artifacts for row in artifact["images"]]
        found: dict[str, dict[str, dict[int, Node]]] = {}
        for name, row in told:
            if row["by_class"]:
                classes = {one["label"].value: one for one in row["by_class"]}
                found.setdefault(row["size"].text, {})[name] = classes
        return found

    @cached_property
    def class_names(self) -> dict[int, str]:
        """Class -> its name, from the artifacts."""
        images = self.every("images")
        found = {one["label"].value: one["label_name"].text for row in images for one in row["by_class"]}
        return found | {one["artifact"].value: one["artifact_name"].text for row in images for one in row["confused"]}

    def matrix(self, row: Node) -> tuple[list[int], dict[tuple[int, int], Node]]:
        """Classes of images and of answers; (class, answer) -> number of images."""
        cells = {(one["label"].value, one["label"].value): one["right"] for one in row["by_class"]}
        cells |= {(one["label"].value, one["artifact"].value): one["images"] for one in row["confused"]}
        return sorted({label for pair in cells for label in pair}), cells

    @staticmethod
    def pictures(row: Node) -> list[Node]:
        """Pictures with a wrong answer, then those with another answer than the reference's."""
        return list({one["image"].text: one for one in (*row["worst_wrong"], *row["worst_flips"])}.values())

    # How it was made -------------------------------------------------------------------------------------------------

    @property
    def assumed(self) -> dict[str, list[str]]:
        """What was assumed when artifacts were made -> their names."""
        told = [
            ("; ".join(f"{name} {own.text}" for name, own in one["assumed"].entries()), one) for one in self.artifacts
        ]
        return _grouped((what, one["name"].text) for what, one in told if what)

    @property
    def broken(self) -> list[str]:
        """Names of contenders that failed, as a whole or in a case."""
        errors = {result["contender"].text for case in self.cases for result in case["results"] if result["error"]}
        return [one.name for one in self.contenders if one.name in errors or one.node["error"]]

    @property
    def peaks(self) -> dict[str, str]:
        """Cases with a peak memory -> head of their column."""
        found = [one.node["cold"]["peak_mib"].entries() for one in self.contenders]
        return {case: f"peak MiB {case}" for own in found for case, _ in own}

    @property
    def machine(self) -> list[tuple[str, list[tuple[str, list[Node | str]]]]]:
        """Heading -> name -> value in each record, for settings, machine, packages and variables."""
        nodes = list(self.environments.values())
        chosen = [[("seed", self.verification["seed"])]] if self.verification else []
        chosen += [self.benchmark["settings"].entries()] if self.benchmark else []
        groups = [("settings", chosen), ("machine", [node.named() for node in nodes])]
        cards = [list(node["gpus"]) for node in nodes]
        for at in range(max(map(len, cards))):
            groups.append((f"GPU {at}", [own[at].named() if at < len(own) else [] for own in cards]))
        groups += [(what, [node[what].entries() for node in nodes]) for what in ("packages", "variables")]
        made = []
        for heading, each in groups:
            names = dict.fromkeys(name for own in each for name, _ in own)
            made.append(
                (heading, [(name.replace("_", " "), [dict(own).get(name, "") for own in each]) for name in names])
            )
        return made


def _grouped(pairs: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _point(one: Reading) -> tuple[float, float] | None:
    """The median time and the figure of a contender; None if one of them is missing."""
    cost, value = one.result["p50_ms"].number, one.figure.number if one.figure is not None else None
    return None if cost is None or value is None else (cost, value)


def _error_row(label: str, row: Node) -> ChartRow:
    by, bad = judged_by(row), row["passed"].value is False
    own = row["reference_error"].number if by == "max_error" else None
    told = f"{row[by].shown or 'not a number'}{' over' if bad else ''}"
    return ChartRow(label, row[by], told, Look(1 if bad else 0), limit=row["limit"].number, own=own)


def judged_by(row: Node) -> str:
    """The error of a row to which the limit applies; the largest if the record does not say."""
    return "rms_error" if "judged_by" in row.names and row["judged_by"].text == "rms_error" else "max_error"


def over(one: Node, other: Node) -> Derived | None:
    """One number over another one."""
    if one.number is None or not other.number:
        return None
    return Derived(one.number / other.number, f"{one.key} / {other.key}")


def on_frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, gain), whether no other one is as good in both and better in one; equal ones stay together."""
    return [not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def short_names(nodes: Sequence[Node]) -> list[str]:
    """Names of contenders without the network's name; full names if two of a network would be equal."""
    named = [(node["name"].text, node["network"].text) for node in nodes]
    short = [(name.removeprefix(network).lstrip("_-. ") or name, network) for name, network in named]
    return [own[0] if short.count(own) == 1 else name for own, (name, _) in zip(short, named, strict=True)]


def present_in(nodes: Sequence[Node], names: Sequence[str]) -> list[str]:
    """Names for which any of some objects has a value."""
    return [name for name in names if any(node[name] for node in nodes)]


def class_name(label: int, names: Mapping[int, str]) -> str:
    """A class by its name, if any, and its number."""
    return str(label) if names.get(label, "") in ("", str(label)) else f"{names[label]} ({label})"


def _area(case: Node) -> tuple[int, int]:
    """Order of cases: by pixels, then by batch."""
    return case["height"].value * case["width"].value, case["batch"].value


def case_text(case: Node) -> str:
    """A case as the terminal writes it."""
    return "x".join(case[name].text for name in ("batch", "height", "width"))


def output_text(row: Node) -> str:
    """A case, and its output if there are several."""
    return f"{case_text(row)} {row['output'].text}".strip()


def moment(environment: Node) -> str:
    """When a record was made, to the minute; the record's own text if that is not a time."""
    try:
        made = datetime.datetime.fromisoformat(environment["created"].text)
    except ValueError:
        return environment["created"].text or "—"
    if made.tzinfo is None:
        return f"{made:%Y-%m-%d %H:%M}"
    return f"{made.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def picture(source: str) -> Markup:
    """A picture of a record, encoded again so that it is only a picture; empty if it is not a picture."""
    form, _, encoded = source.partition(";base64,")
    if form not in ("data:image/jpeg", "data:image/png"):
        return Markup()
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("JPEG", "PNG")) as image:
            own = thumbnail(image.convert("RGB")) if max(image.size) <= _LARGEST else ""
            return Markup(own)  # noqa: S704  # digits of base64
    except _WRONG_PICTURE:
        return Markup()
