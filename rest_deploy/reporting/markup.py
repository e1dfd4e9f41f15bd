"""HTML that is safe by how it is made: a plain string is text and is escaped, only Html is not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_VOID = frozenset({"meta", "br", "img"})
_LONGEST = 2000  # characters of one text; an error can carry a whole log


class Html(str):
    """Markup. Whatever is a plain ``str`` is text, so a forgotten escape shows on the page and does no harm."""

    __slots__ = ()


#: No markup at all: what a section gives that has nothing to say.
NOTHING = Html("")


def visible(text: str) -> str:
    """Text in which nothing hides: one line, control characters and changes of direction as escapes, not endless."""
    line = re.sub(r"[ \t\r\n]+", " ", text)
    left = len(line) - _LONGEST
    if left > 0:
        line = f"{line[:_LONGEST]}… ({left:,} characters more)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def html(content: str) -> Html:
    """Markup as it is; text escaped."""
    return content if isinstance(content, Html) else Html(escape(visible(content)))


def join(parts: Iterable[str], between: str = "") -> Html:
    """Markup and text, one after the other."""
    return Html(html(between).join(html(part) for part in parts) if between else "".join(map(html, parts)))


def element(name: str, /, *children: str, **attributes: str | float | None) -> Html:
    """An element of HTML or SVG.

    Args:
        name: Its tag.
        children: Markup, or text that is escaped.
        attributes: ``_`` in a name stands for ``-``, and one at the end is dropped (``class_``); those of value None
            or False are left out, and of True have no value.
    """
    opening = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def _attribute(key: str, value: str | float | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = value if isinstance(value, str) else _coordinate(value) if isinstance(value, float) else str(value)
    return f' {name}="{html(text)}"'


def _coordinate(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
