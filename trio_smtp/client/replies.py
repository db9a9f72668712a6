"""The replies of a server, out of octets that arrive in any pieces.

A server may be hostile: the length of a line, the lines and the octets of a reply are bounded, and what the server sent
is in no error's text.
"""

from __future__ import annotations

from functools import lru_cache
from typing import final

from trio_smtp import Reply
from trio_smtp.protocol.replies import parse_reply

from .errors import BadReply

__all__ = ["MAX_LINE", "MAX_LINES", "MAX_OCTETS", "ReplyParser"]

#: Octets of a line, its CRLF included. RFC 4954 section 4 lets a challenge have 12,288.
MAX_LINE = 12_288
#: Lines of a reply.
MAX_LINES = 256
#: Octets of a reply.
MAX_OCTETS = 65_536
#: A parsed reply of at most so many octets is kept for when it comes again.
_MOST_KEPT = 128


@final
class ReplyParser:
    """Cuts a server's octets into replies.

    Args:
        max_line: Octets of a line.
        max_lines: Lines of a reply.
        max_octets: Octets of a reply.
    """

    __slots__ = ("_buffer", "_lines", "_max_line", "_max_lines", "_max_octets", "_scanned")

    def __init__(self, *, max_line: int = MAX_LINE, max_lines: int = MAX_LINES, max_octets: int = MAX_OCTETS) -> None:
        self._max_line = max_line
        self._max_lines = max_lines
        self._max_octets = max_octets
        self._buffer = bytearray()
        # So many octets, in so many lines, of the reply that is not complete have been looked at.
        self._scanned = 0
        self._lines = 0

    @property
    def pending(self) -> int:
        """So many octets have come that are in no reply that was returned."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray) -> None:
        """Take octets; any number, so callers bound what they read at a time."""
        self._buffer += data

    def take(self, octets: int | None = None) -> bytes:
        """Take out the first octets that are in no reply that was returned, or all of them."""
        taken = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        self._scanned = self._lines = 0
        return taken

    def next_line(self) -> bytes | None:
        """Take out the next line, its CRLF included, whatever it is; None: it is not complete."""
        end = self._buffer.find(b"\r\n")
        return self.take(end + 2) if end >= 0 else None

    def next_reply(self) -> Reply | None:
        """The next reply, or None: it is not complete.

        Raises:
            BadReply: The octets are no reply, or pass a bound.

        RFC: RFC 5321 section 4.2.
        """
        wire = self.next_wire()
        if wire is None:
            return None
        return _parse(wire) if len(wire) > _MOST_KEPT else _parse_again(wire)

    def next_wire(self) -> bytes | None:
        """The octets of the next reply: its lines up to one without a hyphen behind its code; None: not complete.

        Raises:
            BadReply: They pass a bound.
        """
        buffer = self._buffer
        while (end := buffer.find(b"\n", self._scanned)) >= 0:
            start, self._scanned = self._scanned, end + 1
            self._lines += 1
            self._check(self._scanned - start, self._scanned)
            if buffer[start + 3 : start + 4] != b"-":
                return self.take(self._scanned)
        self._check(len(buffer) - self._scanned, len(buffer))
        return None

    def _check(self, line: int, octets: int) -> None:
        if line > self._max_line:
            raise BadReply(f"a line of a reply is longer than {self._max_line} octets")
        if self._lines > self._max_lines:
            raise BadReply(f"a reply has more than {self._max_lines} lines")
        if octets > self._max_octets:
            raise BadReply(f"a reply is longer than {self._max_octets} octets")


def _parse(wire: bytes) -> Reply:
    try:
        return parse_reply(wire)
    except ValueError:
        raise BadReply("what the server sent is no reply") from None


#: A server says the same words for each message.
_parse_again = lru_cache(maxsize=64)(_parse)
