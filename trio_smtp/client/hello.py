"""EHLO, and what a front end says of the client that it speaks for: XCLIENT and XFORWARD."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from trio_smtp import Reply

from .commands import xtext
from .errors import DeliveryFailed, DeliveryRefused, ExtensionMissing
from .extensions import parse_extensions
from .sending import Commands
from .wire import Wire

__all__ = ["attributes_command", "is_hello_name", "say", "say_hello"]

_WORD = re.compile(r"[!-~]{1,255}")
#: A longer value is not told, so that a command with all attributes stays below 512 octets for two of them.
_LONGEST_VALUE = 200
_UNAVAILABLE = "[UNAVAILABLE]"


def is_hello_name(name: str) -> bool:
    """Whether EHLO can say this: one word of printable ASCII."""
    return _WORD.fullmatch(name) is not None


async def say(wire: Wire, line: str, phase: str, shown: str | None = None) -> Reply:
    """Send one command; returns the reply. See `Wire.exchange`."""
    (reply,) = await wire.exchange(Commands((f"{line}\r\n".encode(),), (phase,)), shown=shown)
    return reply


async def say_hello(wire: Wire, name: str, *, lmtp: bool) -> Mapping[str, str]:
    """Say EHLO, or LHLO; to an old server HELO. Returns what the server offers.

    Raises:
        DeliveryRefused: The server refused.
        DeliveryFailed: There was no answer, or one that makes no sense.
    """
    reply = await say(wire, f"{'LHLO' if lmtp else 'EHLO'} {name}", "hello")
    if 500 <= reply.code < 600 and not lmtp:
        reply = await say(wire, f"HELO {name}", "hello")
        if reply.code == 250:
            return {}
    if reply.code >= 400:
        raise DeliveryRefused(reply, phase="hello")
    if reply.code != 250:
        raise DeliveryFailed("hello", f"the server answered with code {reply.code}")
    return parse_extensions(reply)


def attributes_command(
    verb: Literal["XCLIENT", "XFORWARD"], attributes: Mapping[str, str | None], extensions: Mapping[str, str]
) -> str:
    """Write XCLIENT or XFORWARD with the attributes that the server takes.

    Args:
        verb: Which of the two.
        attributes: By name; a value that is None, too long, or not printable ASCII is sent as not available.
        extensions: What the server offers.

    Raises:
        ExtensionMissing: The server lacks the command, or takes none of the attributes.
    """
    taken = extensions.get(verb, "").upper().split()
    words = [f"{name}={_value(value)}" for name, value in attributes.items() if name in taken]
    if not words:
        raise ExtensionMissing(verb, "it is to be told of the client", phase=verb.lower())
    return " ".join([verb, *words])


def _value(value: str | None) -> str:
    if not value or not (value.isascii() and value.isprintable()) or len(encoded := xtext(value)) > _LONGEST_VALUE:
        return _UNAVAILABLE
    return encoded
