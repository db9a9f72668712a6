"""Conversations that carry a corpus through a server, written down whole and cut anywhere; what must come of it."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Sequence

import attrs
import trio

from trio_smtp import Config, SMTPServer

from .corpus import CRLF

END = b".\r\n"
OPENING = b"EHLO client.example\r\n"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n"


# What a client makes of a message, and what the server must hand on (the definition)


def stuffed(message: bytes) -> bytes:
    """As RFC 5321 section 4.5.2 says: lines end with CRLF, so a dot is doubled at the start and after each of those."""
    return re.sub(rb"(\A|\r\n)\.", rb"\1..", message) + (b"" if message.endswith(CRLF) or not message else CRLF)


def stuffed_after_any_newline(message: bytes) -> bytes:
    """As smtplib does: a dot is doubled after LF of any kind."""
    return re.sub(rb"(\A|\n)\.", rb"\1..", message) + (b"" if message.endswith(CRLF) or not message else CRLF)


def is_strict(sent: bytes) -> bool:
    """Neither CR nor LF stands alone."""
    rest = sent.replace(CRLF, b"")
    return b"\r" not in rest and b"\n" not in rest


def handed_on(sent: bytes) -> bytes:
    """What is made of a body as it was sent, up to its end mark, where bare newlines are put right.

    LF ends a line, with whatever run of CR stands before; one leading dot goes, where something follows it; any other
    CR is a space.
    """
    lines = []
    for line in sent.split(b"\n"):
        text = line.rstrip(b"\r")
        if text.startswith(b".") and text != b".":
            text = text[1:]
        lines.append(text.replace(b"\r", b" "))
    return CRLF.join(lines)


# Conversations


@attrs.frozen
class Transaction:
    """What a client says from MAIL on, in the pieces that the server receives, and the number of replies to it."""

    pieces: Sequence[bytes]
    replies: int


def by_data(sent: bytes, places: Iterable[int] = ()) -> Transaction:
    """DATA with this body, stuffed; the end mark is added. It is cut at these places."""
    return Transaction([ENVELOPE + b"DATA\r\n", *cut(sent + END, places)], 4)


def by_bdat(message: bytes, places: Iterable[int] = (), *, chunks: Iterable[int] = ()) -> Transaction:
    """BDAT; chunks end at some places, and what is sent is cut at others."""
    parts = cut(message, chunks) or [b""]
    wire = b"".join(
        b"BDAT %d%s\r\n%s" % (len(part), b" LAST" if n == len(parts) else b"", part) for n, part in enumerate(parts, 1)
    )
    return Transaction([ENVELOPE, *cut(wire, places)], 2 + len(parts))


def cut(wire: bytes, places: Iterable[int]) -> list[bytes]:
    """The pieces between these places; none is empty, because that would be the end of the connection."""
    edges = sorted({0, *(place for place in places if place < len(wire)), len(wire)})
    return [wire[start:end] for start, end in itertools.pairwise(edges)]


def some_places(wire: bytes, chance: random.Random) -> list[int]:
    """Some places, and some around each line end or dot that is found: there a cut may do harm."""
    length = len(wire)
    places = [chance.randint(0, length) for _ in range(chance.randint(0, 5))]
    for _ in range(3):
        found = max(wire.find(b"\n", chance.randint(0, length)), 0)
        places.append(min(length, max(0, found + chance.randint(-3, 3))))
    return places


class Script(trio.abc.Stream):
    """The server's end of a connection to a client that has said everything beforehand: each receive gives a piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.said: list[bytes] = []
        self._pieces = iter(pieces)
        self._rest = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self._rest or next(self._pieces, b"")
        length = len(data) if max_bytes is None else max_bytes
        self._rest = data[length:]
        return data[:length]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.said.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def converse(server: SMTPServer, transactions: Sequence[Transaction]) -> list[str]:
    """Hold one session with all of them; gives the last reply to each, as code, enhanced code and text."""
    pieces = itertools.chain([OPENING], *(each.pieces for each in transactions), [b"QUIT\r\n"])
    stream = Script(pieces)
    await server.serve_stream(stream)
    lines = b"".join(stream.said).decode().split("\r\n")
    replies = [line for line in lines if line[3:4] == " "]
    assert replies[0].startswith("220 ")
    assert replies[1].startswith("250 ")
    at = 1
    found = []
    for each in transactions:
        at += each.replies
        found.append(replies[at])
    assert len(replies) == at + 2, replies[-5:]
    assert replies[-1].startswith("221 ")
    return found


def config(**changes: object) -> Config:
    """One session takes the whole corpus, and is refused what it pleases."""
    return Config(hostname="mx.example", max_errors=100_000, error_delay=0, **changes)  # type: ignore[arg-type]
