"""Where an artifact is: a file, or the address of a model on a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rest_deploy.artifact.identity import sha256_of
from rest_deploy.errors import ConfigError

#: Scheme of an address -> the port that it has where it names none; 0 where it must name one.
SCHEMES = {"http": 80, "https": 443, "grpc": 0, "grpcs": 0}


@dataclass(frozen=True)
class Address:
    """A model on a server; as text what it was read from.

    A ``Path`` is none: it makes one slash of two.

    Args:
        text: As it was given, such as ``"http://localhost:8000/rest_small"``.
        scheme: A key of :data:`SCHEMES`.
        host: Name or number, with brackets where that is IPv6's.
        port: Of the server.
        prefix: What of the path stands before the model, such as ``"/proxy"``; empty for nothing.
        name: Of the model.
    """

    text: str
    scheme: str
    host: str
    port: int
    prefix: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``"http://HOST:PORT/NAME"``, or one of https, grpc, grpcs.

        As it is asked by curl, ``"http://HOST:PORT/v2/models/NAME"``, with or without ``/infer``, it is the same.

        Raises:
            ConfigError: Anything else.
        """
        from urllib.parse import unquote, urlsplit  # files need none of it

        wrong = ConfigError(
            f"address {text}; accepted: http://HOST:8000/NAME or https, grpc://HOST:8001/NAME or grpcs, of a model NAME"
        )
        try:
            parts = urlsplit(text)
            port = parts.port if parts.port is not None else SCHEMES[parts.scheme]
        except (ValueError, KeyError) as exc:
            raise wrong from exc
        path = parts.path.rstrip("/")
        if asked := re.fullmatch(r"(.*)/v2/models/([^/]+)(?:/infer)?", path):
            path = f"{asked[1]}/{asked[2]}"
        prefix, _, name = path.rpartition("/")
        host = parts.netloc.rpartition(":")[0] if parts.port is not None else parts.netloc
        odd = "@" in parts.netloc or parts.query or parts.fragment or (prefix and parts.scheme.startswith("grpc"))
        labels = host.rstrip(".").split(".") if not host.startswith("[") else ["IPv6"]
        odd = odd or "/v2/models/" in f"{path}/"  # what else a server is asked
        odd = odd or not text.isascii() or not all(0 < len(label) < 64 for label in labels)  # no name of a host
        if not host or not name or not port or odd or any(not c.isprintable() or c.isspace() for c in text):
            raise wrong
        return cls(text, parts.scheme, host, port, prefix, unquote(name))

    @property
    def encrypted(self) -> bool:
        """Whether it is asked by TLS."""
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        return self.text


Place = Path | Address


def is_address(place: str | Path | Address) -> bool:
    """Whether something is the address of a model on a server."""
    if isinstance(place, Address):
        return True
    return isinstance(place, str) and place.partition("://")[0].lower() in SCHEMES and "://" in place


def located(place: str | Path | Address) -> Place:
    """A path or an address, as it was given.

    Raises:
        ConfigError: An address that is none.
    """
    if isinstance(place, str):
        return Address.parse(place) if is_address(place) else Path(place)
    return place


def facts_of(place: Place) -> dict[str, Any]:
    """What a record of a measurement says of an artifact's bytes: ``sha256`` and ``bytes``, None of a server's.

    What the server says of these is in ``Runtime.facts``.
    """
    if isinstance(place, Address):
        return {"sha256": None, "bytes": None}
    return {"sha256": sha256_of(place), "bytes": place.stat().st_size}
