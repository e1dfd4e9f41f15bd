"""Error by size: how far each artifact is from its reference on noise, beside what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from rest_deploy.reporting.figure import panels
from rest_deploy.reporting.markup import NOTHING, Html, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.marker import Marker
from rest_deploy.reporting.plots.row import Row
from rest_deploy.reporting.plots.row_plot import Group, RowPlot
from rest_deploy.reporting.quantity import case_label, case_text, cosine, deviation, number, percent, plain
from rest_deploy.reporting.records import Records, area
from rest_deploy.reporting.table import Rows, folded, numbers, table, texts

KEYS = (("point", "largest error"), ("limit", "limit"), ("own", "float32's own error"))
ERRORS = {"max_error": "largest error", "rms_error": "RMS error"}  # that a limit may be meant of
GOOD, BAD = Marker(0), Marker(1)  # a circle; a square of another colour
_READ = (
    "Errors of logits on batches of noise, the smallest first; all artifacts on one logarithmic axis. A point right of "
    "its bar is past the limit: it is square and says “over”."
)
_SHOWN = 16  # rows up to which the table is shown at once
_COLUMNS = [
    *texts("case"),
    *numbers("largest error", "limit", "error / limit", "float32's own", "mean error", "std of logits", "cosine"),
    *numbers("KL divergence", "top-1 agreement", "top-5 agreement"),
    *texts("verdict"),
]


def exactness(records: Records) -> Html:
    """A plot for each artifact, all on one axis, the figures and the tolerances."""
    artifacts = [artifact for artifact in records.verification["artifacts"] if artifact["synthetic"].value]
    if not artifacts:
        return NOTHING
    cases = [case for artifact in artifacts for case in artifact["synthetic"]]
    names = ("max_error", "limit", "reference_error")
    every = [value for case in cases for name in names if (value := case[name].number) is not None]
    plots = [_plot(artifact, every) for artifact in artifacts]
    groups = [Rows([_figures(case) for case in _ordered(artifact)], artifact["name"].text) for artifact in artifacts]
    drawn = table("Error on noise, by artifact and case", _COLUMNS, groups)
    full = folded(f"All figures: {len(cases)} cases", drawn, opened=len(cases) <= _SHOWN)
    return join([panels(plots, _READ, KEYS), full, _tolerances(artifacts)])


def judged_by(row: Node) -> str:
    """Which error of a row has the limit; the largest where the record does not say."""
    named = row["judged_by"].text
    return named if named in ERRORS else "max_error"


def error_row(label: str, row: Node) -> Row:
    """A row of a plot for an error with its limit and its yardstick."""
    judged = judged_by(row)
    value, limit = row[judged], row["limit"].number
    own = row["reference_error"].number if judged == "max_error" else None
    bad = row["passed"].value is False
    told = "no number" if value.number is None else deviation(value.number)
    tip = f"{label}: {ERRORS[judged]} {told}" + (f", limit {deviation(limit)}" if limit is not None else "")
    tip += f", float32's own {deviation(own)}" if own is not None else ""
    words = f"{told} over" if bad and value.number is not None else told
    return Row(label, value, words, tip, BAD if bad else GOOD, limit=limit, own=own)


def verdict_word(row: Node) -> str:
    """Whether a row is within its limit."""
    return {True: "within", False: "over"}.get(row["passed"].value, "—")


def share_of_limit(row: Node) -> str:
    """Error over limit; not a number of the record, but formed from two."""
    error, limit = row[judged_by(row)].number, row["limit"].number
    return plain(error / limit) if error is not None and limit else "—"


def _ordered(artifact: Node) -> list[Node]:
    return sorted(artifact["synthetic"], key=area)


def _plot(artifact: Node, every: Sequence[float]) -> Html:
    name = artifact["name"].text
    rows = [error_row(case_text(case), case) for case in _ordered(artifact)]
    over = sum(case["passed"].value is False for case in artifact["synthetic"])
    described = f"Largest error of {name} in {len(rows)} cases, with limits; {over} are over."
    return RowPlot(name, f"Error of {name}", described, [Group("", rows)], log=True, also=every).draw()


def _figures(case: Node) -> list[str]:
    errors = [number(case["max_error"], deviation), number(case["limit"], deviation), share_of_limit(case)]
    errors += [number(case[name], deviation) for name in ("reference_error", "mean_error")]
    shares = [number(case[name], percent) for name in ("top1_agreement", "top5_agreement")]
    likeness = [number(case["logit_std"]), number(case["cosine"], cosine), number(case["kl_divergence"], deviation)]
    return [case_label(case), *errors, *likeness, *shares, verdict_word(case)]


def _tolerances(artifacts: Sequence[Node]) -> Html:
    columns = [
        *texts("artifact"),
        *numbers("times float32's own error", "least, of the largest logit", "least, of std of the logits"),
        *numbers("budget: top-1 agreement", "budget: largest error", "budget: accuracy lost"),
        *texts("why", "how it was computed"),
    ]
    rows = [_tolerance(artifact) for artifact in artifacts]
    note = "The limit of a case is the largest of the three; a budget judges on images, where there is one."
    drawn = table("What is allowed, and why", columns, [Rows(rows)], [note])
    return folded("Tolerances and budgets", drawn, opened=False)


def _tolerance(artifact: Node) -> list[str]:
    allowed, budget = artifact["tolerance"], artifact["budget"]
    factors = [number(allowed[name]) for name in ("noise_factor", "floor", "spread")]
    budgets = [number(budget["min_top1_agreement"], percent), number(budget["max_error"], deviation)]
    budgets.append(number(budget["max_accuracy_loss"], percent))
    return [artifact["name"].text, *factors, *budgets, allowed["reason"].text or "—", artifact["computed"].text or "—"]
