"""MessageStream on the wire: what readers, taps and their errors make of the reply."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from trio_smtp import (
    App,
    CallNext,
    Config,
    DataContext,
    MessageIncomplete,
    MessageMalformed,
    MessageTooLarge,
    Session,
    SMTPError,
    SMTPServer,
)
from trio_smtp.testing import open_client

from .support import BODY, LARGE, closed, logged, send, start_data, status


def refuse(chunk: bytes) -> None:
    raise SMTPError("Infected", 550, "5.7.1")


def refuse_the_end(chunk: bytes) -> None:
    if not chunk:
        refuse(chunk)


def crash(chunk: bytes) -> None:
    raise LookupError("the tap is broken")


async def swallow(ctx: DataContext) -> None:
    try:
        await ctx.stream.read()
    except Exception:  # noqa: BLE001 - what a careless handler does
        return


async def obey(ctx: DataContext) -> None:
    await ctx.stream.read()


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("handler", [swallow, obey])
@pytest.mark.parametrize(
    ("tap", "expected"), [(refuse, (550, "5.7.1")), (refuse_the_end, (550, "5.7.1")), (crash, (451, "4.3.0"))]
)
async def test_what_a_tap_raises_refuses_the_message(
    data: bytes,
    handler: Callable[[DataContext], Awaitable[None]],
    tap: Callable[[bytes], None],
    expected: tuple[int, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()

    @app.on_data
    async def scan(ctx: DataContext, call_next: CallNext) -> None:
        ctx.stream.tap(tap)
        await call_next()

    app.on_data(handler)
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == expected
        assert (await client.command("NOOP")).code == 250
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(crashes) == (tap is crash)
    assert all(record.exc_info for record in crashes)


async def test_the_octets_arrive_dots_unstuffed_in_chunks_of_1_to_65536() -> None:
    app = App()
    chunks: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        async for chunk in ctx.stream:
            assert ctx.stream.byte_length >= sum(map(len, chunks)) + len(chunk)
            chunks.append(chunk)
        assert ctx.stream.complete

    data = b".\r\n..\r\n.dot\r\n" + LARGE
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, data)).code == 250
    assert b"".join(chunks) == data
    assert len(chunks) > 1
    assert {1 <= len(chunk) <= 65_536 for chunk in chunks} == {True}


@pytest.mark.parametrize("data", [b"", BODY, LARGE], ids=["empty", "inline", "streamed"])
async def test_250_needs_a_message_that_was_read_to_its_end(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def look_at_one_chunk(ctx: DataContext) -> None:
        async for _ in ctx.stream:
            break

    async with open_client(app) as client:
        await client.ehlo()
        if data:
            assert status(await send(client, data)) == (451, "4.3.0")
            assert len(logged(caplog)) == 1
            assert "neither read the message to its end nor discarded it" in logged(caplog)[0]
            assert client.server.stats.messages_refused == 1
        else:
            assert (await send(client, data)).code == 250


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
async def test_discard_says_on_purpose(data: bytes) -> None:
    app = App()

    @app.on_data
    async def not_wanted(ctx: DataContext) -> None:
        await ctx.stream.receive()
        await ctx.stream.discard()

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (250, "2.0.0")


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
async def test_aclose_gives_the_message_up_on_the_wire(data: bytes) -> None:
    app = App()

    @app.on_data
    async def give_up(ctx: DataContext) -> None:
        await ctx.stream.aclose()

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (451, "4.3.0")
        assert (await client.command("NOOP")).code == 250


async def test_aclose_after_the_end_changes_nothing() -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        async with ctx.stream as stream:
            await stream.read()

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250


@pytest.mark.parametrize("data", [BODY * 10, LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("handler", [swallow, obey])
async def test_a_message_over_the_limit_is_refused_and_the_session_goes_on(
    data: bytes, handler: Callable[[DataContext], Awaitable[None]]
) -> None:
    app = App()
    app.on_data(handler)
    async with open_client(app, max_message_size=100) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (552, "5.3.4")
        assert (await send(client, b"short\r\n")).code == 250


async def test_read_with_a_limit_refuses_with_552_also_when_the_handler_looks_away() -> None:
    app = App()

    @app.on_data
    async def first_kilobyte(ctx: DataContext) -> None:
        try:
            await ctx.stream.read(1024)
        except MessageTooLarge:
            return

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, b"x" * 1022 + b"\r\n")) == (250, "2.0.0")
        assert status(await send(client, b"x" * 1023 + b"\r\n")) == (552, "5.3.4")


@pytest.mark.parametrize("data", [b"one\ntwo\r\n", LARGE + b"one\rtwo\r\n"], ids=["inline", "streamed"])
@pytest.mark.parametrize("handler", [swallow, obey])
async def test_a_malformed_message_is_refused_and_the_session_goes_on(
    data: bytes, handler: Callable[[DataContext], Awaitable[None]]
) -> None:
    app = App()
    app.on_data(handler)
    async with open_client(app, bare_newline="reject") as client:
        await client.ehlo()
        assert status(await send(client, data)) == (550, "5.6.0")
        assert (await send(client)).code == 250


async def test_a_client_that_vanishes_makes_the_stream_raise() -> None:
    app = App()
    errors: list[Exception] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        except SMTPError as exc:
            errors.append(exc)
            assert not ctx.stream.complete

    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(b"half of it\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        server = client.server
    assert [type(error) for error in errors] == [MessageIncomplete]
    assert server.stats.messages_incomplete == 1
    assert server.stats.messages_accepted == 0


async def test_a_handler_that_closes_the_connection_over_a_bad_message_does() -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        except MessageMalformed:
            ctx.disconnect("Learn to speak")

    async with open_client(app, bare_newline="reject") as client:
        await client.ehlo()
        reply = await send(client, b"one\ntwo\r\n")
        assert (reply.code, reply.text) == (421, "Learn to speak")
        assert await closed(client)


async def test_a_session_whose_message_stayed_incomplete_leaves_nothing_for_the_collector() -> None:
    """Its memory is free when it ends, not when cycles are looked for: clients may vanish faster than that."""
    sessions: list[weakref.ref[Session]] = []
    app = App()

    @app.on_data
    async def read(ctx: DataContext) -> None:
        sessions.append(weakref.ref(ctx.session))
        await ctx.stream.read()

    server = SMTPServer(app, Config(hostname="mx.example"))
    gc.collect()
    gc.disable()
    try:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, theirs)
            await ours.send_all(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await ours.send_all(b"half of it\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await ours.aclose()
        assert server.stats.messages_incomplete == 1
        assert [session() for session in sessions] == [None]
    finally:
        gc.enable()
