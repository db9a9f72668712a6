"""Octets in, one event at a time out: lines, the dot-stuffed body of DATA, chunks of BDAT (RFC 5321, RFC 3030).

A `Framer` holds what has arrived and gives *one* event for each call of `next_event`. Whoever drives it sets its
mode before the next call, so that a body line can never be taken for a command, nor a command for a body line.

The body ends with CRLF . CRLF, or with ``.`` CRLF at its very start, and nothing else: LF.LF, LF.CRLF, CR.CR and their
like are what smuggling is made of. They are part of the message, or make it malformed (newlines.py has the three ways
to take an LF without CR; the third, for the clients in `Config.legacy_clients`, is the exception to all of this).

From chunk to chunk the framer remembers only whether it is at a line's start. Octets that may begin an end mark, or be
half of a CRLF, stay in the buffer until more arrives: at most two. Everything before them is handed on and forgotten.
A body is searched for bare CRs and LFs; behind the first of them its pieces are given to a `Mender`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import final

from .errors import ProtocolError
from .events import MAX_CHUNK, NEED_DATA, BodyChunk, EndOfBody, Event, Line, MalformedBody
from .newlines import LineMeter, Mender, Newlines, bare_lf
from .pieces import STUFFED, dotted_lines, first_dot, has_bare_newline, measure

__all__ = ["MAX_CHUNK", "NEED_DATA", "BodyChunk", "EndOfBody", "Event", "Framer", "Line", "MalformedBody"]

#: A line without an end after this many octets costs the connection.
MAX_ENDLESS_LINE = 65_536


_END_OF_BODY = EndOfBody()
# Seldom used: re compiles it at its first use, and keeps it.
_BARE_CR = rb"\r(?!\n)"
_BARE_LF = "an LF without CR"


class _Mode(enum.Enum):
    LINE = enum.auto()
    BODY = enum.auto()
    CHUNK = enum.auto()


# Aliases of members: see verbs.py.
_LINE, _BODY, _CHUNK = _Mode.LINE, _Mode.BODY, _Mode.CHUNK
_REJECT, _NORMALIZE, _LEGACY = Newlines.REJECT, Newlines.NORMALIZE, Newlines.LEGACY


class _Skipped:
    """A refused line whose rest is skipped: its error, raised at its end, and how many octets were dropped."""

    __slots__ = ("error", "octets")

    def __init__(self, error: ProtocolError) -> None:
        self.error = error
        self.octets = 0

    def drop(self, octets: int) -> None:
        """So many more octets were dropped."""
        self.octets += octets


@final  # where the module is compiled, nothing can inherit from it
class Framer:
    """Cuts what arrives into events.

    Args:
        max_line: Longest command line in octets, its end included.
        max_auth_line: The same for a line that begins with AUTH and for the lines of a SASL exchange.
        max_data_line: The longest line of a body, its CRLF included; None: no bound.
        normalize: In a body a bare LF becomes CRLF and a bare CR a space, where otherwise they make it malformed, and
            a bare LF ends a command line, where otherwise it costs the connection. It never ends a body.
        notice: Called at the first bare CR or LF of a body, and for each line that ends with a bare LF and is taken:
            with what came, and whether it is refused.
    """

    __slots__ = (
        "_at_line_start",
        "_buffer",
        "_chunk_left",
        "_malformed",
        "_max_auth_line",
        "_max_line",
        "_mender",
        "_meter",
        "_mode",
        "_newlines",
        "_notice",
        "_position",
        "_quick_line",
        "_skipped",
        "sasl",
    )

    def __init__(
        self,
        *,
        max_line: int = 2048,
        max_auth_line: int = 12_288,
        max_data_line: int | None = None,
        normalize: bool = False,
        notice: Callable[[str, bool], None] | None = None,
    ) -> None:
        self._max_line = max_line
        self._max_auth_line = max_auth_line
        self._newlines = _NORMALIZE if normalize else _REJECT
        self._notice = notice
        self._buffer = b""
        self._position = 0
        self._mode = _LINE
        #: The next lines belong to a SASL exchange: only the length rule holds for them.
        self.sasl: bool = False
        # A line of up to so many octets that ends with CRLF needs no further look.
        self._quick_line = max_line
        self._skipped: _Skipped | None = None
        # Body
        self._at_line_start = True
        self._malformed = False
        self._mender: Mender | None = None
        self._meter: LineMeter | None = None if max_data_line is None else LineMeter(max_data_line)
        # Chunks
        self._chunk_left = 0

    def use(self, newlines: Newlines) -> None:
        """Take the line ends that follow for this; not inside a body."""
        self._newlines = newlines
        self._quick_line = 0 if newlines is _LEGACY else self._max_line

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
        self._mender = Mender(at_line_start=True) if self._newlines is _LEGACY else None
        if self._meter is not None:
            self._meter.begin()

    @property
    def lone_dot(self) -> bool:
        """The present body had a line of a dot alone, with a bare CR or LF at it, which does not end it."""
        return self._mender is not None and self._mender.lone_dot

    @property
    def counted(self) -> int:
        """So many CRs of the body have come and are held back, because an LF may follow."""
        return 0 if self._mender is None else self._mender.returns

    def start_chunk(self, size: int) -> None:
        """The next events are those of a BDAT chunk of so many octets (RFC 3030): as they are, then EndOfBody."""
        self._mode = _CHUNK
        self._chunk_left = size

    def next_event(self) -> Event:
        """The next event in the present mode.

        Raises:
            ProtocolError: A line is too long, and the framer has passed it; or it has no end, or a bare LF where that
                is refused, and the connection must close.
        """
        if self._mode is _BODY:
            return self._next_body()
        if self._mode is _CHUNK:
            return self._next_of_chunk()
        line = self.next_line()
        return NEED_DATA if line is None else Line(line)

    # Lines

    def next_line(self) -> bytes | None:
        """The next line without its end, where lines are next; None: it has not come yet.

        Raises:
            ProtocolError: As `next_event`.
        """
        buffer, start = self._buffer, self._position
        # Nearly every line is complete, ends with CRLF, and is short enough for every limit.
        end = buffer.find(b"\n", start)
        if start < end < start + self._quick_line and buffer[end - 1] == 13 and self._skipped is None:
            self._position = end + 1
            return buffer[start : end - 1]
        return None if start == len(buffer) and self._skipped is None else self._unusual_line()

    def _unusual_line(self) -> bytes | None:
        buffer, start = self._buffer, self._position
        if self._skipped is not None:
            return self._skip_line(self._skipped)
        end = buffer.find(b"\n", start)
        length = (end + 1 if end >= 0 else len(buffer)) - start
        if length > self._max_line and length > self._line_limit():
            enhanced = "5.5.6" if self._in_auth() else "5.5.2"
            error = ProtocolError("Line too long", 500, enhanced, close=self._begins_with(b"BDAT"))
            self._skipped = _Skipped(error)
            return self._skip_line(self._skipped)
        if end < 0:
            return None
        self._position = end + 1
        if self._newlines is _LEGACY:
            return buffer[start:end].rstrip(b"\r")
        if end > start and buffer[end - 1] == 13:
            return buffer[start : end - 1]
        if self._newlines is _NORMALIZE:
            self._tell(_BARE_LF)
            return buffer[start:end]
        raise bare_lf()

    def _begins_with(self, verb: bytes) -> bool:
        return self._buffer[self._position : self._position + 4].upper() == verb

    def _in_auth(self) -> bool:
        return self.sasl or self._begins_with(b"AUTH")

    def _line_limit(self) -> int:
        return max(self._max_line, self._max_auth_line) if self._in_auth() else self._max_line

    def _tell(self, what: str) -> None:
        if self._notice is not None:
            self._notice(what, self._newlines is _REJECT)

    def _skip_line(self, skipped: _Skipped) -> bytes | None:
        """Drop octets up to the end of a refused line, and raise the line's error there."""
        buffer, start = self._buffer, self._position
        end = buffer.find(b"\n", start)
        # A CR at the end of the buffer may be half of a CRLF: it stays.
        stop = end if end >= 0 else max(start, len(buffer) - buffer.endswith(b"\r"))
        crlf = end > start and buffer[end - 1] == 13
        skipped.drop(stop - start - crlf)
        self._position = stop
        if skipped.octets > MAX_ENDLESS_LINE:
            raise ProtocolError("Line without an end", 500, "5.5.2", close=True)
        if end < 0:
            return None
        self._position = end + 1
        self._skipped = None
        raise skipped.error if crlf or self._newlines is not _REJECT else bare_lf()

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
            if self._mender is not None:
                event = self._next_mended(self._mender)
                continue
            data = self._buffer[start : start + MAX_CHUNK]
            dotted = self._at_line_start and data[:1] == b"."
            if dotted and data[1:3] == b"\r\n":
                return self._end_body(start + 3)
            mark = first_dot(data, 1 if dotted else 0)
            pieces = dotted_lines(data, mark)
            stop = len(data) if pieces is not None else measure(data, mark, dotted=dotted)
            if stop == 0:
                return NEED_DATA
            event = self._hand_on(data[:stop], mark, pieces, dotted=dotted)
        return event

    def _end_body(self, position: int) -> EndOfBody:
        self._position = position
        self._mode = _LINE
        return _END_OF_BODY

    def _hand_on(self, octets: bytes, mark: int, pieces: list[bytes] | None, *, dotted: bool) -> Event | None:
        """Check a piece without end mark and half CRLF, and unstuff it; None: it is malformed, or to be mended."""
        if pieces is None:
            if not self._malformed and has_bare_newline(octets):
                return self._find_bare(octets)
            if 0 <= mark < len(octets) - 2:
                pieces = octets.split(STUFFED)
        self._position += len(octets)
        self._at_line_start = octets.endswith(b"\r\n")
        data = octets if pieces is None else b"\r\n".join(pieces)  # faster than bytes.replace
        return self._check(data[1:] if dotted else data)

    def _find_bare(self, octets: bytes) -> MalformedBody | None:
        """The first piece with a bare CR or LF: from here on the body is mended, or malformed."""
        what = "a CR without LF" if re.search(_BARE_CR, octets) else _BARE_LF
        self._tell(what)
        self._mender = Mender()
        if self._newlines is _NORMALIZE:
            return None
        refusal = self._refuse(what)
        self._next_mended(self._mender)
        return refusal

    def _check(self, data: bytes) -> BodyChunk | MalformedBody | None:
        """What is handed on of a piece; None: nothing."""
        if self._malformed or not data:
            return None
        # RFC 5321 section 4.5.3.1.6: a dot that was added for transparency does not count.
        if self._meter is not None and not self._meter.allows(data):
            return self._refuse(f"a line of more than {self._meter.longest} octets")
        return BodyChunk(data)

    def _refuse(self, reason: str) -> MalformedBody:
        self._malformed = True
        return MalformedBody(reason)

    # A body that had a bare CR or LF, or any body of a legacy client

    def _next_mended(self, mender: Mender) -> Event | None:
        """The next event of such a body; None: a piece brought none. What is malformed is only searched for its end."""
        if mender.returns and not self._malformed:
            return self._end_run(mender)
        start = self._position
        data = self._buffer[start : start + MAX_CHUNK // 2]  # mending at most doubles the octets
        if self._newlines is _LEGACY:
            stop, after = mender.find_end(data)
            if stop <= 0:
                return self._end_body(start + after)
        else:
            dotted = self._at_line_start and data[:1] == b"."
            if dotted and data[1:3] == b"\r\n":
                return self._end_body(start + 3)
            stop = measure(data, first_dot(data, 1 if dotted else 0), dotted=dotted)
            if stop == 0:
                return NEED_DATA
            if self._at_line_start:
                mender.begin_line()
            self._at_line_start = data.endswith(b"\r\n", 0, stop)
        self._position = start + stop
        if self._malformed and self._newlines is not _LEGACY:
            mender.look(data[:stop])
            return None
        return self._check(mender.mend(data[:stop]))

    def _end_run(self, mender: Mender) -> Event | None:
        """CRs were counted: do they belong to the line end that comes, or are they spaces?"""
        start = self._position
        data = self._buffer[start : start + MAX_CHUNK]
        # The last CR stays: it may be half of a CRLF.
        more = max(0, len(data) - len(data.lstrip(b"\r")) - 1)
        mender.count(more)
        self._position = start = start + more
        following = self._buffer[start : start + 2]
        if following == b"\r":
            return NEED_DATA
        if following == b"\r\r":
            return None
        if following == b"\r\n" or following[:1] == b"\n":
            mender.end_run()
            return None
        return self._check(mender.take_spaces(MAX_CHUNK))
