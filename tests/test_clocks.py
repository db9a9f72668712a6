"""The clocks of Config that are the client's, each with its exact bounds: never early, and at most the slack late.

The slack is a quarter of the timeout and at most a second; `session_timeout` has none.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_smtp import App, AuthContext, Config, DataContext, MessageIncomplete, SMTPServer
from trio_smtp.testing import Client, open_client

from .support import (
    BODY,
    LARGE,
    Stopwatch,
    closed,
    in_time,
    logged,
    mail_app,
    note_closes,
    raw_client,
    says,
    slack,
    start_data,
    start_transaction,
    status,
)

TIMEOUTS = pytest.mark.parametrize("timeout", [0.2, 2, 4, 300])


# --- command_timeout ---


async def in_mail(client: Client) -> None:
    await client.ehlo()
    await client.command("MAIL FROM:<a@example.org>")


async def in_auth(client: Client) -> None:
    await client.ehlo()
    assert (await client.command("AUTH LOGIN")).code == 334


async def greeted(client: Client) -> None:
    assert client.greeting.code == 220


async def ready(client: Client) -> None:
    await client.ehlo()


async def half_a_line(client: Client) -> None:
    await client.send_bytes(b"NOO")


async def half_a_long_line(client: Client) -> None:
    await client.send_bytes(b"NOOP" + b" " * 5000)


def auth_app() -> App:
    app, _ = mail_app()

    @app.on_auth
    async def nobody(ctx: AuthContext) -> None: ...

    return app


@TIMEOUTS
@pytest.mark.parametrize("reach", [greeted, ready, in_mail, start_transaction, in_auth, half_a_line, half_a_long_line])
async def test_an_idle_client_is_told_and_closed(
    timeout: float, reach: Callable[[Client], Awaitable[None]], autojump_clock: MockClock
) -> None:
    app = auth_app()
    reasons = note_closes(app)
    async with open_client(app, command_timeout=timeout, allow_insecure_auth=True) as client:
        watch = Stopwatch()
        await reach(client)
        assert await says(client, 421, "4.4.2")
        assert in_time(watch, timeout)
    assert reasons == ["timeout"]


@TIMEOUTS
async def test_a_drip_of_octets_does_not_hold_a_line_open(timeout: float, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, command_timeout=timeout) as client, trio.open_nursery() as nursery:
        watch = Stopwatch()

        async def drip() -> None:
            while True:
                await trio.sleep(timeout / 7)
                await client.send_bytes(b"x")

        nursery.start_soon(drip)
        assert await says(client, 421, "4.4.2")
        assert in_time(watch, timeout)
        nursery.cancel_scope.cancel()


@TIMEOUTS
@pytest.mark.parametrize("pause", [0.01, 0.2, 0.33, 0.75, 0.99])
async def test_each_line_has_the_whole_time(timeout: float, pause: float, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, command_timeout=timeout) as client:
        for _ in range(8):
            await trio.sleep(pause * timeout)
            assert (await client.command("NOOP")).code == 250
        watch = Stopwatch()
        assert await says(client, 421, "4.4.2")
        assert in_time(watch, timeout)


# --- data_timeout and min_data_rate ---


@TIMEOUTS
@pytest.mark.parametrize("sent", [b"", b"x", b"half a message\r\n", LARGE])
async def test_silence_in_data(timeout: float, sent: bytes, autojump_clock: MockClock) -> None:
    app = App()
    errors: list[type[Exception]] = []
    reasons = note_closes(app)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        except MessageIncomplete as exc:
            errors.append(type(exc))
            raise

    async with open_client(app, data_timeout=timeout) as client:
        await start_data(client)
        await client.send_bytes(sent)
        watch = Stopwatch()
        assert await says(client, 421, "4.4.2")
        assert in_time(watch, timeout)
        stats = client.server.stats
    assert errors == ([MessageIncomplete] if sent else [])
    assert reasons == ["timeout"]
    assert (stats.messages_incomplete, stats.messages_accepted) == (1, 0)


@pytest.mark.parametrize("data_timeout", [0.5, 10])
async def test_data_timeout_is_between_blocks(data_timeout: float, autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app, data_timeout=data_timeout, min_data_rate=0) as client:
        await start_data(client)
        for octet in BODY + b".\r\n":
            await trio.sleep(0.99 * data_timeout)
            await client.send_bytes(bytes([octet]))
        assert (await client.read_reply()).code == 250
    assert taken == [BODY]


async def drip_body(client: Client, every: float, size: int) -> None:
    """A body without an end, some octets at a time."""
    while True:
        await client.send_bytes(b"x" * size)
        await trio.sleep(every)


@pytest.mark.parametrize(("every", "size"), [(1, 1), (1, 90), (10, 500), (0.1, 9)])
async def test_a_body_slower_than_the_rate_is_cut_after_a_minute(
    every: float, size: int, autojump_clock: MockClock
) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with open_client(app) as client, trio.open_nursery() as nursery:
        await start_data(client)
        watch = Stopwatch()
        nursery.start_soon(drip_body, client, every, size)
        assert await says(client, 421, "4.4.2", "slow")
        assert 60 < watch.seconds <= 60 + every + 0.001
        nursery.cancel_scope.cancel()
    assert reasons == ["timeout"]


@pytest.mark.parametrize(("rate", "size"), [(100, 101), (10, 11), (0, 1)])
async def test_a_body_faster_than_the_rate_may_take_its_time(rate: float, size: int, autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app, min_data_rate=rate) as client:
        await start_data(client)
        with trio.move_on_after(1000.5):
            await drip_body(client, 1, size)
        await client.send_bytes(b"\r\n.\r\n")
        assert (await client.read_reply()).code == 250
    assert taken == [b"x" * size * 1001 + b"\r\n"]


async def test_the_rate_is_an_average(autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(b"x" * 60_000)
        for _ in range(4):
            await trio.sleep(120)
            await client.send_bytes(b"x")
        await client.send_bytes(b"\r\n.\r\n")
        assert (await client.read_reply()).code == 250
    assert len(taken[0]) == 60_006


async def test_what_is_thrown_away_counts_for_the_rate(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, bare_newline="reject") as client:
        await start_data(client)
        await client.send_bytes(b"a bare\nnewline\r\n")
        with trio.move_on_after(300.5):
            await drip_body(client, 1, 200)
        await client.send_bytes(b"\r\n.\r\n")
        assert status(await client.read_reply()) == (550, "5.6.0")


# --- send_timeout ---


@asynccontextmanager
async def deaf_client(app: App, **changes: Any) -> AsyncIterator[tuple[Client, trio.Event]]:
    """A client whose octets nobody buffers: what it does not read blocks the server. With it, the session's end."""
    server = SMTPServer(app, Config(hostname="mx.example", **changes))
    ours, theirs = trio.testing.lockstep_stream_pair()
    over = trio.Event()

    async def serve() -> None:
        await server.serve_stream(theirs)
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield Client(ours), over
        await over.wait()


@TIMEOUTS
async def test_a_peer_that_never_reads_is_closed_without_a_word(timeout: float, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with deaf_client(app, send_timeout=timeout) as (client, over):
        watch = Stopwatch()
        await over.wait()
        assert in_time(watch, timeout)
        assert await client.read_to_end() == b"220 mx.example ESMTP\r\n"
    assert reasons == ["timeout"]


async def test_a_message_begins_when_the_client_has_read_the_354(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    app, _ = mail_app()
    async with deaf_client(app, send_timeout=60) as (client, over):
        await client.read_reply()
        await client.send_bytes(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        await trio.sleep(30)
        for _ in range(4):
            await client.read_reply()
        await client.send_bytes(b"x\r\n.\r\n")
        await client.read_reply()
        await client.aclose()
        await over.wait()
    (line,) = [line for line in logged(caplog, logging.INFO) if " message from=" in line]
    assert line.endswith(" size=3 reply=250 seconds=0.000")


@TIMEOUTS
async def test_a_peer_that_stops_reading(timeout: float, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with deaf_client(app, send_timeout=timeout, command_timeout=1000) as (client, over):
        assert (await client.read_reply()).code == 220
        await trio.sleep(100)
        await client.send_bytes(b"NOOP\r\n" * 100)
        watch = Stopwatch()
        await over.wait()
        assert in_time(watch, timeout)
    assert reasons == ["timeout"]


@pytest.mark.parametrize("timeout", [0.5, 60])
async def test_the_last_words_wait_five_seconds_at_most(timeout: float, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with deaf_client(app, send_timeout=timeout, command_timeout=7) as (client, over):
        assert (await client.read_reply()).code == 220
        watch = Stopwatch()
        await over.wait()
        assert 7 + min(5, timeout) <= watch.seconds <= 7 + min(5, timeout) + slack(7)
    assert reasons == ["timeout"]


async def test_a_client_that_does_not_hang_up_is_hung_up_on(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        assert (await client.quit()).code == 221
        watch = Stopwatch()
        await client.send_bytes(b"and another thing")
        assert await closed(client)
        with trio.fail_after(5):
            while True:
                try:
                    await client.send_bytes(b"x")
                except trio.BrokenResourceError:
                    break
                await trio.sleep(0.1)
        assert watch.seconds <= 1.1


# --- session_timeout ---


@pytest.mark.parametrize("reach", [greeted, in_mail, start_transaction, in_auth, start_data])
async def test_a_session_has_its_time_and_no_more(
    reach: Callable[[Client], Awaitable[None]], autojump_clock: MockClock
) -> None:
    app = auth_app()
    reasons = note_closes(app)
    async with open_client(app, session_timeout=50, allow_insecure_auth=True) as client:
        watch = Stopwatch()
        await reach(client)
        assert await says(client, 421, "4.4.2")
        assert watch.seconds == 50
    assert reasons == ["timeout"]


async def test_commands_do_not_prolong_a_session(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, session_timeout=50) as client:
        watch = Stopwatch()
        for _ in range(4):
            await trio.sleep(12)
            await client.command("NOOP")
        assert await says(client, 421, "4.4.2")
        assert watch.seconds == 50


async def test_session_timeout_caps_the_senders_time(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with deaf_client(app, session_timeout=10) as (_, over):
        watch = Stopwatch()
        await over.wait()
        assert watch.seconds == 10


# --- greeting_delay ---


@pytest.mark.parametrize("delay", [0.5, 20])
async def test_the_greeting_waits(delay: float, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    watch = Stopwatch()
    async with open_client(app, greeting_delay=delay) as client:
        assert watch.seconds == delay
        assert client.greeting.code == 220
        assert (await client.ehlo()).code == 250


@pytest.mark.parametrize("early", [b"E", b"EHLO client.example\r\n", b"\x16\x03\x01"])
async def test_who_talks_before_the_greeting_is_refused(early: bytes, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    connected: list[object] = []

    @app.on_connect
    async def note(ctx: object) -> None:
        connected.append(ctx)

    reasons = note_closes(app)
    async with raw_client(app, greeting_delay=20) as client:
        watch = Stopwatch()
        await trio.sleep(19)
        await client.send_bytes(early)
        assert await says(client, 421, "4.7.0")
        assert 19 <= watch.seconds < 20
    assert connected == []
    assert reasons == []


async def test_who_hangs_up_before_the_greeting_was_not_seen(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with raw_client(app, greeting_delay=20):
        await trio.sleep(1)
    assert reasons == []


# --- tls_handshake_timeout ---


@TIMEOUTS
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
async def test_a_handshake_that_does_not_come_is_not_waited_for(
    timeout: float, sent: bytes, server_ssl_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with open_client(app, ssl_context=server_ssl_context, tls_handshake_timeout=timeout) as client:
        await client.ehlo()
        assert (await client.command("STARTTLS")).code == 220
        watch = Stopwatch()
        await client.send_bytes(sent)
        assert await closed(client)
        assert in_time(watch, timeout)
        assert client.server.stats.tls_failures == 1
    assert reasons == ["tls"]
