"""What a server offers: its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from trio_smtp import Reply

__all__ = ["auth_mechanisms", "parse_extensions", "without_requiretls"]

_KEYWORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:[ =](.*))?")


def parse_extensions(reply: Reply) -> Mapping[str, str]:
    """Read a reply to EHLO: keywords in upper case, and what stands behind each.

    The first line is the server's name. A line that is no extension is left out; of two with one keyword both
    parameters stand behind it, in order.
    """
    found: dict[str, str] = {}
    for line in reply.lines[1:]:
        match = _KEYWORD.fullmatch(line.strip())
        if match is not None:
            # Old servers write AUTH=LOGIN beside AUTH LOGIN.
            keyword, words = match[1].upper(), (match[2] or "").strip()
            found[keyword] = f"{found[keyword]} {words}".strip() if keyword in found else words
    return MappingProxyType(found)


def auth_mechanisms(extensions: Mapping[str, str]) -> frozenset[str]:
    """The names of the SASL mechanisms that a server offers, in upper case."""
    return frozenset(extensions.get("AUTH", "").upper().split())


def without_requiretls(extensions: Mapping[str, str]) -> Mapping[str, str]:
    """What a server offers, but for REQUIRETLS: without TLS its promise is broken already (RFC 8689 section 2)."""
    return MappingProxyType({name: words for name, words in extensions.items() if name != "REQUIRETLS"})
