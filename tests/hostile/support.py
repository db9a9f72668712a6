"""What the hostile tests share: a raw client, a strict reader of replies, and an eye on the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import attrs
import trio
import trio.testing

from tests.support import start_data, start_transaction
from trio_smtp import App, DataContext, Envelope, SMTPServer
from trio_smtp.protocol.replies import MAX_REPLY_LINE, Reply, parse_reply
from trio_smtp.testing import Client

__all__ = ["Mailbox", "by_octet", "cut_at", "exchange", "replies_in", "run", "watched_log"]


@attrs.define(eq=False)
class Mailbox:
    """An App that takes every message, and what it took."""

    app: App = attrs.field(factory=App)
    taken: list[tuple[Envelope, bytes]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        @self.app.on_data
        async def take(ctx: DataContext) -> None:
            self.taken.append((ctx.envelope, await ctx.stream.read()))

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.taken]


def replies_in(wire: bytes) -> list[Reply]:
    """Everything a server said, as replies; anything malformed is an AssertionError or a ValueError."""
    assert wire == b"" or wire.endswith(b"\r\n"), f"cut off: {wire[-80:]!r}"
    replies: list[Reply] = []
    block = b""
    for line in wire.split(b"\r\n")[:-1]:
        block += line + b"\r\n"
        if line[3:4] != b"-":
            replies.append(_reply_in(block))
            block = b""
    assert block == b"", f"a reply without its last line: {block!r}"
    return replies


@lru_cache(maxsize=4096)  # the same replies come again and again
def _reply_in(block: bytes) -> Reply:
    for line in block.removesuffix(b"\r\n").split(b"\r\n"):
        assert len(line) + 2 <= MAX_REPLY_LINE or line.startswith(b"334"), f"too long: {line!r}"
        assert all(0x20 <= octet != 0x7F for octet in line), f"control octets: {line!r}"
    return parse_reply(block)


async def exchange(server: SMTPServer, segments: Iterable[bytes]) -> bytes:
    """Send these segments, each when the server has done all it can, then the end; returns all that came back."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, theirs)
        try:
            for segment in segments:
                await ours.send_all(segment)
                await trio.testing.wait_all_tasks_blocked()
            await ours.send_eof()
        except trio.BrokenResourceError:
            pass  # the server has heard enough
        said = b""
        while data := await ours.receive_some(65_536):
            said += data
    return said


def run(main: Callable[[], Awaitable[None]]) -> None:
    """`trio.run` with a clock that jumps, for tests of hypothesis, whose examples are runs of their own."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def by_octet(wire: bytes) -> Iterator[bytes]:
    """One octet at a time."""
    return (wire[i : i + 1] for i in range(len(wire)))


def cut_at(wire: bytes, *positions: int) -> list[bytes]:
    """The octets in segments that end at these positions."""
    ends = sorted({min(position, len(wire)) for position in positions} | {len(wire)})
    starts = [0, *ends[:-1]]
    return [wire[start:end] for start, end in zip(starts, ends, strict=True) if start < end]


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def watched_log(level: int = logging.WARNING, *, errors: bool = False) -> Iterator[list[logging.LogRecord]]:
    """The library's log while the block runs, from this level on; an error in it fails the test unless `errors`."""
    logger = logging.getLogger("trio_smtp")
    handler, before = _Records(), logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler.records
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
    if not errors:
        serious = [record.getMessage() for record in handler.records if record.levelno >= logging.ERROR]
        assert serious == [], serious


# How far a client gets


async def say_hello(client: Client) -> None:
    await client.ehlo()


async def half_by_data(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(b"Subject: half\r\n\r\nof it\r\n")


async def half_by_chunks(client: Client) -> None:
    await start_transaction(client)
    await client.send_bytes(b"BDAT 4\r\nhalf")
    assert (await client.read_reply()).code == 250
