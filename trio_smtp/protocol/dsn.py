"""Delivery status notifications (RFC 3461): what a client asks for, and the parsers of its parameters."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from .values import ShowsFields
from .xtext import decode_xtext, upper_ascii

__all__ = ["DSNEnvelope", "DSNRecipient", "parse_envid", "parse_notify", "parse_orcpt", "parse_ret"]


@attrs.frozen(repr=False)
class DSNEnvelope(ShowsFields):
    """What a client asks of delivery status notifications for a message (RFC 3461 sections 4.3 and 4.4).

    Attributes:
        ret: ``"FULL"`` or ``"HDRS"``, or None.
        envid: The envelope's name, decoded, or None.
    """

    ret: Literal["FULL", "HDRS"] | None = None
    envid: str | None = None


@attrs.frozen(repr=False)
class DSNRecipient(ShowsFields):
    """What a client asks of delivery status notifications for one recipient (RFC 3461 sections 4.1 and 4.2).

    Attributes:
        notify: ``NEVER`` alone, or some of ``SUCCESS``, ``FAILURE``, ``DELAY``; empty without NOTIFY.
        orcpt: The original recipient as ``(address type, decoded address)``, or None.
    """

    notify: tuple[str, ...] = ()
    orcpt: tuple[str, str] | None = None


def parse_ret(value: str | bool) -> str:
    """RET: FULL or HDRS (RFC 3461 section 4.3)."""
    ret = upper_ascii(value)
    if ret not in ("FULL", "HDRS"):
        raise ValueError("needs FULL or HDRS")
    return ret


def parse_envid(value: str | bool) -> str:
    """ENVID: at most 100 characters of xtext, printable (RFC 3461 section 4.4)."""
    if isinstance(value, bool) or len(value) > 100:
        raise ValueError("needs at most 100 characters of xtext")
    envid = decode_xtext(value)
    if not (envid.isascii() and envid.isprintable()):
        raise ValueError("printable ASCII only")
    return envid


def parse_notify(value: str | bool) -> tuple[str, ...]:
    """NOTIFY: NEVER alone, or SUCCESS, FAILURE, DELAY, each at most once (RFC 3461 section 4.1)."""
    words = tuple(upper_ascii(value).split(","))
    if words != ("NEVER",) and (len(set(words)) < len(words) or not set(words) <= {"SUCCESS", "FAILURE", "DELAY"}):
        raise ValueError("needs NEVER, or SUCCESS, FAILURE and DELAY")
    return words


def parse_orcpt(value: str | bool) -> tuple[str, str]:
    """ORCPT: ``type;address``, the address decoded (RFC 3461 section 4.2; for utf-8, RFC 6533 section 3)."""
    fits = isinstance(value, str) and len(value) <= 500
    match = re.fullmatch(r"([A-Za-z0-9-]{1,40});(.+)", str(value), re.DOTALL) if fits else None
    if match is None:
        raise ValueError("needs an address type, a semicolon and at most 500 characters")
    kind, encoded = match[1].lower(), match[2]
    if kind == "utf-8":
        if not re.fullmatch(r"(?:[^\0- +=\\\x7f]|\\x\{(?:[0-9A-F]{2,6})\})+", encoded):
            raise ValueError("not a valid utf-8 address")
        address = re.sub(r"\\x\{([0-9A-F]{2,6})\}", _embedded_character, encoded)
    else:
        # Postfix sends the UTF-8 of an internationalized address as the xtext of an rfc822 one.
        address = decode_xtext(encoded)
    if not address.isprintable():
        raise ValueError("control characters are not allowed")
    return kind, address


def _embedded_character(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("not a character")
    return chr(code)
