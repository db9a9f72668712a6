"""Lifespans: when they are entered and left, what ends them, and who may serve while they are entered."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import App, CloseContext, Config, ConnectContext, Running, Session, SMTPServer, serve
from trio_smtp.net.nurseries import open_bare_nursery
from trio_smtp.server.worker import work
from trio_smtp.testing import Client, MemoryListener, open_client, play

from .support import logged, note_closes, start_data

PLAY = "S: 220 ...\nC: QUIT\nS: 221 ...\nS: <close>\n"


class Journal(list[str]):
    """What happened, in order; makes Apps that write it."""

    def app(self, *names: str) -> App:
        app = App()
        app.on_data(self._take)
        for name in names:
            self.add(app, name)

        @app.on_connect
        async def connected(ctx: ConnectContext) -> None:
            assert ctx.app is app
            self.append("connect")

        @app.on_close
        async def closed(ctx: CloseContext) -> None:
            assert ctx.app is app
            self.append("close")

        return app

    async def _take(self, ctx: Any) -> None:
        await ctx.stream.discard()

    def add(self, app: App, name: str) -> None:
        @app.lifespan
        async def lifespan(running: Running) -> AsyncIterator[None]:
            assert running.app is app
            self.append(f"+{name}")
            try:
                async with open_bare_nursery() as nursery:  # as a client of a database has one
                    nursery.start_soon(trio.sleep_forever)
                    try:
                        yield
                    except BaseException as exc:
                        self.append(f"{name} {type(exc).__name__}")
                        raise
                    nursery.cancel_scope.cancel()
            finally:
                await trio.lowlevel.checkpoint()
                self.append(f"-{name}")


@pytest.fixture
def journal() -> Journal:
    return Journal()


WHOLE = ["+a", "+b", "connect", "close", "-b", "-a"]


async def by_open_client(app: App) -> None:
    async with open_client(app):
        pass


async def by_play(app: App) -> None:
    await play(app, PLAY)


async def visit(server: SMTPServer) -> None:
    listener = server.listeners[0]
    assert isinstance(listener, trio.SocketListener)
    name = listener.socket.getsockname()
    opened: trio.abc.Stream = (
        await trio.open_unix_socket(name) if isinstance(name, str) else await trio.open_tcp_stream("127.0.0.1", name[1])
    )
    client = Client(opened)
    assert (await client.read_reply()).code == 220
    assert (await client.quit()).code == 221
    assert await client.read_to_end() == b""
    await client.aclose()


async def by_serve(app: App) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, Config(port=0))
        await visit(server)
        server.drain()


async def by_serve_tcp(app: App) -> None:
    server = SMTPServer(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: server.serve_tcp(port=0, task_status=task_status))
        await visit(server)
        server.drain()


async def by_worker(app: App) -> None:
    ours, theirs = socket.socketpair()
    with ours, socket.create_server(("127.0.0.1", 0)) as listening:
        server = SMTPServer(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, [(server, [listening])], theirs)
            client = Client(await trio.open_tcp_stream(*listening.getsockname()))
            assert (await client.read_reply()).code == 220
            await client.quit()
            await client.read_to_end()
            await client.aclose()
            ours.send(b"d")


WAYS = (by_open_client, by_play, by_serve, by_serve_tcp, by_worker)


@pytest.mark.parametrize("way", WAYS)
async def test_entered_before_the_first_connection_and_left_after_the_last(
    way: Callable[[App], Awaitable[None]], journal: Journal
) -> None:
    app = journal.app("a", "b")
    for _ in range(2):  # an App may be served again
        journal.clear()
        await way(app)
        assert journal == WHOLE


@pytest.mark.parametrize("way", WAYS[:4])
async def test_an_error_at_entry_comes_out_and_nothing_was_accepted(
    way: Callable[[App], Awaitable[None]], journal: Journal
) -> None:
    app = journal.app("a", "b")

    @app.lifespan
    async def fails(running: Running) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError("no database")
        yield  # type: ignore[unreachable]

    with pytest.raises(ConnectionRefusedError) if way in WAYS[:2] else pytest.RaisesGroup(ConnectionRefusedError):
        await way(app)
    assert journal == ["+a", "+b", "b ConnectionRefusedError", "-b", "a ConnectionRefusedError", "-a"]


async def test_an_error_at_entry_closes_the_listeners(journal: Journal, tmp_path: Path) -> None:
    app = App()
    ports: list[int] = []

    @app.lifespan
    async def fails(running: Running) -> AsyncIterator[None]:
        ports.append(running.servers[0].port or 0)
        assert len(running.servers) == 2
        assert (tmp_path / "socket").exists()
        raise ConnectionRefusedError
        yield  # type: ignore[unreachable]

    with pytest.raises(ConnectionRefusedError):
        await serve(app, [Config(port=0), Config(unix_path=str(tmp_path / "socket"))])
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", ports[0])
    assert list(tmp_path.iterdir()) == []


async def test_an_address_that_cannot_be_had_closes_the_others(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        await serve(
            journal.app("a"),
            [Config(unix_path=str(tmp_path / "socket")), Config(unix_path=str(tmp_path / "missing" / "socket"))],
        )
    assert (list(tmp_path.iterdir()), journal) == ([], [])


async def test_a_stream_is_closed_when_serving_it_never_began(journal: Journal) -> None:
    app = journal.app("a")
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_client(app):
        with pytest.raises(RuntimeError, match=r"app\.running\(\)"):
            await SMTPServer(app).serve_stream(theirs)
    assert await ours.receive_some() == b""


# Several listeners


async def test_several_configs_and_apps(journal: Journal, tmp_path: Path) -> None:
    app, other = journal.app("a"), journal.app("b")
    async with trio.open_nursery() as nursery:
        servers = await nursery.start(
            serve, app, [Config(port=0), (other, Config(port=0)), Config(unix_path=str(tmp_path / "lmtp"))]
        )
        assert [server.app for server in servers] == [app, other, app]
        assert journal == ["+a", "+b"]
        for server in servers:
            await visit(server)
            server.drain()
    assert journal == ["+a", "+b", *["connect", "close"] * 3, "-b", "-a"]


@pytest.mark.parametrize(
    ("configs", "error", "text"),
    [
        ([], ValueError, "one Config at least"),
        (["Config"], TypeError, "a Config or a pair"),
        ([(Config(), App())], TypeError, "a Config or a pair"),
        ([App()], TypeError, "a Config or a pair"),
    ],
)
async def test_configs_that_are_none(configs: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await serve(App(), configs)


# What is given


async def test_running_counts_all_servers_together(journal: Journal) -> None:
    app = App()
    seen: list[Running] = []

    @app.lifespan
    def keep(running: Running) -> AbstractAsyncContextManager[object]:
        seen.append(running)

        @asynccontextmanager
        async def nothing() -> AsyncIterator[None]:
            yield

        return nothing()

    async with trio.open_nursery() as nursery:
        servers = await nursery.start(serve, app, [Config(port=0), Config(port=0)])
        assert seen[0].servers == tuple(servers)
        for server in servers:
            await visit(server)
        assert seen[0].stats().connections_accepted == 2
        assert seen[0].stats().replies[220] == 2
        for server in servers:
            server.drain()


async def test_an_async_generator_by_way_of_a_lambda(journal: Journal) -> None:
    async def generator(name: str) -> AsyncIterator[None]:
        journal.append(name)
        yield

    app = App()
    app.lifespan(lambda _: generator("a"))
    await by_play(app)
    assert journal == ["a"]


@pytest.mark.parametrize("function", [None, "text", lambda: None, lambda _a, _b: None, Session.__repr__])
def test_what_is_no_lifespan_is_an_error_at_once(function: Any) -> None:
    if function is Session.__repr__:

        async def function(running: Running) -> None:
            """Without a yield."""

    with pytest.raises(TypeError, match="write `async def lifespan"):
        App().lifespan(function)


async def test_what_returns_no_context_manager_is_an_error_at_entry() -> None:
    app = App()
    app.lifespan(lambda _: 5)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="returned 5; write `async def lifespan"):
        await by_play(app)


async def test_registering_after_serving_began_is_an_error(journal: Journal) -> None:
    app = App()
    async with app.running():
        with pytest.raises(RuntimeError, match="before serving begins"):
            journal.add(app, "a")


def test_a_session_without_a_server_has_no_app() -> None:
    with pytest.raises(RuntimeError, match="without a server"):
        _ = Session().app


# Background tasks


def background(app: App, journal: Journal, *, crash: BaseException | None = None, late: bool = False) -> trio.Event:
    """A lifespan with a background task, which crashes at the event; `late`: or when it is cancelled."""
    event = trio.Event()

    async def task() -> None:
        try:
            await event.wait()
        except trio.Cancelled:
            journal.append("task ended")
            if late:
                raise ValueError("late") from None
            raise
        assert crash is not None
        raise crash

    @app.lifespan
    async def tasks(running: Running) -> AsyncIterator[None]:
        running.nursery.start_soon(task)
        await trio.lowlevel.checkpoint()
        yield

    return event


async def test_background_tasks_end_between_the_last_connection_and_the_lifespans(journal: Journal) -> None:
    app = journal.app("a")
    background(app, journal)
    await by_open_client(app)
    assert journal == ["+a", "connect", "close", "task ended", "-a"]


async def test_that_holds_for_a_cancellation_too(journal: Journal) -> None:
    app = journal.app("a")
    background(app, journal)
    with trio.CancelScope() as scope:
        async with open_client(app):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert journal[:4] == ["+a", "connect", "close", "task ended"]
    assert journal[4] in ("a Cancelled", "a BaseExceptionGroup")  # it depends on Trio's version
    assert journal[5:] == ["-a"]


async def test_an_error_while_they_are_ended_changes_nothing(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    app = journal.app("a")
    background(app, journal, late=True)
    await by_open_client(app)
    assert journal == ["+a", "connect", "close", "task ended", "-a"]
    assert logged(caplog) == ["a background task failed while it was ended"]


async def test_a_lifespan_may_cancel_them(journal: Journal) -> None:
    app = journal.app("a")

    @app.lifespan
    async def cancels(running: Running) -> AsyncIterator[None]:
        running.nursery.cancel_scope.cancel()
        yield

    await by_open_client(app)
    assert journal == ["+a", "connect", "close", "-a"]


@pytest.mark.parametrize("crash", [ValueError("crash"), OSError("crash")])
async def test_a_crash_ends_the_servers(crash: Exception, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    app = journal.app("a")
    reasons = note_closes(app)
    event = background(app, journal, crash=crash)
    with pytest.raises(type(crash)) as caught:  # noqa: PT012 - the end of the block is part of it
        async with open_client(app) as client:
            await start_data(client)
            event.set()
            await client.read_to_end()
            await trio.sleep_forever()
    assert caught.value is crash
    assert journal == ["+a", "connect", "close", f"a {type(crash).__name__}", "-a"]
    assert reasons == ["cancelled"]
    assert logged(caplog) == ["a background task crashed: the servers end"]


async def test_a_crash_during_entry_ends_it(journal: Journal) -> None:
    app = journal.app("a")
    event = background(app, journal, crash=ValueError("crash"))

    @app.lifespan
    async def hangs(running: Running) -> AsyncIterator[None]:
        event.set()
        await trio.sleep_forever()
        yield  # type: ignore[unreachable]

    with pytest.raises(ValueError, match="crash"):
        await by_play(app)
    assert journal == ["+a", "a ValueError", "-a"]


async def test_a_lifespan_that_swallows_the_cancellation_does_not_hide_the_crash(journal: Journal) -> None:
    app = journal.app("a")
    event = background(app, journal, crash=ValueError("crash"))

    @app.lifespan
    async def swallows(running: Running) -> AsyncIterator[None]:
        event.set()
        with pytest.raises(trio.Cancelled):
            await trio.sleep_forever()
        yield

    with pytest.raises(ValueError, match="crash"):
        await by_play(app)
    assert journal == ["+a", "connect", "close", "a ValueError", "-a"]


async def test_a_crash_beside_another_error_hides_neither(journal: Journal) -> None:
    app = App()
    event = background(app, journal, crash=ValueError("crash"))

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("body")

    with pytest.RaisesGroup(ValueError, pytest.RaisesGroup(KeyError)):
        async with app.running():
            event.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)


# Cancellation


async def test_cancellation_at_every_checkpoint(journal: Journal) -> None:
    """Whatever was entered is left, in reverse, and the App can be served again."""
    app = journal.app("a", "b")
    background(app, journal)
    for checkpoints in range(200):
        journal.clear()
        with trio.CancelScope() as scope:

            async def cancel_after(count: int, scope: trio.CancelScope) -> None:
                for _ in range(count):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, checkpoints, scope)
                with trio.CancelScope(shield=False):
                    await by_play(app)
                nursery.cancel_scope.cancel()
        entered = [line[1:] for line in journal if line.startswith("+")]
        left = [line[1:] for line in journal if line.startswith("-")]
        assert entered == left[::-1]
        assert journal.count("connect") == journal.count("close")
        if not scope.cancelled_caught:
            break
    else:
        pytest.fail("it never came to its end")
    assert checkpoints > 10


async def test_leaving_is_shielded_but_has_an_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    left: list[float] = []

    @app.lifespan
    async def slow(running: Running) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await trio.sleep(20)
            left.append(trio.current_time())
            await trio.sleep(20)

    began = trio.current_time()
    with trio.CancelScope() as scope:
        async with open_client(app, lifespan_timeout=25):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert (left[0] - began, trio.current_time() - began) == (20, 25)
    assert logged(caplog)[-1] == "the lifespans were not left within 25 s"
    await play(app, PLAY, lifespan_timeout=25)  # in order, too, the end comes
    assert trio.current_time() - began == 50


async def test_an_error_survives_a_lifespan_that_is_slow(autojump_clock: trio.testing.MockClock) -> None:
    app = App()

    @app.lifespan
    async def slow(running: Running) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await trio.sleep_forever()

    with pytest.raises(ValueError, match="mine"):
        async with app.running(timeout=1):
            raise ValueError("mine")


async def test_a_worker_that_is_drained_while_it_enters_ends(journal: Journal) -> None:
    app = journal.app("a")
    ours, theirs = socket.socketpair()

    @app.lifespan
    async def hangs(running: Running) -> AsyncIterator[None]:
        ours.send(b"d")
        await trio.sleep_forever()
        yield  # type: ignore[unreachable]

    with ours, socket.create_server(("127.0.0.1", 0)) as listening:
        await work([(SMTPServer(app), [listening])], theirs)
    assert journal == ["+a", "a Cancelled", "-a"]


# Who may serve


async def test_a_second_call_outside_of_running_is_an_error(journal: Journal) -> None:
    app = journal.app("a")
    async with open_client(app) as client:
        _, theirs = trio.testing.memory_stream_pair()
        with pytest.raises(RuntimeError, match=r"app\.running\(\)"):
            await client.server.serve_stream(theirs)
        with pytest.raises(RuntimeError, match=r"app\.running\(\)"):
            await serve(app, [Config(port=0)])
        with pytest.raises(RuntimeError, match="entered already"):
            async with app.running():
                pass
    assert journal == ["+a", "connect", "close", "-a"]


async def test_a_server_of_serve_begins_no_other_call(journal: Journal) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, journal.app("a"), Config(port=0))
        with pytest.raises(RuntimeError, match=r"app\.running\(\)"):
            await server.serve_tcp(port=0)
        server.drain()


async def test_running_is_for_any_number_of_calls(journal: Journal) -> None:
    app = journal.app("a")
    async with app.running() as running:
        assert (running.servers, journal) == ((), ["+a"])
        async with open_client(app) as one, open_client(app) as two:
            assert set(running.servers) == {one.server, two.server}
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, app, Config(port=0))
                assert running.servers[2:] == (server,)
                server.drain()
        assert running.servers == ()
        assert running.stats().connections_accepted == 2
    assert journal == ["+a", "connect", "connect", "close", "close", "-a"]
    await by_play(app)


async def test_leaving_running_drains(journal: Journal, autojump_clock: trio.testing.MockClock) -> None:
    app = journal.app("a")
    reasons = note_closes(app)
    server, listener = SMTPServer(app, Config(drain_timeout=10)), MemoryListener()
    async with trio.open_nursery() as nursery:
        async with app.running():
            await nursery.start(server.serve_listeners, [listener])
            client = Client(await listener.connect())
            await client.read_reply()
            await start_data(client)
            began = trio.current_time()
        assert 10 <= trio.current_time() - began < 12
        assert reasons == ["drained"]
        assert journal == ["+a", "connect", "close", "-a"]
        with pytest.raises(RuntimeError, match="was left"):
            await server.serve_listeners([MemoryListener()])


async def test_leaving_running_cancels_what_does_not_drain(
    journal: Journal, autojump_clock: trio.testing.MockClock
) -> None:
    class Stubborn(MemoryListener):
        async def aclose(self) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(15)
            await super().aclose()

    app = journal.app("a")
    server = SMTPServer(app, Config(drain_timeout=10))
    async with trio.open_nursery() as nursery:
        async with app.running():
            nursery.start_soon(server.serve_listeners, [MemoryListener(), Stubborn()])
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
        assert 12 < trio.current_time() - began < 20  # cancelled at 12: its shield ends at 15
    assert journal == ["+a", "-a"]


@pytest.mark.parametrize("lifespans", [("a",), ()])
async def test_a_failing_block_cancels_the_servers(lifespans: tuple[str, ...], journal: Journal) -> None:
    app = journal.app(*lifespans)
    reasons = note_closes(app)
    server, listener = SMTPServer(app), MemoryListener()
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="mine"):  # noqa: PT012 - the end of the block is part of it
            async with app.running():
                await nursery.start(server.serve_listeners, [listener])
                client = Client(await listener.connect())
                await client.read_reply()
                raise ValueError("mine")
    assert reasons == ["cancelled"]
    assert journal[-1] == ("-a" if lifespans else "close")


async def test_calls_that_begin_while_running_is_left(journal: Journal) -> None:
    app = App()

    @app.lifespan
    async def tries(running: Running) -> AsyncIterator[None]:
        yield
        with pytest.raises(RuntimeError, match="is being left"):
            await SMTPServer(app).serve_stream(trio.testing.memory_stream_pair()[0])
        journal.append("tried")

    async with app.running():
        pass
    assert journal == ["tried"]


async def test_two_threads_with_one_app(journal: Journal) -> None:
    app = journal.app("a")
    errors: list[str] = []

    def other() -> None:
        for way in (by_play, by_serve):
            try:
                trio.run(way, app)
            except RuntimeError as exc:
                errors.append(str(exc))
            except ExceptionGroup as group:
                errors.append(str(group.exceptions[0]))

    async with app.running():
        thread = threading.Thread(target=other)
        thread.start()
        await trio.to_thread.run_sync(thread.join)
    assert ["another event loop" in error for error in errors] == [True, True]


async def test_an_app_without_lifespans_is_free(journal: Journal) -> None:
    app = journal.app()
    async with open_client(app), open_client(app):
        pass
    assert journal == ["connect", "connect", "close", "close"]


async def test_a_signal_in_a_worker_leaves_the_lifespans(journal: Journal) -> None:
    app = journal.app("a")
    ours, theirs = socket.socketpair()
    with ours, socket.create_server(("127.0.0.1", 0)) as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, [(SMTPServer(app), [listening])], theirs)
            while not journal:
                await trio.lowlevel.checkpoint()
            os.kill(os.getpid(), signal.SIGTERM)
    assert journal[0] == "+a"
    assert journal[-1] == "-a"
