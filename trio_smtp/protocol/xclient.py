"""XCLIENT and XFORWARD attributes (Postfix's XCLIENT_README and XFORWARD_README)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from .errors import ProtocolError
from .networks import canonical
from .xtext import decode_xtext

__all__ = ["XCLIENT_ATTRIBUTES", "XFORWARD_ATTRIBUTES", "parse_attributes"]

#: The attributes that XCLIENT may set.
XCLIENT_ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT", "REVERSE_NAME")
#: The attributes that XFORWARD may set.
XFORWARD_ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")

_UNAVAILABLE = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_ADDRESSES = frozenset({"ADDR", "DESTADDR"})
_PORTS = frozenset({"PORT", "DESTPORT"})


def parse_attributes(argument: str, verb: str) -> Mapping[str, str | None]:
    """Read what follows XCLIENT or XFORWARD; one bad attribute refuses all of them.

    Args:
        argument: ``NAME=value ...``, values in xtext.
        verb: ``"XCLIENT"`` or ``"XFORWARD"``.

    Returns:
        The decoded values by upper-case name; None where the value is not available. ADDR and DESTADDR are without
        ``IPV6:`` and canonical.

    Raises:
        ProtocolError: 501 5.5.4: an attribute is unknown, doubled or malformed, or there is none.
    """
    allowed = XCLIENT_ATTRIBUTES if verb == "XCLIENT" else XFORWARD_ATTRIBUTES
    found: dict[str, str | None] = {}
    for word in argument.split():
        name, equals, encoded = word.partition("=")
        name = name.upper()
        if not equals or name not in allowed or name in found:
            raise ProtocolError(f"Bad {verb} attribute", 501, "5.5.4")
        try:
            found[name] = _value(name, encoded, forwarded=verb == "XFORWARD")
        except ValueError:
            raise ProtocolError(f"Bad {verb} value for {name}", 501, "5.5.4") from None
    if not found:
        raise ProtocolError(f"{verb} needs attributes", 501, "5.5.4")
    return found


def _value(name: str, encoded: str, *, forwarded: bool) -> str | None:
    value = decode_xtext(encoded)
    if not value or len(value) > 255 or not (value.isascii() and value.isprintable()):
        raise ValueError(value)
    if value.upper() in _UNAVAILABLE:
        return None
    if forwarded and " " in value:
        raise ValueError(value)
    if name in _ADDRESSES:
        return _address(value)
    if name in _PORTS and not (re.fullmatch(r"[0-9]{1,5}", value) and int(value) <= 65_535):
        raise ValueError(value)
    if name == "PROTO" and not forwarded and value.upper() not in ("SMTP", "ESMTP", "LMTP"):
        raise ValueError(value)
    if name == "SOURCE" and value.upper() not in ("LOCAL", "REMOTE"):
        raise ValueError(value)
    return value


def _address(value: str) -> str:
    if value[:5].upper() != "IPV6:":
        return str(ipaddress.IPv4Address(value))
    if "%" in value:  # a zone is not part of an address, and may hold any text
        raise ValueError(value)
    return canonical(str(ipaddress.IPv6Address(value[5:])))
