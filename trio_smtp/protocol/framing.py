"""Octets in, one event at a time out: lines, the dot-stuffed body of DATA, chunks of BDAT (RFC 5321, RFC 3030).

A `Framer` holds what has arrived and gives *one* event for each call of `next_event`. Whoever drives it sets its
mode before the next call, so that a body line can never be taken for a command, nor a command for a body line.

Lines end with CRLF and nothing else. The body ends with CRLF . CRLF, or with ``.`` CRLF at its very start, and
nothing else: LF.LF, LF.CRLF, CR.CR and their like are what smuggling is made of, and are malformed here.

From chunk to chunk the framer remembers only whether it is at a line's start. Octets that may begin an end mark, or be
half of a CRLF, stay in the buffer until more arrives: at most two. Everything before them is handed on and forgotten.
"""

from __future__ import annotations

import enum
import io
import re
from typing import Final, Literal, final

import attrs

from .errors import ProtocolError
from .values import ShowsFields

__all__ = ["MAX_CHUNK", "NEED_DATA", "BodyChunk", "EndOfBody", "Event", "Framer", "Line", "MalformedBody"]

#: The longest BodyChunk, in octets.
MAX_CHUNK = 65_536
#: A line without an end after this many octets costs the connection.
MAX_ENDLESS_LINE = 65_536


class _NeedData(enum.Enum):
    NEED_DATA = "NEED_DATA"


#: No complete event is in the buffer: feed more.
NEED_DATA: Final = _NeedData.NEED_DATA


@attrs.define(repr=False)
class Line(ShowsFields):
    """One line, without its end."""

    data: bytes


@attrs.define(repr=False)
class BodyChunk(ShowsFields):
    """Octets of the body, dots unstuffed, 1 to `MAX_CHUNK` of them."""

    data: bytes


@attrs.frozen(repr=False)
class MalformedBody(ShowsFields):
    """The body broke a rule. Comes once; no BodyChunk follows it, only the EndOfBody."""

    reason: str


@attrs.frozen(repr=False)
class EndOfBody(ShowsFields):
    """The end mark was seen, or the last octet of the chunk; what follows in the buffer is lines again."""


Event = Line | BodyChunk | MalformedBody | EndOfBody | Literal[_NeedData.NEED_DATA]

_END_OF_BODY = EndOfBody()
# The end of a line and the dot that the next line begins with; the dot is taken out.
_STUFFED = b"\r\n."
# The pattern begins with a literal, which re searches for in a plain loop.
_DOT_AT_LINE_START = re.compile(rb"\r\n\.")
# Seldom used: re compiles them at their first use, and keeps them.
_BARE_CR = rb"\r(?!\n)"
_ANY_NEWLINE = rb"\r\n|\r|\n"


class _Mode(enum.Enum):
    LINE = enum.auto()
    BODY = enum.auto()
    CHUNK = enum.auto()


# Aliases of members: see verbs.py.
_LINE, _BODY, _CHUNK = _Mode.LINE, _Mode.BODY, _Mode.CHUNK


@final  # where the module is compiled, nothing can inherit from it
class Framer:
    """Cuts what arrives into events.

    Args:
        max_line: Longest command line in octets, its end included.
        max_auth_line: The same for a line that begins with AUTH and for the lines of a SASL exchange.
        max_data_line: The longest line of a body, its CRLF included; None: no bound.
        normalize: A bare CR or LF in a body becomes CRLF instead of making it malformed, and a bare LF ends a command
            line. It never ends a body.
    """

    __slots__ = (
        "_at_line_start",
        "_buffer",
        "_chunk_left",
        "_dropped",
        "_line_length",
        "_malformed",
        "_max_auth_line",
        "_max_data_line",
        "_max_line",
        "_mode",
        "_normalize",
        "_position",
        "_skipping",
        "sasl",
    )

    def __init__(
        self,
        *,
        max_line: int = 2048,
        max_auth_line: int = 12_288,
        max_data_line: int | None = None,
        normalize: bool = False,
    ) -> None:
        self._max_line = max_line
        self._max_auth_line = max_auth_line
        self._max_data_line = max_data_line
        self._normalize = normalize
        self._buffer = b""
        self._position = 0
        self._mode = _LINE
        #: The next lines belong to a SASL exchange: only the length rule holds for them.
        self.sasl: bool = False
        # While a refused line is skipped: the error to raise at its end (True: already raised), and the octets dropped.
        self._skipping: ProtocolError | Literal[True] | None = None
        self._dropped = 0
        # Body
        self._at_line_start = True
        self._malformed = False
        self._line_length = 0
        # Chunks
        self._chunk_left = 0

    def feed(self, data: bytes) -> None:
        """Take in what was received."""
        if self._position >= len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._position :] + data
        self._position = 0

    @property
    def pending(self) -> int:
        """Octets in the buffer that no event has carried yet."""
        return len(self._buffer) - self._position

    def peek(self, size: int) -> bytes:
        """The first octets that are pending, at most so many."""
        return self._buffer[self._position : self._position + size]

    def discard_pending(self) -> int:
        """Throw the buffer away; returns how many octets that was."""
        pending = self.pending
        self._buffer = b""
        self._position = 0
        return pending

    def start_sasl(self) -> None:
        """The next lines are those of a SASL exchange."""
        self.sasl = True

    def end_sasl(self) -> None:
        """The exchange is over: the next lines are commands."""
        self.sasl = False

    def start_body(self) -> None:
        """The next events are those of a DATA body."""
        self._mode = _BODY
        self._at_line_start = True
        self._malformed = False
        self._line_length = 0

    def start_chunk(self, size: int) -> None:
        """The next events are those of a BDAT chunk of so many octets (RFC 3030): as they are, then EndOfBody."""
        self._mode = _CHUNK
        self._chunk_left = size

    def next_event(self) -> Event:
        """The next event in the present mode.

        Raises:
            ProtocolError: A line is too long or has a bare LF. The framer has passed the line, or skips the rest of it
                in the calls that follow.
        """
        if self._mode is _BODY:
            return self._next_body()
        if self._mode is _CHUNK:
            return self._next_of_chunk()
        buffer, start = self._buffer, self._position
        if start == len(buffer) and self._skipping is None:
            return NEED_DATA
        # Nearly every line is complete, ends with CRLF, and is short enough for every limit.
        end = buffer.find(b"\n", start)
        if start < end < start + self._max_line and buffer[end - 1] == 13 and self._skipping is None:
            self._position = end + 1
            return Line(buffer[start : end - 1])
        return self._next_line()

    # Lines

    def _next_line(self) -> Line | Literal[_NeedData.NEED_DATA]:
        buffer, start = self._buffer, self._position
        if self._skipping is not None:
            return self._skip_line()
        end = buffer.find(b"\n", start)
        if self.sasl and not self._normalize:
            end = buffer.find(b"\r\n", start) + 1 or -1
        length = (end + 1 if end >= 0 else len(buffer)) - start
        if length > self._max_line and length > self._line_limit():
            enhanced = "5.5.6" if self._in_auth() else "5.5.2"
            error = ProtocolError("Line too long", 500, enhanced, close=self._begins_with(b"BDAT"))
            return self._begin_skipping(error)
        if end < 0:
            return NEED_DATA
        self._position = end + 1
        if end > start and buffer[end - 1] == 13:
            return Line(buffer[start : end - 1])
        if self._normalize:
            return Line(buffer[start:end])
        # Raise at once: a client that sends bare LFs waits for its reply. After a refused BDAT the caller must close,
        # because the size of the chunk that follows is unknown.
        chunk = buffer[start : start + 4].upper() == b"BDAT"
        self._skipping = True
        self._dropped = length
        raise ProtocolError("A line ends with CRLF, never with LF alone", 500, "5.5.2", close=chunk)

    def _begins_with(self, verb: bytes) -> bool:
        return self._buffer[self._position : self._position + 4].upper() == verb

    def _in_auth(self) -> bool:
        return self.sasl or self._begins_with(b"AUTH")

    def _line_limit(self) -> int:
        return max(self._max_line, self._max_auth_line) if self._in_auth() else self._max_line

    def _begin_skipping(self, error: ProtocolError) -> Line | Literal[_NeedData.NEED_DATA]:
        self._skipping = error
        self._dropped = 0
        return self._skip_line()

    def _skip_line(self) -> Line | Literal[_NeedData.NEED_DATA]:
        """Drop octets up to the end of a refused line, and raise the line's error there unless it was raised before."""
        buffer, start = self._buffer, self._position
        mark = b"\n" if self._normalize else b"\r\n"
        end = buffer.find(mark, start)
        # A CR at the end of the buffer may be half of a CRLF: it stays.
        stop = end if end >= 0 else max(start, len(buffer) - buffer.endswith(b"\r"))
        self._dropped += stop - start
        self._position = stop
        if self._dropped > MAX_ENDLESS_LINE:
            raise ProtocolError("Line without an end", 500, "5.5.2", close=True)
        if end < 0:
            return NEED_DATA
        self._position = end + len(mark)
        error, self._skipping = self._skipping, None
        if isinstance(error, ProtocolError):
            raise error
        return self._next_line()

    # A chunk of BDAT

    def _next_of_chunk(self) -> Event:
        if not self._chunk_left:
            self._mode = _LINE
            return _END_OF_BODY
        start = self._position
        data = self._buffer[start : start + min(self._chunk_left, MAX_CHUNK)]
        if not data:
            return NEED_DATA
        self._position = start + len(data)
        self._chunk_left -= len(data)
        return BodyChunk(data)

    # The body of DATA

    def _next_body(self) -> Event:
        event: Event | None = None
        while event is None:
            start = self._position
            if start == len(self._buffer):
                return NEED_DATA
            # Normalizing at most doubles the octets, which keeps a chunk within MAX_CHUNK.
            data = self._buffer[start : start + (MAX_CHUNK // 2 if self._normalize else MAX_CHUNK)]
            dotted = self._at_line_start and data[:1] == b"."
            if dotted and data[1:3] == b"\r\n":
                self._position = start + 3
                self._mode = _LINE
                return _END_OF_BODY
            mark = _first_dot(data, 1 if dotted else 0)
            pieces = _dotted_lines(data, mark)
            stop = len(data) if pieces is not None else _measure(data, mark, dotted=dotted)
            if stop == 0:
                return NEED_DATA
            self._position = start + stop
            event = self._hand_on(data[:stop], mark, pieces, dotted=dotted)
        return event

    def _hand_on(
        self, octets: bytes, mark: int, pieces: list[bytes] | None, *, dotted: bool
    ) -> BodyChunk | MalformedBody | None:
        """Check a piece without end mark and half CRLF, and unstuff it; None: dropped, the body is malformed."""
        self._at_line_start = octets.endswith(b"\r\n")
        if self._malformed:
            return None
        if pieces is None:
            if not self._normalize and _has_bare_newline(octets):
                return self._refuse("a CR without LF" if re.search(_BARE_CR, octets) else "an LF without CR")
            if 0 <= mark < len(octets) - 2:
                pieces = octets.split(_STUFFED)
        data = octets if pieces is None else b"\r\n".join(pieces)  # faster than bytes.replace
        if dotted:
            data = data[1:]
        if self._normalize:
            data = re.sub(_ANY_NEWLINE, b"\r\n", data)
        # RFC 5321 section 4.5.3.1.6: a dot that was added for transparency does not count.
        if self._max_data_line is not None and self._longest_line(data) > self._max_data_line:
            return self._refuse(f"a line of more than {self._max_data_line} octets")
        return BodyChunk(data)

    def _refuse(self, reason: str) -> MalformedBody:
        self._malformed = True
        return MalformedBody(reason)

    def _longest_line(self, data: bytes) -> int:
        """The longest line that ends or goes on in this piece, its CRLF included."""
        lengths = [len(line) + 2 for line in data.split(b"\r\n")]
        lengths[-1] -= 2
        lengths[0] += self._line_length
        self._line_length = lengths[-1]
        return max(lengths)


def _first_dot(data: bytes, start: int) -> int:
    """The position of the CRLF before the first line that begins with a dot; -1: no line does."""
    dot = data.find(b".", start)  # Base64 has no dots, and this search takes a tenth of the other one's time
    found = _DOT_AT_LINE_START.search(data, max(0, dot - 2)) if dot >= 0 else None
    return -1 if found is None else found.start()


def _dotted_lines(data: bytes, mark: int) -> list[bytes] | None:
    """The lines without their ends and dots, when every line but the first begins with a dot; None for other pieces.

    Splitting is all such a piece needs. When no newline is left over, every one was a CRLF before a dot; an end mark
    would leave an empty line or a newline behind.
    """
    if mark < 0 or data.find(b"\r") != mark or not data.startswith(b".", data.rfind(b"\n") + 1):
        return None
    lines = data.split(_STUFFED)
    text = b"".join(lines)
    return None if b"\r" in text or b"\n" in text or b"" in lines else lines


def _measure(data: bytes, mark: int, *, dotted: bool) -> int:
    """How many octets can be handed on: those before an end mark, or before octets that may begin one."""
    if dotted and data in (b".", b".\r"):
        return 0
    if mark >= 0:
        end = data.find(b"\r\n.\r\n", mark)
        if end >= 0:
            return end + 2
        for kept in (b".", b".\r"):
            if data.endswith(b"\r\n" + kept):
                return len(data) - len(kept)
    return len(data) - data.endswith(b"\r")


def _has_bare_newline(data: bytes) -> bool:
    """Whether there is a CR without LF, or an LF without CR; Python's decoder of text files finds out in one pass."""
    decoder = io.IncrementalNewlineDecoder(None, translate=False)
    decoder.decode(str(data, "latin-1"), final=True)
    return decoder.newlines not in (None, "\r\n")
