"""BackgroundServer and asyncio_handler in asyncio programs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from trio_smtp import (
    App,
    CallNext,
    CloseContext,
    Config,
    ConnectContext,
    DataContext,
    MailFromContext,
    MessageStream,
    RcptToContext,
    SMTPError,
    SpooledMessage,
)
from trio_smtp.background import BackgroundServer, asyncio_handler

from .background_support import MESSAGE, Peer, in_asyncio, no_thread_is_left


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    with no_thread_is_left():
        yield


@in_asyncio
async def test_the_loop_goes_on_while_a_block_is_entered_and_left() -> None:
    app = App()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    @app.lifespan
    async def slow(running: object) -> AsyncIterator[None]:
        await trio.sleep(0.3)
        yield
        await trio.sleep(0.3)

    ticking = asyncio.create_task(tick())
    async with BackgroundServer(app) as server:
        entered = ticks
        assert server.port
    ticking.cancel()
    assert entered > 5
    assert ticks - entered > 5


@in_asyncio
async def test_a_handler_runs_in_the_loop_that_entered() -> None:
    app = App()
    seen: list[object] = []
    loop = asyncio.get_running_loop()
    variable = contextvars.ContextVar[str]("variable")
    variable.set("mine")

    @app.on_data
    @asyncio_handler
    async def store(ctx: DataContext) -> None:
        assert asyncio.get_running_loop() is loop
        assert isinstance(ctx, DataContext)
        assert isinstance(ctx.stream, MessageStream)
        assert variable.get() == "mine"
        await asyncio.sleep(0.01)
        message = await ctx.stream.read_message()
        seen.append((message["Subject"], ctx.envelope.rcpt_to[0].address))
        ctx.reply = "Stored"

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        assert await peer.message() == "250 2.0.0 Stored"
        await peer.close()
    assert seen == [("Hi", "bob@example.com")]


@in_asyncio
async def test_a_refusal_crosses() -> None:
    app = App()

    @app.on_rcpt_to
    @asyncio_handler
    async def check(ctx: RcptToContext) -> None:
        await asyncio.sleep(0)
        ctx.reject(f"No {ctx.address.local_part} here", 551)

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        await peer.command("EHLO client.example")
        await peer.command("MAIL FROM:<alice@example.com>")
        assert await peer.command("RCPT TO:<bob@example.com>") == "551 5.1.6 No bob here"
        await peer.close()


@in_asyncio
async def test_a_middleware_sees_what_others_raise() -> None:
    app = App()
    seen: list[object] = []

    @app.on_mail_from
    @asyncio_handler
    async def around(ctx: MailFromContext, call_next: CallNext) -> None:
        seen.append(threading.get_ident())
        try:
            await call_next()
        except SMTPError as exc:
            seen.append(exc.code)
            raise

    @app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        seen.append(threading.get_ident())
        await trio.lowlevel.checkpoint()
        ctx.reject("Not now", 450)

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        await peer.command("EHLO client.example")
        assert (await peer.command("MAIL FROM:<alice@example.com>")).startswith("450")
        thread = server.call(threading.get_ident)
        await peer.close()
    assert seen == [threading.get_ident(), thread, 450]


@in_asyncio
async def test_a_time_limit_cancels_the_task_and_waits_for_it() -> None:
    app = App()
    events: list[str] = []

    @app.on_data
    @asyncio_handler
    async def hang(ctx: DataContext) -> None:
        await ctx.stream.read()
        try:
            await asyncio.sleep(100)
        finally:
            events.append("cancelled")
            await asyncio.sleep(0.05)
            events.append("tidied up")

    async with BackgroundServer(app, Config(port=0, handler_timeout=0.2)) as server:
        peer = await Peer.of(server)
        assert (await peer.message())[:3] in {"421", "451"}
        assert events == ["cancelled", "tidied up"]
        await peer.close()


@in_asyncio
async def test_leaving_ends_handlers_that_wait_for_their_message() -> None:
    app = App()
    events: list[str] = []
    begun = asyncio.Event()

    @app.on_data
    @asyncio_handler
    async def read(ctx: DataContext) -> None:
        begun.set()
        try:
            await ctx.stream.read()
        finally:
            events.append("cancelled")
            await asyncio.sleep(0.05)
            events.append("tidied up")

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        await peer.begin()
        await peer.send(b"Subject: half a message\r\n")
        await begun.wait()
    assert events == ["cancelled", "tidied up"]
    await peer.close()


@in_asyncio
async def test_a_message_is_read_in_chunks_and_spooled_and_changed() -> None:
    app = App()
    seen: list[bytes] = []

    async def new_body() -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        yield b"New "
        await asyncio.sleep(0)
        yield b"body\r\n"

    @app.on_data
    @asyncio_handler
    async def change(ctx: DataContext) -> None:
        message = await ctx.spool()
        assert isinstance(message, SpooledMessage)
        seen.append(await message.read())
        message.add_field("X-Seen", "yes")
        await message.replace_body(new_body())
        seen.extend([chunk async for chunk in message.chunks()])
        await message.replace_body(message.original())
        seen.append(b"".join([chunk async for chunk in ctx.stream]))

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        assert (await peer.message()).startswith("250")
        await peer.close()
    whole, *chunks, last = seen
    assert whole == MESSAGE
    assert b"".join(chunks) == b"X-Seen: yes\r\nSubject: Hi\r\n\r\nNew body\r\n"
    assert last == b"X-Seen: yes\r\nSubject: Hi\r\n\r\n" + MESSAGE


@in_asyncio
async def test_an_abort_ends_the_connection_without_a_word() -> None:
    app = App()
    reasons: list[str] = []

    @app.on_mail_from
    @asyncio_handler
    async def end(ctx: MailFromContext) -> None:
        ctx.abort(reset=False)

    @app.on_close
    @asyncio_handler
    async def note(ctx: CloseContext) -> None:
        reasons.append(ctx.reason)

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        await peer.command("EHLO client.example")
        assert await peer.command("MAIL FROM:<alice@example.com>") == ""
        await peer.close()
    assert reasons == ["aborted"]


@in_asyncio
async def test_thousands_of_calls() -> None:
    app = App()
    calls = 0

    @app.on_connect
    @asyncio_handler
    async def count(ctx: ConnectContext) -> None:
        nonlocal calls
        calls += 1

    @app.on_command
    @asyncio_handler
    async def count_commands(ctx: object) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)

    async with BackgroundServer(app) as server:

        async def use() -> None:
            peer = await Peer.of(server)
            for _ in range(100):
                assert (await peer.command("NOOP")).startswith("250")
            await peer.close()

        await asyncio.gather(*(use() for _ in range(10)))
        for _ in range(1000):
            assert server.call(int, "7") == 7
    assert calls == 10 * 101
