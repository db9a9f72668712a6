"""What the `trio-smtp` command writes while it serves: lines that never hold up the mail."""

from __future__ import annotations

import contextlib
import select
from typing import TextIO

__all__ = ["Unhurried"]

#: A pipe that has room takes so many octets at once (PIPE_BUF on Linux), and a character is at most four of them.
_PIECE = 4096 // 4


class Unhurried:
    """A stream of text that drops what nobody takes.

    A pipe that is full because its reader has stalled, or a terminal that was told to stop, would hold up whoever
    writes to it, and with that every client. One that is closed is no reason to refuse a message either.

    Args:
        stream: Such as ``sys.stdout``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as much of the text as is taken at once; returns its length."""
        # What cannot be encoded is escaped.
        encoding = self._stream.encoding
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        with contextlib.suppress(OSError):
            for start in range(0, len(text), _PIECE):
                if not self._has_room():
                    break
                # In one piece, and at once: otherwise another worker's line might stand between it and its end.
                self._stream.write(text[start : start + _PIECE])
                self._stream.flush()
        return len(text)

    def _has_room(self) -> bool:
        try:
            return bool(select.select([], [self._stream], [], 0)[1])
        except (OSError, ValueError):  # nothing that can be asked
            return True
