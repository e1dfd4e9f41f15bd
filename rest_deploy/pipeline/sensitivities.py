"""What each part of a network costs in lower precision, as a table and a bar plot."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from rest_deploy.artifact.files import replacing
from rest_deploy.specs import Precision

_BAD = ' class="bad"'
_ROW, _LEFT, _BARS, _RIGHT, _TOP = 18, 150, 420, 150, 56  # of the plot, in pixels


@dataclass(frozen=True)
class Sensitivity:
    """What one part costs when it alone is in lower precision.

    Args:
        part: By the authors' names.
        error: Root mean squared difference of the logits, or of the worst output where there are none, in standard
            deviations of it; infinite where they are no numbers.
        top1_agreement: Share of images with the same best class; None without logits.
    """

    part: str
    error: float
    top1_agreement: float | None


def plot_of(table: Path) -> Path:
    """The plot that goes with a table, beside it."""
    return table.with_suffix(".svg")


def write_sensitivities(path: Path, rows: Sequence[Sensitivity], precision: Precision, wider: Precision) -> None:
    """Write the table, and beside it the plot, as ``.svg``.

    Args:
        path: ``.csv`` or ``.json``.
        rows: The worst first.
        precision: That one part at a time was in.
        wider: That the others were in.
    """
    text = _csv(rows) if path.suffix.lower() == ".csv" else _json(rows, precision, wider)
    with replacing(path) as table, replacing(plot_of(path)) as plot:
        table.write_text(text, encoding="utf-8")
        plot.write_text(_svg(rows, precision, wider), encoding="utf-8")


def _csv(rows: Sequence[Sensitivity]) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["part", "rms_error", "top1_agreement"])
    writer.writerows([row.part, f"{row.error:.6g}", _share(row, ".6g")] for row in rows)
    return lines.getvalue()


def _of(rows: Sequence[Sensitivity]) -> str:
    """Of what the errors are."""
    return "the worst output" if any(row.top1_agreement is None for row in rows) else "the logits"


def _json(rows: Sequence[Sensitivity], precision: Precision, wider: Precision) -> str:
    parts = [{**asdict(row), "error": row.error if math.isfinite(row.error) else None} for row in rows]
    values = {"precision": precision.value, "others": wider.value, "unit": f"standard deviations of {_of(rows)}"}
    return json.dumps({**values, "parts": parts}, indent=2) + "\n"


def _share(row: Sensitivity, form: str) -> str:
    return format(row.top1_agreement, form) if row.top1_agreement is not None else ""


def _svg(rows: Sequence[Sensitivity], precision: Precision, wider: Precision) -> str:
    finite = [row.error for row in rows if math.isfinite(row.error)]
    most = max(finite, default=0.0) or 1.0
    width, height = _LEFT + _BARS + _RIGHT, _TOP + _ROW * len(rows) + 12
    title = f"Cost of {precision.value.upper()}, one part at a time"
    under = f"root mean squared error of {_of(rows)} in standard deviations; all other parts in {wider.value.upper()}"
    bars = "\n".join(_bar(number, row, most) for number, row in enumerate(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img">\n'
        "<style>svg{background:#fff;color:#1b1f24}text{fill:currentColor}rect{fill:#2f6fb0}.bad{fill:#b3261e}"
        "@media(prefers-color-scheme:dark){svg{background:#14171a;color:#e6e9ec}rect{fill:#6aa7e0}.bad{fill:#f2857b}}"
        f'</style>\n<title>{title}</title>\n<text x="12" y="22" font-size="15">{title}</text>\n'
        f'<text x="12" y="42" opacity="0.75">{under}</text>\n{bars}\n</svg>\n'
    )


def _bar(number: int, row: Sensitivity, most: float) -> str:
    top, good = _TOP + _ROW * number, math.isfinite(row.error)
    length = max(1.0, _BARS * row.error / most) if good else _BARS
    told = f"{row.error:.2g}" if good else "no numbers"
    top1 = f", top-1 {_share(row, '.0%')}" if row.top1_agreement is not None else ""
    return (
        f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(row.part)}</text>'
        f'<rect x="{_LEFT}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 6}"{_BAD * (not good)}/>'
        f'<text x="{_LEFT + length + 6:.1f}" y="{top + 13}">{told}{top1}</text>'
    )
