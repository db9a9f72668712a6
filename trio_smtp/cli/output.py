"""What the command `trio-smtp` prints: a reader that stalls never holds up mail, and closed streams are no error."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable
from typing import TextIO

__all__ = ["LossyWriter", "open_standard_streams", "say"]

#: A pipe that has room takes so many octets at once (PIPE_BUF on Linux), and a character is at most four of them.
_PIECE = 4096 // 4
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed, as after ``trio-smtp >&-``.

    Call it before anything else opens a descriptor. The system gives a new file or socket the lowest free number: where
    0, 1 or 2 is free, a client's connection would become the process's standard output.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # This is `number`, the lowest that is free. Programs that an App starts inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            # Not `number` itself, which may have been opened as something else since the stream was closed.
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(null, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - stays open


def say(stream: TextIO, text: str) -> None:
    """Write a line at once; a stream that does not take it is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):  # its reader is gone, or it is closed
        stream.write(f"{text}\n")
        stream.flush()


class LossyWriter:
    """Writes text to a stream, and drops what the stream does not take at once.

    A pipe that is full because its reader has stalled, or a terminal that was told to stop, would hold up the task that
    writes to it, and with that every client. A stream that is closed is no reason to refuse a message either.

    Args:
        stream: Gives the stream, such as ``sys.stdout``, or None; called at each write.
    """

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        self._stream = stream
        # The last text lost its end, perhaps with the end of a line.
        self._cut = False

    def write(self, text: str) -> int:
        """Write as much of the text as the stream takes at once; returns the text's length."""
        stream = self._stream()
        if stream is None:
            return len(text)
        length, encoding = len(text), stream.encoding
        # What cannot be encoded is escaped.
        text = ("\n" * self._cut + text).encode(encoding, "backslashreplace").decode(encoding)
        with contextlib.suppress(OSError, ValueError):
            for start in range(0, len(text), _PIECE):
                if not _has_room(stream):
                    self._cut = self._cut or start > 0
                    return length
                # In one piece and at once: otherwise another worker's line might stand in the middle of this one.
                stream.write(text[start : start + _PIECE])
                stream.flush()
            self._cut = False
        return length


def _has_room(stream: TextIO) -> bool:
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, ValueError):  # the stream has no descriptor that can be asked
        return True
