"""A server that has no descriptors left: the command in a process of its own, under a limit that is soon reached."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from trio_smtp import Reply
from trio_smtp.testing import Client

from .process_support import WAYS, Command, by_data, command

pytest.importorskip("resource", reason="limits of descriptors are a matter of POSIX")

LIMIT = 48
PAUSES = "accepting pauses"
SMALL = b"Subject: small\r\n\r\nHello\r\n"
LARGE = b"".join(b"%-62d\r\n" % n for n in range(10_000))


@attrs.define
class Crowd:
    """Clients that take all the places there are, and one that was there before."""

    running: Command
    client: Client
    waiting: list[trio.SocketStream] = attrs.field(factory=list)

    async def come(self) -> None:
        """More than the server has descriptors for; the rest waits to be accepted."""
        before = self.running.logged(PAUSES)
        for _ in range(LIMIT):
            self.waiting.append(await trio.open_tcp_stream("127.0.0.1", self.running.port))
        await self.wait_for_pauses(before + 1)

    async def wait_for_pauses(self, count: int) -> None:
        while self.running.logged(PAUSES) < count:
            # Who was there before is served all the time.
            assert (await self.client.command("NOOP")).code == 250

    async def go(self) -> None:
        """All but the last, which has not been greeted and will be now."""
        for stream in self.waiting[:-1]:
            await stream.aclose()
        last = Client(self.waiting.pop())
        assert (await last.read_reply()).code == 220
        assert (await last.ehlo()).code == 250
        assert (await by_data(last, SMALL)).code == 250
        assert (await last.quit()).code == 221
        await last.aclose()
        self.waiting.clear()


@asynccontextmanager
async def crowded(tmp_path: Path) -> AsyncIterator[tuple[Command, Crowd, Client]]:
    prefix = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(LIMIT)]
    async with command(prefix, tmp_path / "mail", tmp_path / "errors") as running, running.client() as client:
        crowd = Crowd(running, client)
        try:
            yield running, crowd, client
        finally:
            for stream in crowd.waiting:
                await trio.aclose_forcefully(stream)


async def test_accepting_pauses_and_goes_on(tmp_path: Path) -> None:
    async with crowded(tmp_path) as (running, crowd, client):
        began = time.monotonic()
        await crowd.come()
        await crowd.wait_for_pauses(4)
        # A line a pause, and every pause is a tenth of a second: it does not spin. Being slow makes that no less true.
        pauses = running.logged(PAUSES)
        assert time.monotonic() - began >= (pauses - 1) * 0.1
        for line, code in (("NOOP", 250), ("MAIL FROM:<>", 250), ("RCPT TO:<b@example.com>", 250), ("RSET", 250)):
            assert (await client.command(line)).code == code
        await crowd.go()
        assert (await by_data(client, SMALL)).code == 250
        async with running.client() as newcomer:
            assert (await by_data(newcomer, SMALL)).code == 250
        assert running.bodies() == [SMALL] * 3
    assert running.logged("Logging error") == 0


@pytest.mark.parametrize(
    ("way", "body", "before"),
    [
        *[pytest.param(way, SMALL, 1, id=f"{way.__name__}, small") for way in WAYS],
        *[pytest.param(way, LARGE, 1, id=f"{way.__name__}, large") for way in WAYS],
        pytest.param(by_data, SMALL, 0, id="the first"),
    ],
)
async def test_a_message_is_refused_for_now(
    tmp_path: Path, way: Callable[[Client, bytes], Awaitable[Reply]], body: bytes, before: int
) -> None:
    """The first may need modules that cannot be loaded now: that must not spoil them for the next."""
    async with crowded(tmp_path) as (running, crowd, client):
        for _ in range(before):
            assert (await way(client, body)).code == 250
        await crowd.come()
        for _ in range(3):
            reply = await way(client, body)
            assert (reply.code, reply.enhanced) == (451, "4.3.0")
        assert running.bodies() == [body] * before
        await crowd.go()
        assert (await way(client, body)).code == 250
        assert sorted(running.bodies()) == sorted([SMALL] + [body] * (before + 1))
        assert running.logged("ERROR") - running.logged(PAUSES) == 3


async def test_a_message_whose_file_is_open_already(tmp_path: Path) -> None:
    """The directory has to be synced too, and somebody else may get the last descriptor: it is whole, or not there."""
    mail = tmp_path / "mail"
    async with crowded(tmp_path) as (running, crowd, idle), running.client() as client:
        for line in ("MAIL FROM:<>", "RCPT TO:<b@example.com>"):
            assert (await client.command(line)).code == 250
        assert (await client.command("DATA")).code == 354
        await client.send_bytes(LARGE)
        while not list((mail / "tmp").iterdir()):
            assert (await idle.command("NOOP")).code == 250
        await crowd.come()
        accepted = (await client.command(b".")).code
        assert accepted in (250, 451)
        stored = [LARGE] if accepted == 250 else []
        assert running.bodies() == stored
        assert (await client.command("NOOP")).code == 250
        await crowd.go()
        assert (await by_data(client, LARGE)).code == 250
        assert sorted(running.bodies()) == sorted([*stored, SMALL, LARGE])
