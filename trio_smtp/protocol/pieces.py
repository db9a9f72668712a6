"""What the framer asks of a piece of a body: where its dots are, how much can be handed on, is it clean."""

from __future__ import annotations

import io
import re

__all__ = ["STUFFED", "dotted_lines", "first_dot", "has_bare_newline", "measure"]

#: The end of a line and the dot that the next line begins with; the dot is taken out.
STUFFED = b"\r\n."
# The pattern begins with a literal, which re searches for in a plain loop.
_DOT_AT_LINE_START = re.compile(rb"\r\n\.")


def first_dot(data: bytes, start: int) -> int:
    """The position of the CRLF before the first line that begins with a dot; -1: no line does."""
    dot = data.find(b".", start)  # Base64 has no dots, and this search takes a tenth of the other one's time
    found = _DOT_AT_LINE_START.search(data, max(0, dot - 2)) if dot >= 0 else None
    return -1 if found is None else found.start()


def dotted_lines(data: bytes, mark: int) -> list[bytes] | None:
    """The lines without their ends and dots, when every line but the first begins with a dot; None for other pieces.

    Splitting is all such a piece needs. When no newline is left over, every one was a CRLF before a dot; an end mark
    would leave an empty line or a newline behind.
    """
    if mark < 0 or data.find(b"\r") != mark or not data.startswith(b".", data.rfind(b"\n") + 1):
        return None
    lines = data.split(STUFFED)
    text = b"".join(lines)
    return None if b"\r" in text or b"\n" in text or b"" in lines else lines


def measure(data: bytes, mark: int, *, dotted: bool) -> int:
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


def has_bare_newline(data: bytes) -> bool:
    """Whether there is a CR without LF, or an LF without CR; Python's decoder of text files finds out in one pass."""
    decoder = io.IncrementalNewlineDecoder(None, translate=False)
    decoder.decode(str(data, "latin-1"), final=True)
    return decoder.newlines not in (None, "\r\n")
