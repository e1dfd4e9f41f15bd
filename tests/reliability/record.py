"""What was tried and what happened, as a table: written by ``make soak``, and copied into docs/reliability.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tried:
    """One row.

    Args:
        what: Was tried.
        count: How often.
        outcome: What happened.
    """

    what: str
    count: int
    outcome: str


class Record:
    """The rows of one run of the tests."""

    def __init__(self) -> None:
        self.rows: list[Tried] = []
        self._kinds: dict[tuple[str, str], list[str]] = {}

    def add(self, what: str, count: int, outcome: str) -> None:
        """Say what was tried, how often, and what happened."""
        self.rows.append(Tried(what, count, outcome))

    def count(self, what: str, outcome: str, kind: str) -> None:
        """Say that one of a kind was tried, and that the same happened as with the others."""
        self._kinds.setdefault((what, outcome), []).append(kind)

    def markdown(self) -> str:
        """As a table."""
        lines = ["| Tried | Times | What happened |", "| --- | ---: | --- |"]
        rows = list(self.rows)
        for (what, outcome), kinds in self._kinds.items():
            told = "; ".join(dict.fromkeys(kinds)).replace("|", "\\|")
            rows.append(Tried(f"{what} ({told})", len(kinds), outcome))
        return "\n".join([*lines, *(f"| {row.what} | {row.count:,} | {row.outcome} |" for row in rows), ""])

    def write(self, path: Path) -> None:
        """Write the table."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.markdown(), encoding="utf-8")
