"""A message on its way out, in any pieces: line ends made CRLF, dots doubled, the end mark (RFC 5321 section 4.5.2).

A CR or LF alone never goes out after DATA. Some servers take one for a line end and others do not, so that a message
that has them may be cut into two (SMTP smuggling).
"""

from __future__ import annotations

import re
from typing import Literal, final

from trio_smtp.protocol.pieces import has_bare_newline
from trio_smtp.protocol.stuffing import DotStuffer

from .errors import BareNewline

__all__ = ["BodyWriter", "NewlinePolicy", "to_crlf"]

#: What is done about a CR or LF alone: it is made CRLF, or the message is refused, or it is kept (BDAT alone).
NewlinePolicy = Literal["crlf", "refuse", "keep"]

_LINE_END = re.compile(rb"\r\n|\r|\n")


def to_crlf(data: bytes) -> bytes:
    """End every line with CRLF: CR alone and LF alone are line ends too."""
    return _LINE_END.sub(b"\r\n", data) if has_bare_newline(data) else data


@final
class BodyWriter:
    """Writes one message as it is sent.

    Args:
        newlines: See `NewlinePolicy`.
        dots: The message is sent after DATA: dots are doubled, and the end mark follows.
    """

    __slots__ = ("_dots", "_held", "_newlines")

    def __init__(self, newlines: NewlinePolicy = "crlf", *, dots: bool = True) -> None:
        if dots and newlines == "keep":
            raise ValueError("newlines='keep' needs BDAT: a CR or LF alone never goes out after DATA")
        self._newlines = newlines
        self._dots = DotStuffer() if dots else None
        # A CR at the end of a piece waits for the octet behind it.
        self._held = b""

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take a piece of the message; returns what is to be sent of it.

        Raises:
            BareNewline: There is a CR or LF alone, and the policy refuses it.
        """
        octets = self._held + bytes(data)
        self._held = b""
        if self._newlines != "keep" and octets.endswith(b"\r"):
            octets, self._held = octets[:-1], b"\r"
        return self._write(octets)

    def end(self) -> bytes:
        """The message is over: returns what remains to be sent, the end mark included.

        After DATA a last line without a line end gets one.
        """
        octets, self._held = self._held, b""
        written = self._write(octets)
        return written if self._dots is None else written + self._dots.end()

    def _write(self, octets: bytes) -> bytes:
        if self._newlines != "keep" and has_bare_newline(octets):
            if self._newlines == "refuse":
                raise BareNewline("the message has a CR or LF alone")
            octets = _LINE_END.sub(b"\r\n", octets)
        return octets if self._dots is None else self._dots.feed(octets)
