"""`abort` ends a connection without a word, whatever else it does at that moment."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import Aborted, App, DataContext, MailFromContext, RcptToContext, Session, SMTPError
from trio_smtp.app.contexts import Context
from trio_smtp.protocol.replies import Reply
from trio_smtp.testing import Client, open_client

from .socket_support import connected, serving
from .support import LARGE, crashes, logged, mail_app, note_closes, raw_client, start_data
from .test_contexts import REFUSALS, Drive, app_that
from .tls_support import NAME

each_phase = pytest.mark.parametrize(
    ("phase", "drive"), [row[:2] for row in REFUSALS[1:]], ids=[row[0] for row in REFUSALS[1:]]
)


async def is_silent(client: Client) -> bool:
    with suppress(trio.BrokenResourceError):
        return await client.read_to_end() == b""
    return True


@each_phase
async def test_each_phase_may_abort(phase: str, drive: Drive) -> None:
    app = app_that(phase, lambda ctx: ctx.abort())
    reasons = note_closes(app)
    async with open_client(app, allow_insecure_auth=True) as client:
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
            await drive(client)
        assert await is_silent(client)
    assert reasons == ["aborted"]


async def test_on_connect_says_no_greeting() -> None:
    app = app_that("on_connect", lambda ctx: ctx.abort())
    reasons = note_closes(app)
    async with raw_client(app) as client:
        assert await is_silent(client)
        await trio.testing.wait_all_tasks_blocked()
        assert reasons == ["aborted"]


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("unread", [b"", b"NOOP\r\n" * 5000])
async def test_a_socket_is_reset_or_ends(reset: bool, unread: bytes) -> None:
    app = app_that("on_rcpt_to", lambda ctx: ctx.abort(reset=reset))
    async with serving(app) as server, connected(server) as client:
        await client.ehlo()
        # The replies to MAIL and NOOP wait for the end of the line, and are dropped.
        await client.send_bytes(b"NOOP\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n" + unread)
        if reset:
            with pytest.raises(trio.BrokenResourceError):
                await client.read_to_end()
        else:
            assert await client.read_to_end() == b""


@pytest.mark.parametrize("reset", [True, False])
async def test_tls_ends_without_a_close_notify(
    reset: bool, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app = app_that("on_mail_from", lambda ctx: ctx.abort(reset=reset))
    async with serving(app, ssl_context=server_ssl_context) as server, connected(server) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        below = client.stream
        assert isinstance(below, trio.SSLStream)
        await client.send_bytes(b"MAIL FROM:<a@example.org>\r\n")
        if reset:
            with pytest.raises(trio.BrokenResourceError):
                await below.transport_stream.receive_some()
        else:
            assert await below.transport_stream.receive_some() == b""


@pytest.mark.parametrize("reset", [True, False])
async def test_a_handler_on_its_way_stops_the_reader_at_once(reset: bool) -> None:
    app = App()
    reasons, began = note_closes(app), trio.Event()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.receive()
        began.set()
        await trio.testing.wait_all_tasks_blocked()  # the reader waits for more
        ctx.abort(reset=reset)

    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(LARGE)
        assert await is_silent(client)
        await began.wait()
        assert client.server.stats.messages_incomplete == 1
    assert reasons == ["aborted"]


async def test_between_chunks() -> None:
    app = App()
    reasons = note_closes(app)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.receive()
        await trio.testing.wait_all_tasks_blocked()
        ctx.abort()

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com>")
        await client.send_bytes(b"BDAT 2\r\nhi")
        with suppress(trio.EndOfChannel):
            await client.read_reply()
        assert await is_silent(client)
    assert reasons == ["aborted"]


async def test_swallowed_it_still_ends_the_connection() -> None:
    app = mail_app()[0]
    reasons = note_closes(app)

    @app.on_rcpt_to
    async def swallow(ctx: RcptToContext) -> None:
        with suppress(Aborted):
            ctx.abort(reset=False)
        with suppress(SMTPError):
            ctx.abort()  # the first call counts

    async with serving(app) as server, connected(server) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n")
        assert await client.read_to_end() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert reasons == ["aborted"]


@pytest.mark.parametrize("other", [SMTPError("No"), ValueError("crash")], ids=["a refusal", "a crash"])
async def test_it_wins_over_other_leaves_of_a_group(other: Exception, caplog: pytest.LogCaptureFixture) -> None:
    app = mail_app()[0]
    reasons = note_closes(app)

    @app.on_mail_from
    async def both(ctx: MailFromContext) -> None:
        async def fail() -> None:
            raise other

        async def abort() -> None:
            ctx.abort()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(abort)

    async with open_client(app) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<a@example.org>\r\n")
        assert await is_silent(client)
    assert reasons == ["aborted"]
    assert len(crashes(caplog)) == isinstance(other, ValueError)


async def test_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_client(app_that("on_helo", lambda ctx: ctx.abort())) as client:
        await client.send_bytes(b"EHLO c.example\r\n")
        assert await is_silent(client)
    assert "connection closed reason=aborted" in logged(caplog, logging.INFO)[-1]
    assert logged(caplog) == []


def test_a_context_without_a_connection_only_raises() -> None:
    ctx: Any = Context(Session(), Reply(250, "OK"))
    with pytest.raises(Aborted) as caught:
        ctx.abort()
    assert caught.value.code == 421


# From outside


@pytest.mark.parametrize("reset", [True, False])
async def test_a_server_aborts_its_connections_and_waits_for_their_ends(reset: bool) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with serving(app) as server:
        async with connected(server) as idle, connected(server) as busy:
            await start_data(busy)
            await server.abort_connections(reset=reset)
            assert server.sessions == []
            assert reasons == ["aborted", "aborted"]
            for client in (idle, busy):
                assert await is_silent(client)
        async with connected(server) as another:
            await another.ehlo()
            await server.abort_connections()
        await server.abort_connections()
    assert len(reasons) == 3


async def test_handlers_of_the_end_have_run_when_connections_are_aborted() -> None:
    app, _ = mail_app()
    ended: list[str] = []

    @app.on_close
    async def slow(ctx: object) -> None:
        await trio.sleep(0.05)
        ended.append("slow")

    async with open_client(app) as client:
        await client.server.abort_connections()
        assert ended == ["slow"]
