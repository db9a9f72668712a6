"""A handler that returns something: aiosmtpd's users refuse so, and accepting in silence would make an open relay."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trio_smtp import App, CloseContext, CommandContext, DataContext, Extension
from trio_smtp.testing import Client, open_client

from .support import LARGE, crashes, mail_app, send, start_transaction
from .test_contexts import REFUSALS, Drive

each_phase = pytest.mark.parametrize(
    ("phase", "drive"), [row[:2] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)

#: What users of other libraries return.
VALUES: list[object] = ["550 not you", "250 OK", False, True, 0, b"554 no"]


def returning(value: object) -> Any:
    async def handler(ctx: object) -> object:
        return value

    return handler


async def pass_on(ctx: object, call_next: Callable[[], Awaitable[None]]) -> None:
    await call_next()


async def do_nothing(ctx: object) -> None:
    pass


@each_phase
@pytest.mark.parametrize("around", ["alone", "first", "last", "in a middleware"])
async def test_a_value_is_a_crash_in_each_phase(
    phase: str, drive: Drive, around: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App() if phase == "on_data" else mail_app()[0]
    register: Any = getattr(app, phase)
    if around == "in a middleware":
        register(pass_on)
    if around == "last":
        register(do_nothing)
    register(returning("550 not you"))
    if around == "first":
        register(do_nothing)
    async with open_client(app, allow_insecure_auth=True) as client:
        reply = await drive(client)
        # RFC 4954 section 6: the only temporary failure of AUTH is 454.
        assert reply.code == (454 if phase == "on_auth" else 451)
        assert "not you" not in reply.text
    assert crashes(caplog) == [f"session={client.session.id} {phase} handler failed"]
    assert "use ctx.reject()" in caplog.text


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_any_value_but_none(value: object, caplog: pytest.LogCaptureFixture) -> None:
    app = mail_app()[0]
    app.on_rcpt_to(returning(value))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 451
    assert repr(value) in caplog.text


async def test_a_middleware_may_not_return_a_value_either(caplog: pytest.LogCaptureFixture) -> None:
    app = mail_app()[0]

    @app.on_mail_from  # type: ignore[type-var]
    async def middleware(ctx: object, call_next: Callable[[], Awaitable[None]]) -> str:
        await call_next()
        return "250 OK"

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 451
    assert len(crashes(caplog)) == 1


@pytest.mark.parametrize("data", [b"Hello\r\n", LARGE], ids=["whole", "streamed"])
@pytest.mark.parametrize("others", [0, 1])
async def test_a_message_that_was_read_stays_accepted(
    data: bytes, others: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A 451 would have it sent again for ever."""
    app, ran = App(), []

    @app.on_data  # type: ignore[type-var]
    async def take(ctx: DataContext) -> str:
        assert await ctx.stream.read() == data
        return "250 Message accepted"

    if others:

        @app.on_data
        async def count(ctx: DataContext) -> None:
            ran.append(ctx.envelope)

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, data)).code == 250
    assert len(ran) == others
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(records) == 1
    assert "use ctx.reject()" in records[0].getMessage()
    assert client.session.id in records[0].getMessage()


async def test_a_message_that_was_read_in_part_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data  # type: ignore[type-var]
    async def take(ctx: DataContext) -> str:
        await ctx.stream.receive()
        return "250 Message accepted"

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, LARGE)).code == 451
    assert len(crashes(caplog)) == 1


async def test_a_verb_of_an_extension(caplog: pytest.LogCaptureFixture) -> None:
    async def ping(ctx: CommandContext) -> str:
        return "250 Pong"

    app = mail_app()[0].extend(Extension(keyword="PING", commands={"PING": ping}))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.command("PING")).code == 451
    assert len(crashes(caplog)) == 1


async def test_on_close_logs_it_and_runs_the_others(caplog: pytest.LogCaptureFixture) -> None:
    app, ran = mail_app()[0], []
    app.on_close(returning("bye"))

    @app.on_close  # type: ignore[type-var]
    async def middleware(ctx: CloseContext, call_next: Callable[[], Awaitable[None]]) -> str:
        await call_next()
        return "bye"

    @app.on_close
    async def note(ctx: CloseContext) -> None:
        ran.append(ctx.reason)

    async def leave(client: Client) -> None:
        await start_transaction(client)
        await client.quit()

    async with open_client(app) as client:
        await leave(client)
    assert ran == ["quit"]
    assert len(crashes(caplog)) == 2
