"""Drain: idle clients hear 421 at once, a transaction has its reply first, and `drain_timeout` ends the rest."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_smtp import App, AuthContext, ConnectContext, DataContext, Extension, MailFromContext, Session, SMTPServer
from trio_smtp.testing import Client, MemoryListener, open_client

from .support import (
    BODY,
    LARGE,
    Stopwatch,
    closed,
    mail_app,
    note_closes,
    raw_client,
    says,
    start_data,
    start_transaction,
)


async def greeted(client: Client) -> None: ...


async def ready(client: Client) -> None:
    await client.ehlo()


async def in_auth(client: Client) -> None:
    await client.ehlo()
    assert (await client.command("AUTH LOGIN")).code == 334


async def half_a_line(client: Client) -> None:
    await client.send_bytes(b"MAIL FR")
    await trio.testing.wait_all_tasks_blocked()


async def after_a_message(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(b".\r\n")
    assert (await client.read_reply()).code == 250


@pytest.mark.parametrize("reach", [greeted, ready, in_auth, half_a_line, after_a_message])
async def test_an_idle_client_hears_it_at_once(
    reach: Callable[[Client], Awaitable[None]], autojump_clock: MockClock
) -> None:
    app, _ = mail_app()

    @app.on_auth
    async def nobody(ctx: AuthContext) -> None: ...

    reasons = note_closes(app)
    async with open_client(app, allow_insecure_auth=True) as client:
        await reach(client)
        await trio.testing.wait_all_tasks_blocked()
        watch = Stopwatch()
        client.server.drain()
        client.server.drain()
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 0
    assert reasons == ["drained"]


async def test_a_transaction_in_flight_is_let_to_its_end(autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
        client.server.drain()
        await trio.sleep(10)
        assert (await client.command("RCPT TO:<b@example.com>")).code == 250
        assert (await client.command("DATA")).code == 354
        await trio.sleep(10)
        await client.send_bytes(BODY + b".\r\n")
        watch = Stopwatch()
        assert (await client.read_reply()).code == 250
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 0
    assert taken == [BODY]
    assert reasons == ["drained"]


@pytest.mark.parametrize("ending", ["RSET", "EHLO again.example"])
async def test_a_transaction_that_is_dropped_ends_there(ending: str, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await start_transaction(client)
        client.server.drain()
        watch = Stopwatch()
        assert (await client.command(ending)).code == 250
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 0


async def test_a_client_that_quits_while_draining_has_its_221(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with open_client(app) as client:
        await start_transaction(client)
        client.server.drain()
        assert (await client.quit()).code == 221
        assert await closed(client)
    assert reasons == ["quit"]


async def test_one_message_only_of_those_that_are_pipelined(autojump_clock: MockClock) -> None:
    """Commands that arrived already are answered up to the end of the transaction; what follows is not begun."""
    app, taken = mail_app()
    async with open_client(app) as client:
        await start_transaction(client)
        client.server.drain()
        await client.send_bytes(b"DATA\r\n")
        assert (await client.read_reply()).code == 354
        await client.send_bytes(BODY + b".\r\n")
        assert (await client.read_reply()).code == 250
        assert await says(client, 421, "4.3.2")
    assert taken == [BODY]


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
async def test_a_handler_at_work_is_let_to_its_end(data: bytes, autojump_clock: MockClock) -> None:
    app = App()
    done: list[int] = []

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        message = await ctx.stream.read()
        await trio.sleep(29)
        done.append(len(message))

    reasons = note_closes(app)
    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(data + b".\r\n")
        await trio.testing.wait_all_tasks_blocked()
        client.server.drain()
        assert (await client.read_reply()).code == 250
        assert await says(client, 421, "4.3.2")
    assert done == [len(data)]
    assert reasons == ["drained"]


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("read_first", [True, False])
async def test_drain_timeout_ends_a_handler(data: bytes, read_first: bool, autojump_clock: MockClock) -> None:
    app = App()
    cancelled: list[float] = []

    @app.on_data
    async def hang(ctx: DataContext) -> None:
        if read_first:
            await ctx.stream.read()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    reasons = note_closes(app)
    async with open_client(app, drain_timeout=30) as client:
        await start_data(client)
        await client.send_bytes(data + b".\r\n")
        await trio.testing.wait_all_tasks_blocked()
        watch = Stopwatch()
        client.server.drain()
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 30
        stats = client.server.stats
    assert len(cancelled) == 1
    assert reasons == ["drained"]
    assert (stats.messages_accepted, stats.messages_incomplete) == (0, 1)


@pytest.mark.parametrize("sent", [b"", b"half of it\r\n", LARGE])
async def test_drain_timeout_ends_a_message_that_does_not_end(sent: bytes, autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    async with open_client(app, drain_timeout=30) as client:
        await start_data(client)
        await client.send_bytes(sent)
        await trio.testing.wait_all_tasks_blocked()
        watch = Stopwatch()
        client.server.drain()
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 30
        assert client.server.stats.messages_incomplete == 1
    assert taken == []
    assert reasons == ["drained"]


async def test_drain_timeout_ends_a_transaction_that_goes_nowhere(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with open_client(app, drain_timeout=30) as client:
        await start_transaction(client)
        watch = Stopwatch()
        client.server.drain()
        for _ in range(5):
            await trio.sleep(5)
            assert (await client.command("NOOP")).code == 250
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 30
    assert reasons == ["drained"]


async def test_drain_timeout_0_ends_everything_at_once(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, drain_timeout=0) as client:
        await start_data(client)
        await client.send_bytes(b"half")
        await trio.testing.wait_all_tasks_blocked()
        watch = Stopwatch()
        client.server.drain()
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 0


async def test_the_handlers_of_another_phase_are_let_to_their_end(autojump_clock: MockClock) -> None:
    app, _ = mail_app()

    @app.on_mail_from
    async def slow(ctx: MailFromContext) -> None:
        await trio.sleep(5)
        ctx.reject("No")

    async with open_client(app) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<a@example.org>\r\n")
        await trio.testing.wait_all_tasks_blocked()
        client.server.drain()
        assert (await client.read_reply()).code == 550
        assert await says(client, 421, "4.3.2")


async def test_a_parser_of_the_program_that_drains_does_not_end_its_own_command(autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)

    def drain(value: str | bool) -> str:
        client.server.drain()
        return str(value)

    app.extend(Extension(keyword="XDRAIN", mail_parameters={"XDRAIN": drain}))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<a@example.org> XDRAIN=1")).code == 250
        assert (await client.command("RCPT TO:<b@example.com>")).code == 250
        assert (await client.command("DATA")).code == 354
        await client.send_bytes(BODY + b".\r\n")
        assert (await client.read_reply()).code == 250
        assert await says(client, 421, "4.3.2")
    assert (taken, reasons) == ([BODY], ["drained"])


async def test_an_argument_of_ehlo_that_drains_is_said_first(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)

    def drain(session: Session) -> str:
        client.server.drain()
        return "now"

    app.extend(Extension(keyword="XDRAIN", argument=drain))
    async with open_client(app) as client:
        assert "XDRAIN now" in (await client.ehlo()).lines
        assert await says(client, 421, "4.3.2")
    assert reasons == ["drained"]


async def test_a_drain_is_the_reason_though_a_handler_was_cancelled_before(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)

    @app.on_mail_from
    async def tidy_up(ctx: MailFromContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(20)

    async with open_client(app, handler_timeout=10) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<a@example.org>\r\n")
        await trio.sleep(15)
        client.server.drain()
        assert await says(client, 421, "4.3.2")
    assert reasons == ["drained"]


async def test_a_client_that_connects_just_now_is_greeted_and_told(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)

    @app.on_connect
    async def slow(ctx: ConnectContext) -> None:
        await trio.sleep(5)

    async with raw_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        client.server.drain()
        assert (await client.read_reply()).code == 220
        assert await says(client, 421, "4.3.2")
    assert reasons == ["drained"]


async def test_a_client_in_its_greeting_delay_hears_it_at_once(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with raw_client(app, greeting_delay=20) as client:
        await trio.testing.wait_all_tasks_blocked()
        watch = Stopwatch()
        client.server.drain()
        assert await says(client, 421, "4.3.2")
        assert watch.seconds == 0
    assert reasons == []


async def test_nothing_is_said_inside_a_handshake(
    server_ssl_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    app, _ = mail_app()
    async with raw_client(app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        await trio.testing.wait_all_tasks_blocked()
        client.server.drain()
        assert await closed(client)


async def test_a_drained_server_returns_when_all_are_gone_and_takes_nobody_new(autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    server, listener = SMTPServer(app), MemoryListener()
    returned = trio.Event()

    async def serve(task_status: trio.TaskStatus[object]) -> None:
        await server.serve_listeners([listener], task_status=task_status)
        returned.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        idle, busy = Client(await listener.connect()), Client(await listener.connect())
        for client in (idle, busy):
            await client.read_reply()
        await start_data(busy)
        server.drain()
        with pytest.raises(trio.BrokenResourceError):
            await listener.connect()
        assert await says(idle, 421, "4.3.2")
        await trio.testing.wait_all_tasks_blocked()
        assert not returned.is_set()
        await busy.send_bytes(BODY + b".\r\n")
        assert (await busy.read_reply()).code == 250
        assert await says(busy, 421, "4.3.2")
        await returned.wait()
    assert taken == [BODY]
    assert server.sessions == []
    assert server.stats.connections_open == 0


@pytest.mark.parametrize("reach", [ready, start_transaction, start_data])
async def test_cancelling_the_task_that_serves_stops_at_once(
    reach: Callable[[Client], Awaitable[None]], autojump_clock: MockClock
) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    server, listener = SMTPServer(app), MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        client = Client(await listener.connect())
        await client.read_reply()
        await reach(client)
        watch = Stopwatch()
        nursery.cancel_scope.cancel()
    assert watch.seconds == 0
    assert await closed(client)
    assert reasons == ["cancelled"]
    assert taken == []
    assert server.sessions == []
