"""Parses what a stranger has sent: with documented errors only, and off the event loop where parsing takes long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import trio

from trio_smtp.protocol.errors import SMTPError

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["MessageUnparsable", "parse_message"]

#: From so many octets on, a message is parsed in a worker thread.
_LARGE = 65_536
#: Above so many octets, a header section makes its message one that is parsed in a worker thread.
_LONG_SECTION = 4_096
#: The deepest nesting of parts inside parts that is taken; Postfix has the same bound (mime_nesting_limit).
_MAX_NESTING = 100

_EMPTY_LINE = rb"\r?\n\r?\n"
# Parts have header sections of their own.
_HAS_PARTS = rb"(?i)multipart/|message/"


class MessageUnparsable(SMTPError):
    """The message cannot be parsed, however much of a fault is overlooked: 550 5.6.0.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"Message refused: {reason}", 550, "5.6.0")


async def parse_message(data: bytes) -> EmailMessage:
    """Parse a message; fields that are not as they should be are given as unstructured ones.

    A message of 65,536 octets or more, and one with a header section of more than 4,096 (or a part that may have such
    a section), is parsed in a worker thread, with its long fields, so that reading these later takes no time either.

    Args:
        data: The whole message.

    Raises:
        MessageUnparsable: Its parts are nested too deeply, or the parser failed.

    Cancellation: does not stop the thread, and takes effect at the next checkpoint after this call.

    Resource handling: the worker thread counts against trio's default thread limiter.
    """
    if _takes_long(data):
        return await trio.to_thread.run_sync(_parse, data)
    return _parse(data)


def _takes_long(data: bytes) -> bool:
    if len(data) >= _LARGE:
        return True
    if len(data) <= _LONG_SECTION:
        return False
    several = re.search(_HAS_PARTS, data) is not None
    start = 0
    for match in re.finditer(_EMPTY_LINE, data):
        if match.start() - start > _LONG_SECTION:
            return True
        if not several:
            return False
        start = match.end()
    return len(data) - start > _LONG_SECTION


def _parse(data: bytes) -> EmailMessage:
    from email import message_from_bytes

    from .mail_policy import make_policy

    try:
        message = message_from_bytes(data, policy=make_policy())
        nesting = _nesting_and_fields(message)
    except Exception as exc:
        raise MessageUnparsable("it cannot be parsed") from exc
    if nesting > _MAX_NESTING:
        raise MessageUnparsable("its parts are nested too deeply")
    return message


def _nesting_and_fields(message: EmailMessage) -> int:
    """How deeply parts are nested. Every field is read once: from now on the policy has the long ones."""
    deepest = 0
    rest: list[tuple[Any, int]] = [(message, 1)]
    while rest:
        part, depth = rest.pop()
        deepest = max(deepest, depth)
        part.items()
        payload = part.get_payload()
        if isinstance(payload, list):
            rest += [(inner, depth + 1) for inner in payload]
    return deepest
