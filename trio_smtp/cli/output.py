"""What the `trio-smtp` command writes while it serves: lines that never hold up the mail."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import TextIO

__all__ = ["LossyWriter"]

#: A pipe that has room takes so many octets at once (PIPE_BUF on Linux), and a character is at most four of them.
_PIECE = 4096 // 4


class LossyWriter:
    """Writes text to a stream, and drops what that does not take at once.

    A pipe that is full because its reader has stalled, or a terminal that was told to stop, would hold up whoever
    writes to it, and with that every client. One that is closed is no reason to refuse a message either.

    Args:
        stream: Gives the stream, such as ``sys.stdout``.
    """

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        self._stream = stream
        # The last text lost its end, which may have been a line's.
        self._cut = False

    def write(self, text: str) -> int:
        """Write as much of the text as is taken at once; returns its length."""
        stream = self._stream()
        length, encoding = len(text), stream.encoding
        # What cannot be encoded is escaped.
        text = ("\n" * self._cut + text).encode(encoding, "backslashreplace").decode(encoding)
        with contextlib.suppress(OSError):
            for start in range(0, len(text), _PIECE):
                if not _has_room(stream):
                    self._cut = self._cut or start > 0
                    return length
                # In one piece, and at once: otherwise another worker's line might stand between it and its end.
                stream.write(text[start : start + _PIECE])
                stream.flush()
            self._cut = False
        return length


def _has_room(stream: TextIO) -> bool:
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, ValueError):  # nothing that can be asked
        return True
