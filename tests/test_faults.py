"""Faults of handlers and of streams: what the client hears, what the log says, and that the server lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_smtp import App, CallNext, DataContext, MailFromContext, SMTPError
from trio_smtp.testing import open_client

from .support import (
    BODY,
    LARGE,
    closed,
    crashes,
    logged,
    mail_app,
    note_closes,
    raw_client,
    send,
    start_data,
    status,
)

SECRET = "the words of the exception"

both_ways = pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])


# --- a handler that raises ---

PHASES: list[tuple[str, list[str], int]] = [
    ("on_connect", [], 451),
    ("on_helo", ["EHLO c.example"], 451),
    ("on_auth", ["EHLO c.example", "AUTH PLAIN AGEAYg=="], 454),
    ("on_mail_from", ["EHLO c.example", "MAIL FROM:<>"], 451),
    ("on_rcpt_to", ["EHLO c.example", "MAIL FROM:<>", "RCPT TO:<b@c.example>"], 451),
    ("on_data_start", ["EHLO c.example", "MAIL FROM:<>", "RCPT TO:<b@c.example>", "DATA"], 451),
    ("on_data", ["EHLO c.example", "MAIL FROM:<>", "RCPT TO:<b@c.example>", "DATA", "."], 451),
    ("on_vrfy", ["EHLO c.example", "VRFY b"], 451),
    ("on_expn", ["EHLO c.example", "EXPN b"], 451),
]


@pytest.mark.parametrize(("phase", "commands", "code"), PHASES, ids=[row[0] for row in PHASES])
async def test_a_crash_is_logged_and_says_nothing_to_the_client(
    phase: str, commands: list[str], code: int, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app = App() if phase == "on_data" else mail_app()[0]

    async def crash(ctx: object) -> None:
        raise LookupError(SECRET)

    getattr(app, phase)(crash)
    reasons = note_closes(app)
    async with raw_client(app, allow_insecure_auth=True) as client:
        reply = await client.read_reply()
        for command in commands:
            reply = await client.command(command)
        assert reply.code == code
        assert SECRET not in reply.text
        assert "LookupError" not in reply.text
        if phase == "on_connect":
            assert await closed(client)
        else:
            assert (await client.quit()).code == 221
        session = client.session
    assert crashes(caplog) == [f"session={session.id} {phase} handler failed"]
    assert reasons == ["refused" if phase == "on_connect" else "quit"]


@both_ways
async def test_a_message_whose_handler_crashed_is_not_accepted_and_the_next_one_may_be(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    attempts: list[bytes] = []

    @app.on_data
    async def crash_at_first(ctx: DataContext) -> None:
        attempts.append(await ctx.stream.read())
        if len(attempts) == 1:
            raise LookupError(SECRET)

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (451, "4.3.0")
        assert status(await send(client, data)) == (250, "2.0.0")
        stats = client.server.stats
        assert (stats.messages_accepted, stats.messages_refused, stats.messages_incomplete) == (1, 1, 0)
    assert len(crashes(caplog)) == 1


async def test_an_accepting_middleware_does_not_hide_a_crash_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def outer(ctx: DataContext, call_next: CallNext) -> None:
        try:
            await call_next()
        finally:
            await ctx.stream.discard()

    @app.on_data
    async def inner(ctx: DataContext) -> None:
        raise LookupError(SECRET)

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client)) == (451, "4.3.0")
    assert len(crashes(caplog)) == 1


# --- groups: a handler's own nursery wraps what it raises ---


async def raise_(exc: BaseException) -> None:
    raise exc


Group = Callable[[], list[Exception]]

GROUPS: list[tuple[str, Group, tuple[int, str], int]] = [
    ("one refusal", lambda: [SMTPError("no", 550, "5.7.1")], (550, "5.7.1"), 0),
    ("a crash", lambda: [LookupError(SECRET)], (451, "4.3.0"), 1),
    ("both", lambda: [SMTPError("no", 550, "5.7.1"), LookupError(SECRET)], (451, "4.3.0"), 1),
]


@both_ways
@pytest.mark.parametrize(("name", "group", "expected", "errors"), GROUPS, ids=[row[0] for row in GROUPS])
async def test_what_leaves_a_handlers_own_nursery(  # noqa: PLR0917 - fixtures
    data: bytes, name: str, group: Group, expected: tuple[int, str], errors: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.on_data
    async def with_nursery(ctx: DataContext) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            for exc in group():
                inner.start_soon(raise_, exc)
            outer.start_soon(trio.sleep_forever)
            await ctx.stream.receive()

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == expected
        assert (await client.command("NOOP")).code == 250
    assert len(crashes(caplog)) == errors


async def test_of_several_refusals_the_first_is_said() -> None:
    app, _ = mail_app()

    @app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        inner = ExceptionGroup("", [SMTPError("first", 553), SMTPError("second", 554)])
        raise ExceptionGroup("", [inner, SMTPError("third", 550)])

    async with open_client(app) as client:
        await client.ehlo()
        reply = await client.command("MAIL FROM:<a@example.org>")
        assert (reply.code, reply.text) == (553, "first")


# --- a handler that is cancelled ---


@both_ways
async def test_a_handler_that_cleans_up_when_it_is_cancelled(data: bytes, autojump_clock: MockClock) -> None:
    app = App()
    steps: list[str] = []

    @app.on_data
    async def clean(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
            await trio.sleep_forever()
        finally:
            steps.append("undone")

    async with open_client(app, handler_timeout=10) as client:
        await start_data(client)
        await client.send_bytes(data + b".\r\n")
        assert status(await client.read_reply()) == (421, "4.3.0")
        assert await closed(client)
        assert client.server.stats.messages_accepted == 0
    assert steps == ["undone"]


@both_ways
async def test_a_handler_that_turns_its_cancellation_into_a_crash(
    data: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app = App()

    @app.on_data
    async def crash(ctx: DataContext) -> None:
        await ctx.stream.read()
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError(SECRET)

    reasons = note_closes(app)
    async with open_client(app, handler_timeout=10) as client:
        await start_data(client)
        await client.send_bytes(data + b".\r\n")
        assert status(await client.read_reply()) == (421, "4.3.0")
        assert await closed(client)
    assert len(crashes(caplog)) == 1
    assert reasons == ["timeout"]


@both_ways
async def test_a_crash_beside_a_cancellation_is_not_lost_from_the_log(
    data: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app = App()

    @app.on_data
    async def with_nursery(ctx: DataContext) -> None:
        async def crash_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError(SECRET)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    async with open_client(app, handler_timeout=10) as client:
        await start_data(client)
        await client.send_bytes(data + b".\r\n")
        assert status(await client.read_reply()) == (421, "4.3.0")
    assert crashes(caplog) == [f"session={client.session.id} on_data handler failed"]


async def test_a_cancelled_handler_with_a_nursery_of_its_own_is_no_crash(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app, _ = mail_app()

    @app.on_mail_from
    async def with_nursery(ctx: MailFromContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    async with open_client(app, handler_timeout=10) as client:
        await client.ehlo()
        assert status(await client.command("MAIL FROM:<>")) == (421, "4.3.0")
    assert crashes(caplog) == []


async def test_a_keyboard_interrupt_ends_the_server() -> None:
    app, _ = mail_app()
    reasons = note_closes(app)

    @app.on_mail_from
    async def interrupt(ctx: MailFromContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with open_client(app) as client:
            await client.ehlo()
            with pytest.raises(trio.EndOfChannel):
                await client.command("MAIL FROM:<>")
    assert reasons == ["cancelled"]


# --- a handler that reads twice, or leaves early ---


@both_ways
async def test_a_handler_that_reads_twice_is_a_crash(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def first(ctx: DataContext) -> None:
        await ctx.stream.read()

    @app.on_data
    async def second(ctx: DataContext) -> None:
        await ctx.stream.read()

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (451, "4.3.0")
        assert (await client.command("NOOP")).code == 250
    assert len(crashes(caplog)) == 1


async def refuse_at_once(ctx: DataContext) -> None:
    ctx.reject("Not that", 554, enhanced="5.7.1")


async def refuse_after_a_chunk(ctx: DataContext) -> None:
    await ctx.stream.receive()
    ctx.reject("Not that", 554, enhanced="5.7.1")


@both_ways
@pytest.mark.parametrize("handler", [refuse_at_once, refuse_after_a_chunk])
async def test_a_handler_that_refuses_early_leaves_the_wire_in_step(
    data: bytes, handler: Callable[[DataContext], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    app.on_data(handler)
    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(b"RSET\r\nQUIT\r\n" + data + b".\r\nNOOP\r\n")
        assert status(await client.read_reply()) == (554, "5.7.1")
        assert status(await client.read_reply()) == (250, "2.0.0")
        assert client.session.transaction == 1
        assert (await client.command("DATA")).code == 503
    assert logged(caplog) == []


async def test_a_handler_that_leaves_early_while_the_body_still_comes() -> None:
    app = App()
    app.on_data(refuse_after_a_chunk)
    async with open_client(app) as client:
        await start_data(client)
        for _ in range(5):
            await client.send_bytes(b"line\r\n")
            await trio.testing.wait_all_tasks_blocked()
        assert client.session.error is None  # no reply before the end mark
        await client.send_bytes(b".\r\n")
        assert status(await client.read_reply()) == (554, "5.7.1")
