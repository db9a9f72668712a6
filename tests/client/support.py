"""What the tests of the client share: the library's own server, and servers that follow a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
import trio.testing

from trio_smtp import App, Config, DataContext, Envelope, SMTPServer
from trio_smtp.client import Client, connect
from trio_smtp.testing import MemoryListener

#: Says whatever it likes on its end of a connection.
Script = Callable[[trio.abc.Stream], Awaitable[None]]


class Mailbox:
    """An App that takes every message, and what it took."""

    def __init__(self) -> None:
        self.app = App()
        self.taken: list[tuple[Envelope, bytes]] = []
        self.app.on_data(self._take)

    async def _take(self, ctx: DataContext) -> None:
        self.taken.append((ctx.envelope, await ctx.stream.read()))

    @property
    def messages(self) -> list[bytes]:
        return [message for _, message in self.taken]


@asynccontextmanager
async def in_memory(app: App, config: Config | None = None, **fields: Any) -> AsyncIterator[MemoryListener]:
    """The library's server, without sockets."""
    listener = MemoryListener()
    server = SMTPServer(app, config or Config(hostname="mx.example", **fields))
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_listeners, [listener])
        try:
            yield listener
        except Exception as error:  # noqa: BLE001 - raised again, bare
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def session(
    app: App, config: Config | None = None, *, url: str = "smtp://mx.example", **options: Any
) -> AsyncIterator[Client]:
    """A client of the library's server, without sockets."""
    options.setdefault("tls", "none")
    async with in_memory(app, config) as listener, connect(url, open_stream=listener.connect, **options) as client:
        yield client


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Callable[[], Awaitable[trio.abc.Stream]]]:
    """Servers that follow scripts, one for each connection; gives what opens a connection."""
    waiting = list(scripts)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def open_stream() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(_serve, waiting.pop(0), theirs)
            await trio.lowlevel.checkpoint()
            return ours

        try:
            yield open_stream
        except Exception as error:  # noqa: BLE001 - raised again, bare
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _serve(script: Script, stream: trio.abc.Stream) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the client closed
            await script(stream)


class Lines:
    """Reads a client's lines, one at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = b""

    async def next(self) -> bytes | None:
        """The next line without its CRLF; None at the end of the connection."""
        while b"\r\n" not in self._buffer:
            data = await self._stream.receive_some(65_536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line


def dialogue(replies: dict[str, bytes], *, greeting: bytes = b"220 mx\r\n", seen: list[bytes] | None = None) -> Script:
    """A server that answers each verb with fixed octets; ``"."`` is the end of a message, and other verbs get 250.

    An empty answer closes the connection.
    """

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(greeting)
        body = False
        while (line := await lines.next()) is not None:
            if seen is not None:
                seen.append(line)
            if body and line != b".":
                continue
            verb = "." if body else line.split(b" ")[0].decode().upper()
            body = False
            reply = replies.get(verb, b"354 go\r\n" if verb == "DATA" else b"250 ok\r\n")
            if not reply:
                return
            await stream.send_all(reply)
            body = verb == "DATA" and reply.startswith(b"354")

    return serve


def usable(client: Client) -> bool:
    """Whether the session can go on; asked by a function, so that type checkers do not take it to be constant."""
    return client.usable
