"""What the tests of BackgroundServer share."""

from __future__ import annotations

import asyncio
import smtplib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import trio

from trio_smtp import App, DataContext, Running
from trio_smtp.background import BackgroundServer

MESSAGE = b"Subject: Hi\r\n\r\nHello\r\n"


class Storing(App):
    """Takes messages, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[bytes] = []
        self.threads: set[int] = set()

        @self.on_data
        async def store(ctx: DataContext) -> None:
            self.stored.append(await ctx.stream.read())
            self.threads.add(threading.get_ident())


class Crashing(Storing):
    """Crashes when it is told to: `crash` is called in its thread."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()

        async def wait_and_fail() -> None:
            await self._told.wait()
            raise error

        @self.lifespan
        async def crash(running: Running) -> AsyncIterator[None]:
            self._told = trio.Event()
            running.nursery.start_soon(wait_and_fail)
            yield

    def crash(self) -> None:
        self._told.set()


def send(server: BackgroundServer, message: bytes = MESSAGE) -> None:
    """Send a message by smtplib."""
    with smtplib.SMTP(server.host, server.port, timeout=30) as client:
        client.sendmail("alice@example.com", ["bob@example.com"], message)


@contextmanager
def connected(server: BackgroundServer) -> Iterator[smtplib.SMTP]:
    """A client that has said EHLO, and is closed without a word."""
    client = smtplib.SMTP(server.host, server.port, timeout=30)
    try:
        client.ehlo()
        yield client
    finally:
        client.close()


def server_threads() -> set[threading.Thread]:
    """The threads that serve; that of the fixture `mailserver` is one for the whole run."""
    return {thread for thread in threading.enumerate() if "BackgroundServer" in thread.name}


@contextmanager
def no_thread_is_left() -> Iterator[None]:
    """After the block no server's thread is alive that was not before it, and no thread has ended by an exception."""
    failed: list[object] = []
    before = server_threads()
    hook, threading.excepthook = threading.excepthook, failed.append
    try:
        yield
        assert server_threads() <= before
        assert failed == []
    finally:
        threading.excepthook = hook


def in_asyncio(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine function; the whole run takes 30 seconds at most."""

    @wraps(function)
    def test(*args: Any, **options: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(30):
                await function(*args, **options)

        asyncio.run(limited(), debug=True)

    return test


class Peer:
    """A client in asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, server: BackgroundServer) -> Peer:
        """Connect, and read the greeting."""
        peer = cls(*await asyncio.open_connection(server.host, server.port))
        await peer.reply()
        return peer

    async def reply(self) -> str:
        """The last line of a reply; empty at the end of the connection."""
        while line := await self._reader.readline():
            if line[3:4] != b"-":
                return line.decode().rstrip()
        return ""

    async def command(self, line: str) -> str:
        """Send a line; the reply."""
        await self.send(f"{line}\r\n".encode())
        return await self.reply()

    async def send(self, octets: bytes) -> None:
        self._writer.write(octets)
        await self._writer.drain()

    async def begin(self) -> None:
        """Say all that goes before a message."""
        for line in ("EHLO client.example", "MAIL FROM:<alice@example.com>", "RCPT TO:<bob@example.com>"):
            assert (await self.command(line)).startswith("250"), line
        assert (await self.command("DATA")).startswith("354")

    async def message(self, message: bytes = MESSAGE) -> str:
        """Send a message; the reply to it."""
        await self.begin()
        await self.send(message + b".\r\n")
        return await self.reply()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
