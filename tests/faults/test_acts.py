"""Each act at each place, in memory and in virtual time: what the client sees, and what was taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from trio_smtp import Config, SMTPServer
from trio_smtp.plugins.faults import Place
from trio_smtp.testing import Client, MemoryListener

from .support import CLOSED, Taken, said

#: What a client sends in a whole session in which nothing fails, by the place, and the code that it hears.
STEPS: dict[Place, tuple[str, str]] = {
    "helo": ("EHLO client.example", "250"),
    "auth": ("AUTH PLAIN AGFubgBzZWNyZXQ=", "235"),
    "mail": ("MAIL FROM:<a@example.org>", "250"),
    "rcpt": ("RCPT TO:<b@example.com>", "250"),
    "data": ("DATA", "354"),
    "end": ("Subject: x\r\n\r\nHello\r\n.", "250"),
    "quit": ("QUIT", "221"),
}
AFTER_CONNECT = list(STEPS)


@asynccontextmanager
async def raw_client(taken: Taken) -> AsyncIterator[Client]:
    """A client that has not read the greeting."""
    listener = MemoryListener()
    server = SMTPServer(taken.app, Config(hostname="mx.example", allow_insecure_auth=True))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        client = Client(await listener.connect())
        yield client
        await client.aclose()
        nursery.cancel_scope.cancel()


async def up_to(client: Client, place: Place) -> str:
    """Lead a session up to a place; what the client hears there."""
    heard = await said(client)
    if place == "connect":
        return heard
    assert heard == "220"
    for name, (line, code) in STEPS.items():
        heard = await said(client, line)
        if name == place:
            break
        assert heard == code, name
    return heard


def ok(place: Place) -> str:
    return "220" if place == "connect" else STEPS[place][1]


WITH_A_REPLY: Sequence[Place] = ["connect", *STEPS]


async def test_nothing_fails_where_there_are_no_rules(autojump_clock: MockClock) -> None:
    taken = Taken()
    async with raw_client(taken) as client:
        assert await up_to(client, "quit") == "221"
    assert taken.messages == [(b"Subject: x\r\n\r\nHello\r\n", ["b@example.com"])]


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_fail_is_the_reply(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f'{place} fail 554 "No way"')
    async with raw_client(taken) as client:
        assert await up_to(client, place) == "554"
    assert [rule.hits for rule in taken.rules] == [1]
    assert len(taken.messages) == (place == "quit")


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_delay_holds_the_reply_up(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} delay 42")
    async with raw_client(taken) as client:
        began = trio.current_time()
        assert await up_to(client, place) == ok(place)
        assert 42 <= trio.current_time() - began < 43


@pytest.mark.parametrize("act", ["disconnect", "reset"])
@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_disconnect_and_reset_leave_no_reply(place: Place, act: str, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} {act}")
    async with raw_client(taken) as client:
        assert await up_to(client, place) == CLOSED
    assert len(taken.messages) == (place in ("end", "quit"))


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_disconnect_after_the_reply(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} disconnect before_reply=false")
    async with raw_client(taken) as client:
        assert await up_to(client, place) == ok(place)
        assert await said(client) == CLOSED
