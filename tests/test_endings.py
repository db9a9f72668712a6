"""The end of a session: `on_close` exactly once with each reason, and streams that fail as no stream should."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_smtp import (
    AuthContext,
    CallNext,
    CloseContext,
    Config,
    HeloContext,
    MailFromContext,
    Mechanism,
    SASLContext,
    SMTPServer,
)
from trio_smtp.protocol.sasl import Exchange
from trio_smtp.testing import Client, MemoryListener, open_client

from .support import BODY, closed, crashes, logged, mail_app, note_closes, says, send, start_data, start_transaction

SECRET = "the words of the exception"

# --- on_close ---


async def quit_(client: Client) -> None:
    await client.quit()


async def vanish(client: Client) -> None:
    await client.aclose()


async def vanish_in_data(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(b"half")
    await client.aclose()


async def fall_silent(client: Client) -> None:
    assert (await client.read_reply()).code == 421


async def be_refused(client: Client) -> None:
    await client.ehlo()
    await client.command("MAIL FROM:<closed@example.org>")


async def abuse(client: Client) -> None:
    await client.command("GET / HTTP/1.1")


async def be_drained(client: Client) -> None:
    client.server.drain()
    await client.read_to_end()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (quit_, "quit"),
        (vanish, "lost"),
        (vanish_in_data, "lost"),
        (fall_silent, "timeout"),
        (be_refused, "refused"),
        (abuse, "abuse"),
        (be_drained, "drained"),
    ],
)
async def test_on_close_runs_once_with_the_reason(
    act: Callable[[Client], Awaitable[None]], reason: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app, _ = mail_app()

    @app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "closed":
            ctx.disconnect()

    reasons = note_closes(app)
    with caplog.at_level(logging.INFO, "trio_smtp"):
        async with open_client(app) as client:
            await act(client)
    assert reasons == [reason]
    assert len([line for line in logged(caplog, logging.INFO) if f"connection closed reason={reason} " in line]) == 1


async def test_on_close_may_wait_though_everything_is_cancelled(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    steps: list[str] = []

    @app.on_close
    async def slow(ctx: CloseContext) -> None:
        steps.append(ctx.reason)
        await trio.sleep(20)
        steps.append("done")

    with trio.CancelScope() as scope:
        async with open_client(app):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert steps == ["cancelled", "done"]


async def test_a_crash_of_on_close_is_logged_and_nobody_elses_trouble(caplog: pytest.LogCaptureFixture) -> None:
    app, taken = mail_app()

    @app.on_close
    async def crash(ctx: CloseContext) -> None:
        raise LookupError(SECRET)

    server, listener = SMTPServer(app), MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        for _ in range(2):
            client = Client(await listener.connect())
            await client.read_reply()
            await start_transaction(client)
            assert (await client.quit()).code == 221
            assert await closed(client)
            await client.aclose()
        server.drain()
    assert [line.partition(" ")[2] for line in crashes(caplog)] == ["on_close handler failed"] * 2
    assert taken == []


@pytest.mark.parametrize("shape", ["filter", "middleware", "middleware that went on"])
async def test_after_a_crash_of_one_on_close_the_others_run(shape: str, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    ran: list[str] = []

    @app.on_close
    async def first(ctx: CloseContext, call_next: CallNext) -> None:
        await call_next()
        ran.append("first")

    if shape == "filter":

        @app.on_close
        async def crash(ctx: CloseContext) -> None:
            raise LookupError(SECRET)

    else:

        @app.on_close
        async def crash_around(ctx: CloseContext, call_next: CallNext) -> None:
            if shape == "middleware that went on":
                await call_next()
            raise LookupError(SECRET)

    @app.on_close
    async def last(ctx: CloseContext) -> None:
        ran.append("last")

    async with open_client(app) as client:
        await client.quit()
    assert ran == ["last", "first"]
    assert [line.partition(" ")[2] for line in crashes(caplog)] == ["on_close handler failed"]


# --- streams that misbehave ---


class BrokenStream(trio.abc.Stream):
    """A stream around another that fails where it is told to, with what no stream should raise."""

    def __init__(self, stream: trio.abc.Stream, *faults: str) -> None:
        self.stream = stream
        self.faults = set(faults)

    def _maybe_fail(self, where: str) -> None:
        if where in self.faults:
            raise LookupError(SECRET)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._maybe_fail("receive")
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: Any) -> None:
        self._maybe_fail("send")
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        try:
            await self.stream.aclose()
        finally:
            self._maybe_fail("close")


@pytest.mark.parametrize(
    ("faults", "said", "lines"),
    [
        (["receive"], b"220 mx.example ESMTP\r\n421 Internal error\r\n", ["internal error", "closing failed"]),
        (["send"], b"", ["internal error", "closing failed"]),
        (["send", "receive", "close"], b"", ["internal error", "closing failed", "closing failed"]),
    ],
)
async def test_an_error_nobody_foresaw_ends_one_session_and_no_other(
    faults: list[str], said: bytes, lines: list[str], caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_client(app, hostname="mx.example") as client:
        await client.server.serve_stream(BrokenStream(theirs, *faults))
        assert await Client(ours).read_to_end() == said
        assert reasons == ["error"]
        await client.ehlo()
        assert (await send(client)).code == 250
    assert taken == [BODY]
    assert [line.partition(" ")[2] for line in crashes(caplog)] == lines


async def test_a_stream_that_fails_to_close_is_not_the_servers_end(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    ours, theirs = trio.testing.memory_stream_pair()
    server, client = SMTPServer(app), Client(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, BrokenStream(theirs, "close"))
        await client.read_reply()
        assert (await client.quit()).code == 221
        assert await closed(client)
    assert reasons == ["quit"]
    assert [line.partition(" ")[2] for line in crashes(caplog)] == ["closing failed"]


@pytest.mark.parametrize("moment", ["greeting", "reply", "354", "last words"])
async def test_a_client_that_is_gone_when_it_is_spoken_to(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)
    server = SMTPServer(app)
    async with trio.open_nursery() as nursery:
        if moment == "greeting":
            await ours.aclose()
        nursery.start_soon(server.serve_stream, theirs)
        if moment != "greeting":
            await client.read_reply()
        if moment == "reply":
            await client.send_bytes(b"NOOP\r\n")
        elif moment == "354":
            await start_transaction(client)
            await client.send_bytes(b"DATA\r\n")
        elif moment == "last words":
            await client.send_bytes(b"GET / HTTP/1.0\r\n")
        await ours.receive_stream.aclose()
        await ours.send_stream.aclose()
    assert reasons == ["abuse" if moment == "last words" else "lost"]
    assert crashes(caplog) == []
    assert taken == []
    assert server.stats.messages_incomplete == 0  # none has begun


async def test_a_clients_time_is_over_though_it_was_a_handler_that_used_it(autojump_clock: MockClock) -> None:
    app, _ = mail_app()

    @app.on_helo
    async def slow(ctx: HeloContext) -> None:
        await trio.sleep(5)

    async with open_client(app, command_timeout=10) as client:
        for _ in range(13):
            assert (await client.command("NOOP")).code == 250
            await trio.sleep(9)
        await client.send_bytes(b"NOOP\r\nEHLO client.example\r\n")  # answered from 117 to 122 seconds
        assert (await client.read_reply()).code == 250
        assert (await client.read_reply()).code == 250
        assert await says(client, 421, "4.4.2", "No message for too long")


async def test_a_client_that_is_gone_when_its_time_is_over_was_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with open_client(app, command_timeout=10) as client:
        for _ in range(13):
            assert (await client.command("NOOP")).code == 250
            await trio.sleep(9.3)
        await client.send_bytes(b"NOOP\r\n")
        await client.aclose()
    assert reasons == ["lost"]
    assert logged(caplog) == []


async def test_a_mechanism_that_ends_the_program_leaves_its_session_in_order() -> None:
    class Fatal(BaseException):
        pass

    def start(context: SASLContext) -> Exchange:
        try:
            yield b"challenge"
        finally:
            raise Fatal

    app, _ = mail_app()
    reasons = note_closes(app)

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept()

    server = SMTPServer(app, Config(auth_mechanisms=(Mechanism("X-FATAL", start),), allow_insecure_auth=True))
    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)

    async def vanish_in_the_exchange() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, theirs)
            await client.read_reply()
            await client.ehlo()
            assert (await client.command("AUTH X-FATAL")).code == 334
            await ours.send_stream.aclose()
            await client.read_to_end()

    with pytest.raises(BaseExceptionGroup) as caught:
        await vanish_in_the_exchange()
    assert caught.group_contains(Fatal, depth=2)
    assert reasons == ["cancelled"]
    with pytest.raises(trio.ClosedResourceError):
        await theirs.send_all(b"x")
