"""asyncio_handler when things go wrong: cancellation, wrong use, loops that end early."""

from __future__ import annotations

import asyncio
import concurrent.futures
import smtplib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import trio

from trio_smtp import (
    App,
    CallNext,
    DataContext,
    MailFromContext,
)
from trio_smtp.background import BackgroundServer, asyncio_handler

from .background_support import Peer, connected, in_asyncio, no_thread_is_left


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    with no_thread_is_left():
        yield


async def open_connection(server: BackgroundServer) -> Peer:
    peer = await Peer.of(server)
    assert (await peer.command("EHLO client.example")).startswith("250")
    return peer


async def open_transaction(server: BackgroundServer) -> Peer:
    peer = await open_connection(server)
    assert (await peer.command("MAIL FROM:<alice@example.com>")).startswith("250")
    return peer


@in_asyncio
async def test_a_task_that_is_cancelled_while_it_enters_ends_the_thread() -> None:
    app = App()

    @app.lifespan
    async def slow(running: object) -> AsyncIterator[None]:
        await trio.sleep(100)
        yield

    async def enter() -> None:
        async with BackgroundServer(app):
            pytest.fail("the block was executed")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(enter(), 0.2)


@in_asyncio
async def test_a_task_that_is_cancelled_while_it_leaves_ends_the_connections() -> None:
    app = App()

    @app.lifespan
    async def slow_to_leave(running: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await trio.sleep(0.5)

    async def leave() -> None:
        server = BackgroundServer(app, drain_timeout=100)
        await server.__aenter__()
        peer = await open_transaction(server)
        try:
            await server.__aexit__(None, None, None)
        finally:
            await peer.close()

    leaving = asyncio.create_task(leave())
    await asyncio.sleep(0.2)
    for _ in range(3):  # once is enough, and more do not keep the thread
        leaving.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await leaving


@in_asyncio
async def test_another_task_cancels_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    class Odd(BaseException):
        pass

    @app.on_mail_from
    @asyncio_handler
    async def end_itself(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "odd":
            raise Odd
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(100)

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        await peer.command("EHLO client.example")
        assert (await peer.command("MAIL FROM:<alice@example.com>")).startswith("451")
        assert (await peer.command("MAIL FROM:<odd@example.com>")).startswith("451")
        await peer.close()
    assert "the asyncio task of the handler was cancelled" in caplog.text
    assert "the asyncio task of the handler ended by Odd" in caplog.text


@in_asyncio
async def test_a_context_ends_with_its_handler() -> None:
    app = App()
    kept: list[DataContext] = []
    strays: asyncio.Queue[asyncio.Task[bytes]] = asyncio.Queue()

    @app.on_data
    @asyncio_handler
    async def leave_a_reader(ctx: DataContext) -> None:
        kept.append(ctx)
        first = await ctx.stream.receive()
        assert first.startswith(b"Subject")
        strays.put_nowait(asyncio.create_task(ctx.stream.receive()))
        await asyncio.sleep(0.05)

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        await peer.begin()
        await peer.send(b"Subject: half a message\r\n")
        stray = await strays.get()
        with pytest.raises(asyncio.CancelledError):
            await stray
        with pytest.raises(RuntimeError, match="the handler has ended, and its context with it"):
            await kept[0].stream.read()
        await peer.close()
    with pytest.raises(RuntimeError, match="the server has ended, and this context with it"):
        await kept[0].stream.read()


@in_asyncio
async def test_a_context_is_for_one_loop() -> None:
    app = App()
    raised: list[str] = []

    @app.on_data
    @asyncio_handler
    async def read_elsewhere(ctx: DataContext) -> None:
        for run in (asyncio.run, lambda coroutine: coroutine.send(None)):
            try:
                await asyncio.to_thread(run, ctx.stream.read())
            except RuntimeError as exc:
                raised.append(str(exc))
        await ctx.stream.discard()

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        assert (await peer.message()).startswith("250")
        await peer.close()
    assert raised == ["a context is for the asyncio loop that its handler runs in: await it there"] * 2


@in_asyncio
async def test_a_read_that_is_cancelled_ends_in_trio_too() -> None:
    app = App()
    seen: list[object] = []

    @app.on_data
    @asyncio_handler
    async def read(ctx: DataContext) -> None:
        chunks = [await ctx.stream.receive()]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ctx.stream.receive(), 0.1)
        go_on.set()
        async with ctx.stream as stream:
            chunks.append(await stream.read())
        seen.append(b"".join(chunks))

    async with BackgroundServer(app) as server:
        peer = await Peer.of(server)
        go_on = asyncio.Event()
        await peer.begin()
        await peer.send(b"first\r\n")
        await go_on.wait()
        await peer.send(b"second\r\n.\r\n")
        assert (await peer.reply()).startswith("250")
        await peer.close()
    assert seen == [b"first\r\nsecond\r\n"]


class Obstinate:
    """Gives a chunk also when it is cancelled, as a stream may in the moment when the chunk comes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def receive(self) -> bytes:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.3)
        if self.error is not None:
            raise self.error
        return b"kept "

    __anext__ = receive

    async def read(self, limit: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"rest"[:limit]


@in_asyncio
async def test_a_chunk_that_comes_while_its_reader_is_cancelled_is_not_lost() -> None:
    seen: list[bytes] = []

    @asyncio_handler
    async def read(ctx: Any) -> None:
        for finish in (ctx.stream.receive, ctx.stream.read, lambda: ctx.stream.read(7)):
            reading = asyncio.create_task(ctx.stream.receive())
            await asyncio.sleep(0.05)
            reading.cancel()
            await asyncio.sleep(0.05)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            seen.append(await finish())
        ctx.stream.error = LookupError()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ctx.stream.receive(), 0.05)

    class Context:
        stream = Obstinate()

    async with BackgroundServer(App()) as server:
        await asyncio.to_thread(server.call_async, read, Context())
    assert seen == [b"kept ", b"kept rest", b"kept re"]


@in_asyncio
async def test_stand_ins_are_equal_to_what_they_stand_for() -> None:
    class Context:
        reply = "a"
        stream = Obstinate()

    real = Context()

    @asyncio_handler
    async def compare(ctx: Any) -> None:
        assert ctx == real
        assert ctx != Context()
        assert hash(ctx) == hash(real)
        assert repr(ctx) == repr(real)
        assert ctx.stream == ctx.stream
        assert len({ctx.stream, ctx.stream}) == 1
        ctx.reply = "b"
        ctx.other = ctx.stream
        with pytest.raises(AttributeError):
            _ = ctx.nothing

    async with BackgroundServer(App()) as server:
        await asyncio.to_thread(server.call_async, compare, real)
        with pytest.raises(RuntimeError, match=r"in asyncio use await asyncio\.to_thread"):
            server.call_async(compare, real)
    assert real.reply == "b"
    assert vars(real)["other"] is Context.stream


@pytest.mark.parametrize("sender", ["alice", "eve"])
@in_asyncio
async def test_the_end_of_the_server_inside_call_next_ends_the_handler(sender: str) -> None:
    app = App()
    events: list[str] = []

    @app.on_mail_from
    @asyncio_handler
    async def around(ctx: MailFromContext, call_next: CallNext) -> None:
        try:
            await call_next()
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            events.append("cancelled once")
            if sender == "eve":
                raise LookupError("does not hide the exit") from None
            raise

    @app.on_mail_from
    async def exit_all(ctx: MailFromContext) -> None:
        raise SystemExit("odd")

    server = BackgroundServer(app)
    await server.__aenter__()
    peer = await Peer.of(server)
    await peer.command("EHLO client.example")
    assert await peer.command(f"MAIL FROM:<{sender}@example.com>") == ""
    with pytest.raises(BaseExceptionGroup) as raised:
        await server.__aexit__(None, None, None)
    assert raised.value.split(SystemExit)[1] is None
    assert events == ["cancelled once"]
    await peer.close()


@in_asyncio
async def test_what_a_handler_raises_at_its_end_counts() -> None:
    @asyncio_handler
    async def fail_at_the_end(ctx: object) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise LookupError("mine")

    async def limited() -> None:
        with trio.move_on_after(0.1):
            await fail_at_the_end(None)

    async with BackgroundServer(App()) as server:
        with pytest.raises(LookupError, match="mine"):
            await asyncio.to_thread(server.call_async, limited)


def test_what_is_no_coroutine_function_is_no_handler() -> None:
    def function(ctx: object) -> None: ...

    class Handler:
        async def __call__(self, ctx: object) -> None: ...

    for wrong in (function, 3):
        with pytest.raises(TypeError, match="is not a coroutine function; write `async def handler"):
            asyncio_handler(wrong)  # type: ignore[type-var]
    app = App()
    app.on_command(asyncio_handler(Handler()))

    async def two(number: int, ctx: object) -> None: ...

    app.on_command(asyncio_handler(partial(two, 1)))
    app.on_command(asyncio_handler(Handler().__call__))


def test_a_server_that_asyncio_has_not_entered_refuses(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_mail_from
    @asyncio_handler
    async def never(ctx: MailFromContext) -> None: ...

    with BackgroundServer(app) as server, connected(server) as client:
        assert client.mail("alice@example.com")[0] == 451
    assert "serve inside `async with BackgroundServer(app):` in asyncio" in caplog.text


async def test_only_asyncio_and_trio_wait() -> None:
    entering = BackgroundServer(App()).__aenter__()
    with pytest.raises(RuntimeError, match="no running event loop"):
        await trio.to_thread.run_sync(entering.send, None)


# Loops that end early


class Hanging(App):
    """Its handler waits for ever in asyncio."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

        @self.on_mail_from
        @asyncio_handler
        async def hang(ctx: MailFromContext) -> None:
            self.begun.set()
            await asyncio.sleep(100)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    for task in asyncio.all_tasks(loop):
        throw_away(task)
    loop.close()


def throw_away(task: asyncio.Task[Any]) -> None:
    """Do with a task that has not ended what its garbage collection does, without the message of the log."""
    coroutine: Any = task.get_coro()
    coroutine.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001


def run_until_a_handler_hangs(
    loop: asyncio.AbstractEventLoop, app: Hanging, server: BackgroundServer
) -> concurrent.futures.Future[int]:
    """Enter the block, and have a client wait for a handler; gives the reply, when it comes."""
    loop.run_until_complete(server.__aenter__())
    answer: concurrent.futures.Future[int] = concurrent.futures.Future()

    def use() -> None:
        with connected(server) as client:
            try:
                answer.set_result(client.mail("alice@example.com")[0])
            except smtplib.SMTPServerDisconnected as exc:
                answer.set_exception(exc)

    threading.Thread(target=use).start()

    assert loop.run_until_complete(asyncio.to_thread(app.begun.wait, 10))
    return answer


def test_a_loop_that_is_closed_ends_its_handlers(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    app = Hanging()
    server = BackgroundServer(app)
    answer = run_until_a_handler_hangs(loop, app, server)
    hanging = asyncio.all_tasks(loop)
    loop.close()
    assert answer.result(10) == 451
    with connected(server) as client:
        assert client.mail("alice@example.com")[0] == 451
    assert "the asyncio loop of the handler was closed" in caplog.text
    server.__exit__(None, None, None)
    assert len(hanging) == 1


def test_a_loop_that_does_not_run_is_not_waited_for(loop: asyncio.AbstractEventLoop) -> None:
    app = Hanging()
    server = BackgroundServer(app)
    answer = run_until_a_handler_hangs(loop, app, server)
    before = time.monotonic()
    server.__exit__(None, None, None)
    assert time.monotonic() - before < 10
    assert isinstance(answer.exception(10), smtplib.SMTPServerDisconnected)


@in_asyncio
async def test_a_block_that_is_left_by_with_does_not_wait_for_the_loop_it_blocks() -> None:
    app = Hanging()
    server = await BackgroundServer(app).__aenter__()
    peer = await open_connection(server)
    await peer.send(b"MAIL FROM:<alice@example.com>\r\n")
    assert await asyncio.to_thread(app.begun.wait, 10)
    server.__exit__(None, None, None)
    await peer.close()


def test_a_task_that_is_thrown_away_ends_its_server(loop: asyncio.AbstractEventLoop) -> None:
    app = Hanging()
    server = BackgroundServer(app)
    entered = asyncio.Event()

    async def main() -> None:
        async with server:
            entered.set()
            await asyncio.sleep(100)

    task = loop.create_task(main())
    loop.run_until_complete(entered.wait())
    throw_away(task)
    with pytest.raises(RuntimeError, match="the block was left"):
        server.call(int)


@pytest.mark.parametrize("entering", [True, False])
def test_a_task_that_is_thrown_away_while_it_waits(loop: asyncio.AbstractEventLoop, *, entering: bool) -> None:
    app = App()

    @app.lifespan
    async def slow(running: object) -> AsyncIterator[None]:
        if entering:
            await trio.sleep(100)
        yield
        await trio.sleep(0.3)

    server = BackgroundServer(app)

    async def main() -> None:
        async with server:
            pass

    task = loop.create_task(main())
    loop.run_until_complete(asyncio.sleep(0.2))
    throw_away(task)
    with pytest.raises(RuntimeError, match="the block was left"):
        server.call(int)
