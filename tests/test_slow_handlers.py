"""Handlers that hold a session up on purpose: they flush, slow a message down, and hear of a drain."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_smtp import (
    App,
    AuthContext,
    Config,
    ConnectContext,
    DataContext,
    MessageIncomplete,
    RcptToContext,
    Reply,
    Session,
    SMTPError,
    SMTPServer,
)
from trio_smtp.testing import Client, MemoryListener, open_client

from .support import LARGE, mail_app, note_closes, start_data


async def test_flush_sends_what_waits_and_gives_handlers_their_time_anew(autojump_clock: MockClock) -> None:
    app = App()

    @app.on_rcpt_to
    async def slow(ctx: RcptToContext) -> None:
        await trio.sleep(0.5)
        await ctx.flush()
        await trio.sleep(599)

    async with open_client(app) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n")
        began = trio.current_time()
        assert (await client.read_reply()).code == 250
        assert trio.current_time() - began == 0.5
        assert (await client.read_reply()).code == 250
        assert trio.current_time() - began == 599.5


async def test_flush_to_a_client_that_is_gone_is_no_fault_of_the_handler(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    closed = note_closes(app)

    @app.on_rcpt_to
    async def slow(ctx: RcptToContext) -> None:
        await trio.sleep(1)
        await ctx.flush()

    async with open_client(app) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n")
        await client.aclose()
        await trio.sleep(2)
    assert closed == ["lost"]
    assert "failed" not in caplog.text


async def test_flush_where_nothing_waits(autojump_clock: MockClock) -> None:
    app, taken = mail_app()

    @app.on_data
    async def look(ctx: DataContext) -> None:
        await ctx.flush()

    async with open_client(app) as client:
        await client.ehlo()
        await client.send_message("a@example.org", ["b@example.com"], b"Hello")
    await ConnectContext(Session(), Reply(220, "no connection")).flush()
    assert taken == [b"Hello\r\n"]


async def test_a_message_is_slowed_down_before_each_receive(autojump_clock: MockClock) -> None:
    app = App()
    sizes: list[int] = []

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        ctx.stream.before_receive(wait)
        sizes.extend([len(chunk) async for chunk in ctx.stream])
        await ctx.stream.aclose()

    @app.on_data
    async def again(ctx: DataContext) -> None:
        return

    async def wait() -> None:
        await trio.sleep(10)

    async with open_client(app) as client:
        await client.ehlo()
        began = trio.current_time()
        assert (await client.send_message("a@example.org", ["b@example.com"], LARGE)).code == 250
        assert trio.current_time() - began == 10 * (len(sizes) + 1)
    assert sum(sizes) == len(LARGE)


async def test_a_replay_is_slowed_down_too(autojump_clock: MockClock) -> None:
    app = App()

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        await ctx.spool()
        ctx.stream.before_receive(wait)
        await ctx.stream.discard()

    async def wait() -> None:
        await trio.sleep(10)

    async with open_client(app) as client:
        await client.ehlo()
        began = trio.current_time()
        assert (await client.send_message("a@example.org", ["b@example.com"], b"Hello")).code == 250
        assert trio.current_time() - began == 20


async def test_what_waits_before_a_receive_raises_comes_out_of_it(autojump_clock: MockClock) -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        ctx.stream.before_receive(refuse)
        with pytest.raises(SMTPError, match="not now"):
            await ctx.stream.receive()
        ctx.stream.before_receive(trio.lowlevel.checkpoint)
        assert await ctx.stream.receive() == b"Hello\r\n"
        await ctx.stream.discard()

    async def refuse() -> None:
        raise SMTPError("not now", 451)

    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.send_message("a@example.org", ["b@example.com"], b"Hello")).code == 250


async def test_a_handler_that_only_watches_does_not_have_auth_offered(autojump_clock: MockClock) -> None:
    app = App()
    seen: list[str] = []

    async def watch(ctx: AuthContext) -> None:
        seen.append(ctx.credentials.username)

    app.on_auth(watch, offers=False)
    async with open_client(app, allow_insecure_auth=True) as client:
        assert "AUTH" not in (await client.ehlo()).text
    other = App()
    other.on_auth(watch, offers=False)

    @other.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept()

    async with open_client(other, allow_insecure_auth=True) as client:
        assert "AUTH PLAIN" in (await client.ehlo()).text
        assert (await client.auth_plain("ann", "secret")).code == 235
    assert seen == ["ann"]


async def test_wait_draining(autojump_clock: MockClock) -> None:
    server = SMTPServer(App(), Config(hostname="mx.example"))
    with trio.move_on_after(5) as scope:
        await server.wait_draining()
    assert scope.cancelled_caught
    server.drain()
    await server.wait_draining()


async def test_a_shielded_reader_ends_when_the_server_is_cancelled() -> None:
    app = App()
    raised: list[Exception] = []
    reading = trio.Event()

    @app.on_data
    async def read(ctx: DataContext) -> None:
        with trio.move_on_after(20, shield=True):
            await ctx.stream.receive()
            reading.set()
            try:
                await ctx.stream.receive()
            except MessageIncomplete as exc:
                raised.append(exc)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listener = MemoryListener()
            await nursery.start(SMTPServer(app).serve_listeners, [listener])
            client = Client(await listener.connect())
            await client.read_reply()
            await client.ehlo()
            await start_data(client)
            await client.send_bytes(b"Subject: half a message\r\n")
            await reading.wait()
            nursery.cancel_scope.cancel()
    assert len(raised) == 1
