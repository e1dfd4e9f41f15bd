"""Pictures that a record carries: accepted only in the one form that can do nothing but be a picture."""

from __future__ import annotations

import base64
import binascii
import re

from rest_deploy.reporting.markup import Html, element

_FORM = re.compile(r"data:image/(?:jpeg|png);base64,([A-Za-z0-9+/=]+)")
_SMALL = 96  # pixels up to which a picture is enlarged with its pixels kept
_PNG = b"\x89PNG\r\n\x1a\n"
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers of a frame, which hold its size


def thumbnail(source: str, described: str) -> Html:
    """A picture, or words where there is none that can be accepted.

    Args:
        source: A data URI.
        described: For those who cannot see it.
    """
    found = _FORM.fullmatch(source)
    size = _size(found[1]) if found else None
    if size is None:
        return element("span", "no picture", class_="picture none")
    look = "picture small" if max(size) <= _SMALL else "picture"
    return element("img", src=Html(source), alt=described, class_=look, width=_SMALL, height=_SMALL)


def _size(encoded: str) -> tuple[int, int] | None:
    """Width and height; None for what is no picture."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
    if content.startswith(_PNG) and len(content) >= 24:
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    return _jpeg_size(content) if content.startswith(b"\xff\xd8") else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        if content[at + 1] in _SIZES:
            return int.from_bytes(content[at + 7 : at + 9], "big"), int.from_bytes(content[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None
