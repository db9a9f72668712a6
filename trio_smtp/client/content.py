"""A message as its sender has it, made ready: its octets or its pieces, and what they need of a server."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterable, Mapping
from email.message import Message
from email.policy import EmailPolicy

import attrs

from trio_smtp import SpooledMessage

from .body import NewlinePolicy, to_crlf
from .errors import BareNewline
from .results import Content

__all__ = ["Prepared", "prepare"]


@attrs.frozen
class Prepared:
    """A message that can be sent.

    Attributes:
        octets: The whole of it, or None.
        chunks: Its pieces, where `octets` is None.
        size: Octets, or None: not known.
        eight_bit: Has octets that are not ASCII; None: not known.
        utf8: Its header has UTF-8.
    """

    octets: bytes | None
    chunks: AsyncIterable[bytes] | None
    size: int | None
    eight_bit: bool | None = None
    utf8: bool = False


def prepare(
    message: Content, extensions: Mapping[str, str], *, newlines: NewlinePolicy, utf8: bool = False
) -> Prepared:
    """Make a message ready.

    Args:
        message: See `Client.send`. Of a message of the package `email`, Bcc is left out, and what is not ASCII is
            encoded where the server lacks 8BITMIME.
        extensions: What the server offers.
        newlines: What is done about a CR or LF alone.
        utf8: The envelope needs SMTPUTF8, so that the header of a message of the package `email` may have UTF-8.

    Raises:
        BareNewline: There is one, and `newlines` refuses it.
        TypeError: It is no message.
    """
    if isinstance(message, SpooledMessage):
        return Prepared(None, message.chunks(), message.size)
    if isinstance(message, AsyncIterable):
        return Prepared(None, message, None)
    octets = _octets_of(message, extensions, utf8=utf8) if isinstance(message, Message) else _checked(message)
    if newlines != "keep":
        mended = to_crlf(octets)
        if newlines == "refuse" and mended is not octets:
            raise BareNewline("the message has a CR or LF alone")
        octets = mended
    if octets.isascii():
        return Prepared(octets, None, len(octets), eight_bit=False)
    head = octets.partition(b"\r\n\r\n")[0]
    return Prepared(octets, None, len(octets), eight_bit=True, utf8=not head.isascii() and _is_utf8(head))


def _checked(message: object) -> bytes:
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    kinds = "octets, an EmailMessage, a SpooledMessage or an async iterable"
    raise TypeError(f"message must be {kinds}, not {type(message).__name__}")


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _octets_of(message: Message, extensions: Mapping[str, str], *, utf8: bool) -> bytes:
    shown = copy.copy(message)
    del shown["Bcc"], shown["Resent-Bcc"]
    policy = shown.policy.clone(linesep="\r\n")
    if "8BITMIME" not in extensions:
        policy = policy.clone(cte_type="7bit")
    if isinstance(policy, EmailPolicy):  # compat32 encodes every header field
        policy = policy.clone(utf8=(utf8 or policy.utf8) and "SMTPUTF8" in extensions)
    return shown.as_bytes(policy=policy)
