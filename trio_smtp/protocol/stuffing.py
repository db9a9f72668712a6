"""A message as a client sends it: lines that end with CRLF, and dots stuffed (RFC 5321 section 4.5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from email.message import Message

__all__ = ["DotStuffer", "octets_of", "stuff"]


def octets_of(message: bytes | Message) -> bytes:
    """The octets of a message, its lines ended by CRLF.

    Args:
        message: Octets, or a message of the package `email`. Octets in which every line ends with LF alone have it
            replaced by CRLF; octets that mix both are left as they are.
    """
    if not isinstance(message, bytes):
        return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
    return message if b"\r" in message else message.replace(b"\n", b"\r\n")


@final
class DotStuffer:
    """Writes a message as it is sent after DATA, in any pieces; nothing but its dots is changed.

    A dot behind LF alone is doubled too, because some servers take LF alone for a line end.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        # The last two octets that were fed; a message begins at the start of a line.
        self._last = b"\r\n"

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the message; returns it with the dots at the start of its lines doubled."""
        first = data[:1] == b"." and self._last[-1:] == b"\n"
        self._last = data[-2:] if len(data) > 1 else (self._last + data)[-2:]
        if b"." in data:  # Base64 has no dots, and this search takes a tenth of the other one's time
            data = data.replace(b"\n.", b"\n..")
        return b"." + data if first else data

    def end(self) -> bytes:
        """The end mark, behind a line end where the message lacks one."""
        return b".\r\n" if self._last == b"\r\n" else b"\r\n.\r\n"


def stuff(data: bytes) -> bytes:
    """Write a message as it is sent after DATA: leading dots are doubled, and the end mark follows."""
    stuffer = DotStuffer()
    return stuffer.feed(data) + stuffer.end()
