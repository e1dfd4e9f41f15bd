"""A page read back: its elements, its text, the numbers in it, and the record that they must be in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "br", "img"}
_APART = {"td", "th", "tr", "li", "p", "dt", "dd", "div", "h1", "h2", "h3", "title", "desc", "text", "pre", "summary"}
_STEP = re.compile(r'\.(\w+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')
_TIP = re.compile(r"((?:verification|benchmark)[.\[].*) = (\S+)")


@dataclass
class Page(HTMLParser):
    """Elements in order, with their attributes; reading one that is not balanced fails."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tips: list[str] = field(default_factory=list)  # of the points of charts
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in _APART:
            self.texts.append(" ")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "title" and _TIP.fullmatch(data):
            self.tips.append(data)
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, but for the numbers that points of charts stand for."""
        return " ".join("".join(self.texts).replace("\xa0", " ").split())

    @property
    def numbers(self) -> dict[str, str]:
        """Path in the record -> exact value, of each number of the page."""
        told = [(own["title"], own["value"]) for own in self.all("data")]
        found = {}
        for tip, value in [*told, *((tip, "") for tip in self.tips)]:
            key, exact = _TIP.fullmatch(tip).groups()  # type: ignore[union-attr]  # or the test fails
            assert value in ("", exact)
            assert found.setdefault(key, exact) == exact
        return found

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        """Attributes of the elements of a tag that have the ones wanted."""
        pairs = {name.rstrip("_"): value for name, value in wanted.items()}
        return [own for name, own in self.elements if name == tag and pairs.items() <= own.items()]


def read(html: str) -> Page:
    """Read a page, every element of which must be closed."""
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == [], "an element is left open"
    return page


def at(records: dict[str, Any], key: str) -> Any:
    """The value at a path such as ``benchmark.cases[0].rounds``."""
    root, value = key.partition(".")[0], records[key.partition(".")[0]]
    rest = key[len(root) :]
    assert "".join(step.group(0) for step in _STEP.finditer(rest)) == rest, f"{key} is no path"
    for name, index, quoted in _STEP.findall(rest):
        value = value[name] if name else value[int(index)] if index else value[json.loads(quoted)]
    return value


def wrong_numbers(html: str, records: dict[str, Any]) -> list[str]:
    """Paths of numbers of the page that are not what the records have there."""
    return [key for key, value in read(html).numbers.items() if json.loads(value) != at(records, key)]
