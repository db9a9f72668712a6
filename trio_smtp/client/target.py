"""The URL of a server."""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote, urlsplit

import attrs

from trio_smtp.protocol.values import ShowsFields

__all__ = ["Target", "parse_url"]

_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
_FORMS = "smtp://host:port, smtps://host, lmtp://host:port, or lmtp+unix:///path"


@attrs.frozen(repr=False)
class Target(ShowsFields):
    """Where a server is, and how it is spoken to.

    Attributes:
        protocol: ``"smtp"`` or ``"lmtp"``.
        host: A name or an address; empty for a Unix socket.
        port: The port; 0 for a Unix socket.
        path: Of a Unix socket, or empty.
        implicit_tls: TLS comes before the greeting.
        username: From the URL, or None.
        password: From the URL, or None; not in the repr.
    """

    protocol: Literal["smtp", "lmtp"]
    host: str
    port: int
    path: str = ""
    implicit_tls: bool = False
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)


def parse_url(url: str) -> Target:
    """Read a URL: ``smtp``, ``smtps``, ``lmtp``, and ``smtp+unix`` or ``lmtp+unix`` with a path.

    Raises:
        ValueError: It is no such URL; the text shows nothing of it, because there may be a password in it.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"the URL of a server is {_FORMS}") from None
    base, _, unix = scheme.partition("+")
    if parts.query or parts.fragment or unix not in ("", "unix"):
        raise ValueError(f"the URL of a server is {_FORMS}")
    if unix:
        if base not in ("smtp", "lmtp") or parts.netloc or not parts.path:
            raise ValueError(f"the URL of a server is {_FORMS}")
        return Target("lmtp" if base == "lmtp" else "smtp", "", 0, unquote(parts.path))
    if base not in _PORTS or not host or parts.path not in ("", "/"):
        raise ValueError(f"the URL of a server is {_FORMS}")
    return Target(
        "lmtp" if base == "lmtp" else "smtp",
        host,
        _PORTS[base] if port is None else port,
        implicit_tls=base == "smtps",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )
