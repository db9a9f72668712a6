"""What is made of line ends that are not CRLF in the body of DATA: mends one body, piece by piece.

An LF without CR is a line end and begins a line, whose dot is unstuffed. CRs directly before an LF belong to that line
end. Every other CR is a space. Where a body ends is decided before, by the octets as they were sent; only for the
clients in `Config.legacy_clients` may any line end stand around the dot (`Mender.find_end`).

A run of CRs is counted until the octet behind it has come, so that a run of any length takes no memory, and each of its
CRs is looked at once.
"""

from __future__ import annotations

import enum
import re
from typing import final

from .errors import ProtocolError

__all__ = ["LineMeter", "Mender", "Newlines", "bare_lf"]

_LF_HINT = '(Config(bare_newline="normalize") takes such lines; legacy_clients takes them from networks of your own)'


class Newlines(enum.Enum):
    """What an LF without CR, and a CR without LF, are taken for."""

    #: An LF that ends a command line costs the connection; in a body either makes it malformed.
    REJECT = enum.auto()
    #: An LF ends a command line, and a line of a body; it has no part in an end mark.
    NORMALIZE = enum.auto()
    #: An LF ends every line, that of an end mark too.
    LEGACY = enum.auto()


# `++` and `*+` give back nothing of a run, and the lookbehind begins at its first CR alone: no run is read twice.
_LINE_END = re.compile(rb"(?<!\r)\r++\n")
_END_MARK = re.compile(rb"\n\.\r*+\n")
# The dot of a line that goes on behind it.
_STUFFED = re.compile(rb"\n\.(?=[^\n])")


@final
class Mender:
    """Mends the line ends of one body.

    Args:
        at_line_start: The first octet begins a line, for `find_end`.

    Attributes:
        returns: So many CRs have come, and not yet the octet behind them.
        lone_dot: The body had a line of a dot alone that did not end it.
    """

    __slots__ = ("_last", "lone_dot", "returns")

    def __init__(self, *, at_line_start: bool = False) -> None:
        # b"\n" at the start of a line, b"\n." behind a dot there, which is not handed on yet, b"" further on.
        self._last = b"\n" if at_line_start else b""
        self.returns: int = 0
        self.lone_dot: bool = False

    def mend(self, octets: bytes) -> bytes:
        """Mend a piece of the body and unstuff its dots.

        Returns:
            At most twice as many octets. CRs at the end of the piece are counted, and not among them.
        """
        text = octets.rstrip(b"\r")
        returns = len(octets) - len(text)
        if not text:
            self.returns += returns
            return b""
        context = self._context()
        self.returns = returns
        text = context + text
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
            if b"\r" in text:
                text = _LINE_END.sub(b"\n", text).replace(b"\r", b" ")
        if text.endswith(b"\n."):
            self._last = b"\n."
            text = text[:-1]
        else:
            self._last = b"\n" if text.endswith(b"\n") else b""
        if b"\n." in text:
            self.lone_dot = self.lone_dot or b"\n.\n" in text
            text = _STUFFED.sub(b"\n", text)
        if context:
            text = text[1:]  # the line end that `_last` begins with was handed on before
        return text.replace(b"\n", b"\r\n")

    def look(self, octets: bytes) -> None:
        """Look for a lone dot in a piece of a body that is malformed: nothing of it is handed on."""
        text = self._last + octets
        if b"\n." in text and not self.lone_dot:
            self.lone_dot = _END_MARK.search(text) is not None
        self._last = text[-3:]

    def begin_line(self) -> None:
        """The next octet begins a line."""
        self._last = b"\n"

    def count(self, returns: int) -> None:
        """So many more CRs have come."""
        self.returns += returns

    def end_run(self) -> None:
        """An LF came behind the CRs: they belong to its line end."""
        self.returns = 0

    def take_spaces(self, most: int) -> bytes:
        """No LF came behind the CRs: returns a space for each, at most so many at a time."""
        self._last = b""
        count = min(self.returns, most)
        self.returns -= count
        return b" " * count

    def find_end(self, octets: bytes) -> tuple[int, int]:
        """Find an end mark with any line ends around its dot.

        Returns:
            Where the line of the dot begins, not above 0 when that is before these octets, and where the end mark
            ends; the length of the octets, twice, when there is none.
        """
        context = self._context()
        match = _END_MARK.search(context + octets)
        if match is None:
            return len(octets), len(octets)
        return match.start() + 1 - len(context), match.end() - len(context)

    def _context(self) -> bytes:
        """What stands before the next octet, as far as it matters to it; one CR for a run of them."""
        return self._last + b"\r" if self.returns else self._last


@final
class LineMeter:
    """Measures the lines of a body.

    Args:
        longest: The longest line that is allowed, in octets, its CRLF included.

    Attributes:
        longest: As given.
    """

    __slots__ = ("_length", "longest")

    def __init__(self, longest: int) -> None:
        self.longest: int = longest
        self._length = 0

    def begin(self) -> None:
        """Another body begins."""
        self._length = 0

    def allows(self, data: bytes) -> bool:
        """Whether no line that ends or goes on in this piece is too long."""
        lengths = [len(line) + 2 for line in data.split(b"\r\n")]
        lengths[-1] -= 2
        lengths[0] += self._length
        self._length = lengths[-1]
        return max(lengths) <= self.longest


def bare_lf() -> ProtocolError:
    """The error of a command line that ends with LF alone, where that is refused.

    Its client ends every line with LF and would wait for replies that it never gets: the connection closes.
    """
    error = ProtocolError("A line ends with CRLF, never with LF alone", 500, "5.5.2", close=True)
    error.hint = _LF_HINT
    return error
