"""drain() and cancellation of a server on real sockets, and over TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.socket_support import port_of
from trio_smtp import App, Config, ConnectContext, RcptToContext, SMTPServer
from trio_smtp.testing import Client, MemoryListener, open_client

from .socket_support import connected
from .support import BODY, Stopwatch, logged, mail_app, note_closes, start_data, start_transaction
from .tls_support import NAME, shake_hands

DRAINED = b"421 4.3.2 Service shutting down\r\n"


@asynccontextmanager
async def until_drained(app: App, config: Config | None = None) -> AsyncIterator[SMTPServer]:
    """A server on a socket; the block's end waits until it has returned by itself."""
    server = SMTPServer(app, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0))
        yield server


# Drain


async def test_an_idle_client_hears_it_at_once() -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with until_drained(app) as server, connected(server) as greeted, connected(server) as client:
        await client.ehlo()
        server.drain()
        assert await client.read_to_end() == DRAINED
        assert await greeted.read_to_end() == DRAINED.replace(b"4.3.2 ", b"")
        assert server.listeners == []
    assert reasons == ["drained", "drained"]


async def test_nobody_new_is_let_in() -> None:
    app, _ = mail_app()
    async with until_drained(app) as server:
        port = port_of(server)
        async with connected(server) as client:
            await start_transaction(client)
            server.drain()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", port)


@pytest.mark.parametrize("data_has_begun", [True, False])
async def test_a_transaction_in_flight_has_its_reply_first(data_has_begun: bool) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    async with until_drained(app) as server, connected(server) as client:
        if not data_has_begun:
            await start_transaction(client)
            server.drain()
            assert (await client.command("RCPT TO:<c@example.com>")).code == 250
            assert (await client.command("DATA")).code == 354
        else:
            await start_data(client)
            server.drain()
        await client.send_bytes(BODY + b".\r\n")
        assert await client.read_to_end() == b"250 2.0.0 Message accepted\r\n" + DRAINED
    assert taken == [BODY]
    assert reasons == ["drained"]


async def test_a_transaction_that_is_given_up_is_over() -> None:
    app, _ = mail_app()
    async with until_drained(app) as server, connected(server) as client:
        await start_transaction(client)
        server.drain()
        await client.send_bytes(b"RSET\r\n")
        assert await client.read_to_end() == b"250 2.0.0 OK\r\n" + DRAINED


async def test_a_handler_that_runs_is_let_end() -> None:
    app, taken = mail_app()
    entered, leave = trio.Event(), trio.Event()

    @app.on_rcpt_to
    async def wait(ctx: RcptToContext) -> None:
        entered.set()
        await leave.wait()

    async with until_drained(app) as server, connected(server) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_data, client)
            await entered.wait()
            server.drain()
            await trio.testing.wait_all_tasks_blocked()
            leave.set()
        await client.send_bytes(BODY + b".\r\n")
        assert await client.read_to_end() == b"250 2.0.0 Message accepted\r\n" + DRAINED
    assert taken == [BODY]


async def test_quit_is_still_answered() -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with until_drained(app) as server, connected(server) as client:
        await start_transaction(client)
        server.drain()
        await client.send_bytes(b"QUIT\r\n")
        assert await client.read_to_end() == b"221 2.0.0 Bye\r\n"
    assert reasons == ["quit"]


async def test_twice_is_once() -> None:
    app, _ = mail_app()
    async with until_drained(app) as server, connected(server) as client:
        server.drain()
        server.drain()
        assert await client.read_to_end() == DRAINED.replace(b"4.3.2 ", b"")
        server.drain()


async def test_over_tls_too(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    app, _ = mail_app()
    config = Config(ssl_context=server_ssl_context, implicit_tls=True)
    async with until_drained(app, config) as server:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
        await shake_hands(client, client_ssl_context)
        await client.ehlo()
        server.drain()
        assert await client.read_to_end() == DRAINED
        await client.aclose()


async def test_in_the_middle_of_an_auth_exchange() -> None:
    app, _ = mail_app()

    @app.on_auth
    async def auth(ctx: object) -> None:
        raise AssertionError("nobody gets as far as this")

    async with until_drained(app, Config(allow_insecure_auth=True)) as server, connected(server) as client:
        await client.ehlo()
        assert (await client.command("AUTH LOGIN")).code == 334
        server.drain()
        assert await client.read_to_end() == DRAINED


async def test_a_server_that_was_drained_before_serves_nobody() -> None:
    app, _ = mail_app()
    server = SMTPServer(app)
    server.drain()
    listeners = await server.listen_tcp(port=0)
    await server.serve_listeners(listeners)
    assert listeners[0].socket.fileno() == -1
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, theirs)
        client = Client(ours)
        assert (await client.read_reply()).code == 220
        assert await client.read_to_end() == DRAINED.replace(b"4.3.2 ", b"")
        await client.aclose()


# What does not end by itself


async def test_a_client_that_keeps_talking_is_cut_off_too(autojump_clock: trio.testing.MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, drain_timeout=30) as client, trio.open_nursery() as nursery:
        await start_transaction(client)
        watch = Stopwatch()
        client.server.drain()

        async def talk() -> None:
            while True:
                await trio.sleep(0.7)
                await client.send_bytes(b"NOOP\r\n")

        nursery.start_soon(talk)
        assert (await client.read_to_end()).endswith(b"250 2.0.0 OK\r\n" + DRAINED)
        assert 30 <= watch.seconds <= 31
        nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_take_its_replies_gets_no_421_in_the_middle_of_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    ours, theirs = trio.testing.memory_stream_pair()
    pump = theirs.send_stream.send_all_hook
    assert pump is not None

    async def stuck() -> None:
        await pump()
        await trio.sleep_forever()

    theirs.send_stream.send_all_hook = stuck
    server = SMTPServer(app, Config(hostname="mx.example", drain_timeout=10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, theirs)
        await trio.testing.wait_all_tasks_blocked()
        server.drain()
        await trio.sleep(9)
        assert len(server.sessions) == 1
        await trio.sleep(1.5)
        assert server.sessions == []
        assert await Client(ours).read_to_end() == b"220 mx.example ESMTP\r\n"
    assert reasons == ["drained"]


# Cancellation


async def test_cancelling_closes_sockets_at_once_and_runs_on_close() -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    server = SMTPServer(app)
    listeners = await server.listen_tcp(port=0)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, listeners)
        idle, busy = [Client(await trio.open_tcp_stream("127.0.0.1", port_of(server))) for _ in range(2)]
        await idle.read_reply()
        await busy.read_reply()
        await start_data(busy)
        await busy.send_bytes(b"half a message")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert reasons == ["cancelled", "cancelled"]
    assert (server.sessions, server.listeners) == ([], [])
    assert listeners[0].socket.fileno() == -1
    for client in (busy, idle):
        assert await client.read_to_end() == b""
        await client.aclose()
    assert taken == []
    assert server.stats.connections_open == 0
    assert server.stats.messages_incomplete == 1


async def test_cancelling_a_handler_is_not_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    cancelled = False

    @app.on_connect
    async def hang(ctx: ConnectContext) -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled = True
            raise

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(SMTPServer(app).serve_listeners, [listener])
        ours = await listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert cancelled
    assert await ours.receive_some() == b""
    assert logged(caplog) == []


async def test_cancelling_right_after_a_connection_came() -> None:
    """Its task has not begun when it is cancelled."""
    app, _ = mail_app()
    server = SMTPServer(app)
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        ours = await listener.connect()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")
    assert server.sessions == []
    assert server.stats.connections_open == 0


async def test_an_on_close_that_hangs_does_not_hold_up_the_end_for_ever(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()

    @app.on_close
    async def hang(ctx: object) -> None:
        await trio.sleep_forever()

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(SMTPServer(app).serve_listeners, [listener])
        await listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        watch = Stopwatch()
        nursery.cancel_scope.cancel()
    assert watch.seconds == pytest.approx(30)
    (line,) = logged(caplog)
    assert "on_close did not end in time" in line


async def test_starttls_and_a_drain(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    """A handshake that has begun is let end, and the 421 goes through TLS."""
    app, _ = mail_app()
    async with open_client(app, ssl_context=server_ssl_context) as client:
        assert (await client.command("STARTTLS")).code == 220
        await trio.testing.wait_all_tasks_blocked()
        client.server.drain()
        client.stream = trio.SSLStream(client.stream, client_ssl_context, server_hostname=NAME, https_compatible=True)
        assert await client.read_to_end() == DRAINED.replace(b"4.3.2 ", b"")
        assert client.server.stats.tls_handshakes == 1


async def test_a_client_that_never_pauses_begins_no_transaction_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)

    @app.on_rcpt_to
    async def think(ctx: RcptToContext) -> None:
        await trio.sleep(1)

    message = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\n"
    async with open_client(app) as client:
        await client.ehlo()
        await client.send_bytes(message * 5)
        await trio.sleep(1.5)
        client.server.drain()
        replies = [(await client.read_reply()).code for _ in range(9)]
        assert await client.read_to_end() == b""
    assert replies == [250, 250, 354, 250] * 2 + [421]
    assert len(taken) == 2
    assert reasons == ["drained"]
