"""Figures as tables in a terminal, and records as files: JSON, CSV, Markdown."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import check_writable, replacing
from rest_deploy.cli.terminal import clean
from rest_deploy.errors import ConfigError


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column and the last ``words`` ones hold words, the others figures.

    Args:
        title: Above it; may be empty.
        head: Names of the columns.
        rows: As many texts each.
        words: Number of columns at the end that hold words.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 0

    def text(self) -> str:
        """In columns; where a terminal is too narrow for all of them, the others follow below, after the first again.

        rich would break figures, or cut them off.
        """
        lines = [[clean(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.head))]
        blocks = _blocks(widths, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
        title = [clean(self.title)] if self.title else []
        return "\n".join([*title, *(self._line(row, widths, block) for block in blocks for row in lines)])

    def _line(self, row: Sequence[str], widths: Sequence[int], columns: Sequence[int]) -> str:
        cells = (row[i].ljust(widths[i]) if self._is_words(i) else row[i].rjust(widths[i]) for i in columns)
        return f"  {'  '.join(cells)}".rstrip()

    def markdown(self) -> str:
        """As a table of Markdown."""
        rule = ["---" if self._is_words(i) else "---:" for i in range(len(self.head))]
        lines = [self.head, rule, *self.rows]
        title = [f"**{escaped(self.title)}**", ""] if self.title else []
        return "\n".join([*title, *(f"| {' | '.join(escaped(cell) for cell in row)} |" for row in lines), ""])

    def _is_words(self, column: int) -> bool:
        return column == 0 or column >= len(self.head) - self.words


def _blocks(widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Numbers of the columns that stand side by side."""
    blocks = [[0]]
    for column in range(1, len(widths)):
        taken = sum(widths[i] + 2 for i in blocks[-1]) + 2 + widths[column]
        if room is not None and taken > room and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(column)
    return blocks


def escaped(cell: str) -> str:
    """Text for Markdown, in which what means something there or in HTML is shown as it is."""
    return "".join(f"\\{c}" if c in "\\|*_`<>[]" else c for c in clean(cell))


def figure(value: float | None, digits: str) -> str:
    """A figure in a format, or a dash if there is none."""
    return f"{value:{digits}}" if value is not None else "-"


SUFFIXES = (".json", ".csv", ".md")


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that commands which measure have in common."""
    add = parser.add_argument
    add(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="write the figures: .json (everything, raw times too), .csv or .md; may be repeated",
    )
    add("--report", metavar="FILE.html", type=Path, help="write a report to look at: one file, nothing to load")
    add("--json", action="store_true", help="print the record as JSON")


def check_outputs(outputs: Sequence[Path], report: Path | None) -> None:
    """Check, before any measurement, that everything can be written.

    Raises:
        ConfigError: An unknown suffix.
        ExportError: A folder does not exist or cannot be written to.
        MissingPackageError: A package that the report needs is not installed.
    """
    for path in outputs:
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"{path}: the suffix says what to write; accepted: {', '.join(SUFFIXES)}")
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{report}: a report is an HTML file; accepted: .html")
    if report is not None:
        from rest_deploy.report import check_installed

        check_installed()
    for path in (*outputs, *([report] if report is not None else [])):
        check_writable(path)


Content = Callable[[], tuple[Sequence[Table], Sequence[str]]]
Rows = Callable[[], Sequence[Mapping[str, Any]]]


def show(
    arguments: argparse.Namespace,
    record: Mapping[str, Any],
    text: Callable[[], str],
    content: Content,
    rows: Rows,
    **records: Mapping[str, Any] | None,
) -> None:
    """Print a record, and write the files that the arguments ask for.

    Args:
        arguments: With the flags of :func:`add_output_flags`.
        record: As of :func:`to_json`.
        text: The record for a terminal.
        content, rows: As of :func:`write_outputs`.
        **records: As of :func:`~rest_deploy.report.write_report`.
    """
    print(to_json(record, sys.stdout.encoding) if arguments.json else text(), flush=True)
    write_outputs(arguments.output, record, content, rows)
    paths = [*arguments.output]
    if arguments.report is not None:
        from rest_deploy.report import write_report

        write_report(arguments.report, **records)
        paths.append(arguments.report)
    if paths and not arguments.json:
        print(f"\nwrote {', '.join(clean(str(path)) for path in paths)}", flush=True)


def write_outputs(outputs: Sequence[Path], record: Mapping[str, Any], content: Content, rows: Rows) -> None:
    """Write a record in each of the ways asked for.

    Args:
        outputs: Files.
        record: Everything.
        content: What Markdown holds: tables, and notes under them, a line each.
        rows: What CSV holds, the same keys in each.
    """
    for path in outputs:
        suffix = path.suffix.lower()
        if suffix == ".json":
            text = to_json(record) + "\n"
        elif suffix == ".csv":
            text = _csv(rows())
        else:
            text = _markdown(record, *content())
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _shown(value: Any) -> Any:
    """A cell of CSV in which nothing hides from a terminal, and that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _markdown(record: Mapping[str, Any], tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The command and the machine, then tables, then what makes them less reliable."""
    environment = record["environment"]
    made = f"{environment['cpu']}, Python {environment['python']}, {environment['created']}"
    head = [f"    {clean(environment['command'] or '')}", "", escaped(made), ""]
    return "\n".join([*head, *(table.markdown() for table in tables), *(f"- {escaped(note)}" for note in notes), ""])


def read_other(path: Path | None, kind: str, report: Path | None, flag: str) -> dict[str, Any] | None:
    """The record of the other command, for the report.

    Raises:
        ConfigError: There is no report to go into, or it is of another kind.
        ArtifactError: It is not a record.
    """
    from rest_deploy.report import read_record

    if path is None:
        return None
    if report is None:
        raise ConfigError(f"{flag} brings figures into a report, and none was asked for; give --report FILE.html")
    record = read_record(path)
    if record["kind"] != kind:
        raise ConfigError(f"{path}: a record of {record['kind']}; {flag} takes what {kind} wrote")
    return record


def to_json(record: Mapping[str, Any], encoding: str | None = "utf-8") -> str:
    """A record, made finite by :func:`finite`, as JSON text that every reader accepts and every terminal shows.

    Args:
        record: Plain values.
        encoding: Of where it goes; what it cannot hold is written as JSON's escapes.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    hidden = {c for c in set(text) if c != "\n" and not (c.isprintable() and _can_hold(encoding or "utf-8", c))}
    return "".join(json.dumps(c)[1:-1] if c in hidden else c for c in text) if hidden else text


def _can_hold(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def finite(value: Any) -> Any:
    """Plain values with None in place of infinities and NaN."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = io.StringIO()
    if rows:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _shown(value) for key, value in row.items()} for row in rows)
    return lines.getvalue()
