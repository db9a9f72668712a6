"""What the tests of sessions share: Apps that take mail, the beginnings of dialogues, and the log."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import trio_smtp.connection.connection
from trio_smtp import App, CloseContext, Config, DataContext, Reply, SMTPServer
from trio_smtp.testing import Client

#: The library under test is the compiled build.
COMPILED = not str(trio_smtp.connection.connection.__file__).endswith(".py")
#: A small message, as it is handed to a handler.
BODY = b"Subject: test\r\n\r\nHello\r\n"
#: More than one receive brings: such a message is streamed.
LARGE = b"".join(b"%-62d\r\n" % n for n in range(3000))


def mail_app() -> tuple[App, list[bytes]]:
    """An App that takes every message, and the messages it took."""
    app = App()
    taken: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())

    return app, taken


def note_closes(app: App) -> list[str]:
    """The reasons `on_close` is given, as they come."""
    reasons: list[str] = []

    @app.on_close
    async def note(ctx: CloseContext) -> None:
        reasons.append(ctx.reason)

    return reasons


async def start_transaction(client: Client, *recipients: str) -> None:
    """EHLO, MAIL, and RCPT for each."""
    assert (await client.ehlo()).code == 250
    assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
    for recipient in recipients or ("b@example.com",):
        assert (await client.command(f"RCPT TO:<{recipient}>")).code == 250


async def start_data(client: Client, *recipients: str) -> None:
    """Everything up to the 354."""
    await start_transaction(client, *recipients)
    assert (await client.command("DATA")).code == 354


async def send(client: Client, data: bytes = BODY) -> Reply:
    """Send one message to one recipient."""
    return await client.send_message("a@example.org", ["b@example.com"], data)


async def closed(client: Client) -> bool:
    """Nothing more comes; the server closed."""
    return await client.read_to_end() == b""


def status(reply: Reply) -> tuple[int, str | None]:
    """What of a reply a program looks at."""
    return reply.code, reply.enhanced


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """The lines of the library's log of at least this level."""
    return [r.getMessage() for r in caplog.records if r.name == "trio_smtp" and r.levelno >= level]


def crashes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of crashes; each has its traceback."""
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert all(record.exc_info for record in records)
    return [record.getMessage() for record in records]


class Stopwatch:
    """Virtual seconds since it was made."""

    def __init__(self) -> None:
        self._start = trio.current_time()

    @property
    def seconds(self) -> float:
        return trio.current_time() - self._start


def slack(timeout: float) -> float:
    """How late a deadline may be, in seconds."""
    return min(1.0, timeout / 4)


def in_time(watch: Stopwatch, timeout: float) -> bool:
    """Not early, and not too late."""
    return timeout <= round(watch.seconds, 6) <= timeout + slack(timeout)


async def says(client: Client, code: int, enhanced: str, text: str = "") -> bool:
    """The last words of the server, and nothing after them."""
    reply = await client.read_reply()
    return reply.code == code and reply.enhanced in (enhanced, None) and text in reply.text and await closed(client)


@asynccontextmanager
async def raw_client(app: App, **changes: Any) -> AsyncIterator[Client]:
    """A client that has not read the greeting."""
    async with trio.open_nursery() as nursery:
        server = SMTPServer(app, Config(hostname="mx.example", **changes))
        ours, theirs = trio.testing.memory_stream_pair()
        client = Client(ours)
        client.server = server
        client.session = await nursery.start(server.serve_stream, theirs)
        yield client
        await client.aclose()
