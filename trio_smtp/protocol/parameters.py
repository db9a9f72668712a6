"""ESMTP parameters of MAIL and RCPT (RFC 5321 section 4.1.1.11).

A parser takes a parameter's value as sent (True for a parameter without a value) and returns what the envelope keeps.
For a value that is not allowed it raises ValueError with a text for the client (501), or an `SMTPError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import attrs

from .dsn import DSNEnvelope, DSNRecipient, parse_envid, parse_notify, parse_orcpt, parse_ret
from .errors import ParserCrashed, ProtocolError, SMTPError
from .values import ShowsFields
from .xtext import decode_xtext, upper_ascii

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "DSNEnvelope",
    "DSNRecipient",
    "DeliverBy",
    "ParameterParser",
    "decode_xtext",
    "parse_auth",
    "parse_body",
    "parse_by",
    "parse_envid",
    "parse_flag",
    "parse_hold_for",
    "parse_hold_until",
    "parse_mt_priority",
    "parse_notify",
    "parse_orcpt",
    "parse_parameters",
    "parse_ret",
    "parse_size",
    "upper_ascii",
]

#: Takes a parameter's value as sent (True where it has none) and returns what is kept of it.
ParameterParser = Callable[[str | bool], object]

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\0- =\x7f]+))?")
_NONE: tuple[Mapping[str, str | bool], Mapping[str, object]] = (MappingProxyType({}), MappingProxyType({}))


@attrs.frozen(repr=False)
class DeliverBy(ShowsFields):
    """When a message is to be delivered (RFC 2852).

    Attributes:
        seconds: From now; may be zero or negative with mode N.
        mode: ``"N"`` (notify when late) or ``"R"`` (return when late).
        trace: Report relays.
    """

    seconds: int
    mode: Literal["N", "R"]
    trace: bool = False


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
        ProtocolError: 501 5.5.4 for a malformed, doubled or badly valued parameter, 555 5.5.4 for an unknown one; the
            reply of an `SMTPError` that a parser raised, which does not count as the client's error.
        ParserCrashed: A parser raised anything else.

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
            except SMTPError as exc:
                raise ProtocolError(exc.message, exc.code, exc.enhanced, counted=False) from exc
            except Exception as exc:
                raise ParserCrashed(exc) from exc
        elif not allow_unknown:
            raise ProtocolError(f"{keyword}: parameter not recognized", 555, "5.5.4")
    return MappingProxyType(args), values


def parse_size(value: str | bool) -> int:
    """SIZE: the message's size in octets (RFC 1870 section 5: 1 to 20 digits)."""
    if isinstance(value, bool) or not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise ValueError("needs a number of octets")
    return int(value)


def parse_body(value: str | bool, *, binary: bool = False) -> str:
    """BODY: 7BIT or 8BITMIME (RFC 6152 section 3), and BINARYMIME where it is on (RFC 3030 section 3)."""
    body = upper_ascii(value)
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


def parse_by(value: str | bool, *, least: int = 0) -> DeliverBy:
    """BY: seconds, a semicolon, N or R, perhaps T (RFC 2852 section 4)."""
    match = re.fullmatch(r"([+-]?[0-9]{1,9});([NR])(T?)", upper_ascii(value))
    if match is None:
        raise ValueError("needs seconds;N or seconds;R, with T for trace")
    seconds, mode = int(match[1]), match[2]
    if mode == "R" and (seconds <= 0 or seconds < least):
        raise ValueError(f"with R needs at least {max(1, least)} seconds")
    return DeliverBy(seconds, "R" if mode == "R" else "N", bool(match[3]))


def parse_mt_priority(value: str | bool) -> int:
    """MT-PRIORITY: -9 to 9 (RFC 6710 section 4.1)."""
    match = re.fullmatch(r"0|-?[1-9]", str(value), re.ASCII)
    if match is None:
        raise ValueError("needs a number from -9 to 9")
    return int(match[0])


def parse_hold_for(value: str | bool, *, longest: int) -> int:
    """HOLDFOR: seconds (RFC 4865 section 4)."""
    match = re.fullmatch(r"[1-9][0-9]{0,8}", str(value), re.ASCII)
    if match is None or int(match[0]) > longest:
        raise ValueError(f"needs 1 to {longest} seconds")
    return int(match[0])


def parse_hold_until(value: str | bool, *, longest: int) -> datetime:
    """HOLDUNTIL: an Internet date and time (RFC 4865 section 4, RFC 3339)."""
    from datetime import UTC, datetime  # only FUTURERELEASE needs it

    text = upper_ascii(value)
    if not re.fullmatch(r"[0-9-]{10}T[0-9:]{8}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})", text, re.ASCII):
        raise ValueError("needs a date and time such as 2030-01-31T12:00:00Z")
    until = datetime.fromisoformat(text)
    if (until - datetime.now(UTC)).total_seconds() > longest:
        raise ValueError(f"is more than {longest} seconds away")
    return until
