"""Refuse mail that is in a loop: too many Received fields."""

from __future__ import annotations

import re

from trio_smtp import App, DataContext, Plugin, SMTPError

__all__ = ["ReceivedCounter", "received_loop"]

# Fixed first octet: the search passes over everything else at the speed of memchr, and matches never overlap.
_FIELD_OR_END = re.compile(rb"\n(?:[Rr][Ee][Cc][Ee][Ii][Vv][Ee][Dd][ \t]*(:)|\r?\n)")
_NAME = b"received"


def received_loop(limit: int = 50) -> Plugin:
    """Refuse a message that has more than `limit` `Received:` fields with 554 5.4.6.

    Each server that a message passes puts one in front of it, so that many mean a loop. The fields are counted in
    passing: nothing of the message is kept, and what reads it afterwards sees all of it. The plugin has to be
    installed before the handler that reads the message.

    Args:
        limit: How many fields are still let through.

    Returns:
        A plugin.

    Raises:
        ValueError: `limit` is not a positive int.

    Example:
        >>> app.use(received_loop()).use(maildir("mail"))

    RFC: RFC 5321 section 6.3; RFC 3463 section 3.5 (X.4.6).
    """
    if type(limit) is not int or limit < 1:
        raise ValueError(f"limit must be a positive int, not {limit!r}")

    async def watch(ctx: DataContext) -> None:
        counter = ReceivedCounter()

        def look(chunk: bytes) -> None:
            if counter.feed(chunk) > limit:
                raise SMTPError("Routing loop detected", 554, "5.4.6")

        ctx.stream.tap(look)

    def install(app: App) -> None:
        app.on_data(watch)

    return install


class ReceivedCounter:
    """Counts the `Received:` fields of a message that comes in pieces, cut anywhere.

    The header section ends at the first empty line. A line counts when it begins with the field's name, in any case,
    and a colon, with white space between them or without (RFC 5322 section 4.5); so a folded line does not count
    again. What is kept between two pieces is the beginning of a line as long as it may still become such a line,
    which is never longer than the name.

    Attributes:
        count: Fields seen so far.
    """

    __slots__ = ("_begun", "_in_body", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._in_body = False
        # A line begins after a line feed. The first one has a line feed too, so that it needs no case of its own.
        self._begun = b"\n"

    def feed(self, chunk: bytes) -> int:
        """Look at the next piece of the message.

        Args:
            chunk: Octets of any length.

        Returns:
            The fields seen so far.
        """
        if self._in_body:
            return self.count
        octets = self._begun + chunk
        for match in _FIELD_OR_END.finditer(octets):
            if match[1] is None:
                self._in_body = True
                return self.count
            self.count += 1
        self._begun = _undecided(octets)
        return self.count


def _undecided(octets: bytes) -> bytes:
    """The line feed and the beginning of the last line, when that may still become a field of ours or an empty line."""
    begin = octets.rfind(b"\n")
    if begin < 0:
        return b""
    line = octets[begin + 1 :]
    if line == b"\r":
        return b"\n\r"
    # White space between name and colon may be of any length, and is not kept.
    if line.rstrip(b" \t").lower() == _NAME:
        return b"\n" + _NAME
    return b"\n" + line if _NAME.startswith(line.lower()) else b""
