"""ESMTP parameters of MAIL and RCPT (RFC 5321 section 4.1.1.11), and xtext (RFC 3461 section 4).

A parser takes a parameter's value as sent (True where it has none) and returns what the envelope keeps; it
raises ValueError, with a text for the client, for a value that is not allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from .errors import ProtocolError

__all__ = [
    "DSNRecipient",
    "ParameterParser",
    "decode_xtext",
    "parse_auth",
    "parse_body",
    "parse_flag",
    "parse_parameters",
    "parse_size",
]

ParameterParser = Callable[[str | bool], object]

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\U0010ffff]+))?")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(r"(?:\+[0-9A-F]{2})+")
_NONE: tuple[Mapping[str, str | bool], Mapping[str, object]] = (MappingProxyType({}), MappingProxyType({}))


@attrs.frozen
class DSNRecipient:
    """What a client asks of delivery status notifications for one recipient (RFC 3461 sections 4.1 and 4.2).

    Attributes:
        notify: Of ``NEVER`` (alone), ``SUCCESS``, ``FAILURE``, ``DELAY``; empty when not said.
        orcpt: The original recipient as ``(address type, decoded address)``, or None.
    """

    notify: tuple[str, ...] = ()
    orcpt: tuple[str, str] | None = None


def parse_parameters(
    text: str, parsers: Mapping[str, ParameterParser], *, allow_unknown: bool = False
) -> tuple[Mapping[str, str | bool], Mapping[str, object]]:
    """Read the parameters behind a path.

    Args:
        text: What follows the closing bracket: empty, or it begins with a space.
        parsers: The known keywords, upper case, with their parsers.
        allow_unknown: Let unknown keywords through; they stand in the arguments and nowhere else.

    Returns:
        The arguments as sent, and the parsed values of the known ones; both with upper-case keys.

    Raises:
        ProtocolError: 501 5.5.4 for a malformed, doubled or badly valued parameter, 555 5.5.4 for an unknown one.

    RFC: RFC 5321 sections 4.1.1.11 and 4.1.2.
    """
    if not text:
        return _NONE
    if not text.startswith(" "):
        raise ProtocolError("Parameters follow the path after a space", 501, "5.5.4")
    args: dict[str, str | bool] = {}
    values: dict[str, object] = {}
    for word in text.split(" "):
        if not word:
            continue
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise ProtocolError("Malformed parameter", 501, "5.5.4")
        keyword = match[1].upper()
        value: str | bool = True if match[2] is None else match[2]
        if keyword in args:
            raise ProtocolError(f"{keyword} given twice", 501, "5.5.4")
        args[keyword] = value
        parser = parsers.get(keyword)
        if parser is not None:
            try:
                values[keyword] = parser(value)
            except ValueError as exc:
                raise ProtocolError(f"{keyword}: {exc}", 501, "5.5.4") from None
        elif not allow_unknown:
            raise ProtocolError(f"{keyword}: parameter not recognized", 555, "5.5.4")
    return MappingProxyType(args), values


def decode_xtext(value: str) -> str:
    """Decode xtext, whose octets are UTF-8 when they are not ASCII.

    Raises:
        ValueError: Not xtext, or not UTF-8.

    RFC: RFC 3461 section 4.
    """
    if not _XTEXT.fullmatch(value):
        raise ValueError("not valid xtext")
    if "+" not in value:
        return value
    try:
        return _HEXCHAR.sub(lambda match: bytes.fromhex(match[0].replace("+", "")).decode(), value)
    except UnicodeDecodeError:
        raise ValueError("not valid xtext") from None


def parse_size(value: str | bool) -> int:
    """SIZE: the message's size in octets (RFC 1870 section 5: 1 to 20 digits)."""
    if isinstance(value, bool) or not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise ValueError("needs a number of octets")
    return int(value)


def parse_body(value: str | bool, *, binary: bool = False) -> str:
    """BODY: 7BIT or 8BITMIME (RFC 6152 section 3), and BINARYMIME where it is on (RFC 3030 section 3)."""
    body = value.upper() if isinstance(value, str) else ""
    if body not in ("7BIT", "8BITMIME") and not (binary and body == "BINARYMIME"):
        raise ValueError("needs 7BIT or 8BITMIME" + (" or BINARYMIME" if binary else ""))
    return body


def parse_flag(value: str | bool) -> bool:
    """A parameter without a value, such as SMTPUTF8 (RFC 6531 section 3.4)."""
    if value is not True:
        raise ValueError("takes no value")
    return True


def parse_auth(value: str | bool) -> str:
    """AUTH: who submitted the message, ``"<>"`` when that is not known (RFC 4954 section 5)."""
    if isinstance(value, bool):
        raise ValueError("needs an address in xtext, or <>")
    mailbox = decode_xtext(value)
    if not mailbox.isprintable():
        raise ValueError("control characters are not allowed")
    return mailbox
