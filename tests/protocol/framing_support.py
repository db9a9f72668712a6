"""What the tests of the framer share: ways to cut octets, and to drive a framer through them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.framing import NEED_DATA, BodyChunk, EndOfBody, Framer, Line, MalformedBody

ENDLESS = "500 5.5.2 Line without an end"
LF_ALONE = "500 5.5.2 A line ends with CRLF, never with LF alone"


def pull(framer: Framer) -> Line | BodyChunk | MalformedBody | EndOfBody | str | None:
    """The next event, None where more octets are needed, or an error's text."""
    try:
        event = framer.next_event()
    except ProtocolError as exc:
        return str(exc)
    return None if event is NEED_DATA else event


def segmentations(wire: bytes) -> Iterator[list[bytes]]:
    """Whole, octet by octet, and in two at every place."""
    yield [wire]
    yield [bytes([octet]) for octet in wire]
    for place in range(1, len(wire)):
        yield [wire[:place], wire[place:]]


def cut(wire: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut at these places, modulo the length."""
    edges = sorted({place % (len(wire) + 1) for place in places} | {0, len(wire)})
    return [wire[a:b] for a, b in itertools.pairwise(edges)]


def lines_of(framer: Framer, segments: Iterable[bytes]) -> list[bytes | str]:
    """What comes out in line mode: lines, and errors as text; nothing after the one that costs the connection."""
    found: list[bytes | str] = []
    for segment in segments:
        framer.feed(segment)
        while (event := pull(framer)) is not None:
            if isinstance(event, str):
                found.append(event)
                if event in (ENDLESS, LF_ALONE):
                    return found
            else:
                assert isinstance(event, Line)
                found.append(event.data)
    return found
