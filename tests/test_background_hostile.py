"""BackgroundServer when things go wrong: errors at the start, crashes, interrupts, forks, wrong use."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_smtp import App, Config, Running
from trio_smtp.background import BackgroundServer
from trio_smtp.background.thread import ServingThread

from .background_support import MESSAGE, Crashing, Storing, connected, no_thread_is_left, send, server_threads


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    with no_thread_is_left():
        yield


# At the start


def execute(server: BackgroundServer) -> None:
    with server:
        pytest.fail("the block was executed")


def execute_in_asyncio(server: BackgroundServer) -> None:
    async def main() -> None:
        async with server:
            pytest.fail("the block was executed")

    asyncio.run(main())


def execute_in_trio(server: BackgroundServer) -> None:
    async def main() -> None:
        async with server:
            pytest.fail("the block was executed")

    trio.run(main)


def failing(error: BaseException | None) -> App:
    app = Storing()

    @app.lifespan
    async def fail(running: Running) -> AsyncIterator[None]:
        if error is not None:
            raise error
        yield

    return app


def port_in_use(tmp_path: Path) -> BackgroundServer:
    path = tmp_path / "taken"
    path.touch()
    return BackgroundServer(Storing(), [Config(port=0), Config(unix_path=str(path))])


@pytest.mark.parametrize("execute", [execute, execute_in_asyncio, execute_in_trio])
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda _: BackgroundServer(failing(LookupError("no database"))), LookupError, "no database"),
        (lambda _: BackgroundServer(Storing(), []), ValueError, "one Config at least"),
        (lambda _: BackgroundServer(Storing(), [3]), TypeError, "not 3"),  # type: ignore[list-item]
        (lambda _: BackgroundServer("app"), TypeError, "must be an App"),  # type: ignore[arg-type]
        (port_in_use, OSError, "taken"),
    ],
)
def test_an_error_comes_out_as_it_is(
    execute: Callable[[BackgroundServer], None],
    make: Callable[[Path], BackgroundServer],
    error: type[BaseException],
    text: str,
    tmp_path: Path,
) -> None:
    server = make(tmp_path)
    with pytest.raises(error, match=text) as raised:
        execute(server)
    assert "serve" in {entry.name for entry in raised.traceback}
    with pytest.raises(RuntimeError, match="the block was left"):
        server.call(int)


def test_a_group_comes_out_as_it_is() -> None:
    group = ExceptionGroup("both", [LookupError("a"), KeyError("b")])
    with pytest.raises(ExceptionGroup, match="both") as raised:
        execute(BackgroundServer(failing(group)))
    assert raised.value is group


def test_a_port_in_use_is_an_oserror() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        execute(BackgroundServer(Storing(), Config(port=taken.getsockname()[1])))


def test_an_app_with_lifespans_is_for_one_block_at_a_time() -> None:
    app = Crashing(LookupError())
    with BackgroundServer(app), pytest.raises(RuntimeError, match="another event loop serves this App"):
        execute(BackgroundServer(app))
    with BackgroundServer(app) as server:
        send(server)


# Crashes


def crash(app: Crashing, then: Callable[[BackgroundServer], object]) -> None:
    """Have a server crash inside its block, and go on with the block."""
    with BackgroundServer(app) as server:
        server.call(app.crash)
        then(server)


def raises(error: BaseException) -> Callable[[BackgroundServer], object]:
    def fail(server: BackgroundServer) -> None:
        raise error

    return fail


def test_a_crash_comes_out_of_the_block_and_of_calls() -> None:
    def call_until_the_end(server: BackgroundServer) -> None:
        while True:
            server.call(int)

    def use(server: BackgroundServer) -> None:
        with pytest.raises(RuntimeError, match="the server has crashed") as first:
            server.call_async(trio.sleep_forever)
        with pytest.raises(RuntimeError, match="the server has crashed"):
            call_until_the_end(server)
        assert isinstance(first.value.__cause__, LookupError)

    with pytest.raises(LookupError, match="crashed") as raised:
        crash(Crashing(LookupError("crashed")), use)
    assert "wait_and_fail" in {entry.name for entry in raised.traceback}


def test_what_was_raised_because_of_the_crash_leaves_the_block() -> None:
    def use(server: BackgroundServer) -> None:
        server.call_async(trio.sleep_forever)

    with pytest.raises(RuntimeError, match="the server has crashed") as raised:
        crash(Crashing(LookupError("crashed")), use)
    assert str(raised.value.__cause__) == "crashed"


def test_what_the_block_raises_is_the_context_of_the_crash() -> None:
    with pytest.raises(LookupError, match="crashed") as raised:
        crash(Crashing(LookupError("crashed")), raises(ValueError("mine")))
    assert isinstance(raised.value.__context__, ValueError)


def test_an_exit_passes_and_the_crash_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit):
        crash(Crashing(LookupError("crashed")), raises(SystemExit()))
    assert "the server has crashed" in caplog.messages


def test_a_crash_by_an_exit_is_a_group() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        crash(Crashing(SystemExit("odd")), bool)
    assert raised.value.split(SystemExit)[1] is None


def test_a_crash_in_an_asyncio_block() -> None:
    app = Crashing(LookupError("crashed"))

    async def main() -> None:
        async with BackgroundServer(app) as server:
            server.call(app.crash)

    with pytest.raises(LookupError, match="crashed"):
        asyncio.run(main())


def test_what_a_call_still_runs_ends_with_the_block() -> None:
    async def in_a_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    async def fail_at_the_end() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError("mine")

    raised: list[BaseException] = []

    def call(function: Callable[[], Any]) -> None:
        try:
            server.call_async(function)
        except BaseException as exc:  # noqa: BLE001 - compared
            raised.append(exc)

    threads = [threading.Thread(target=call, args=[each]) for each in (trio.sleep_forever, in_a_nursery)]
    failing = threading.Thread(target=call, args=[fail_at_the_end])
    with BackgroundServer(Storing()) as server:
        for thread in (*threads, failing):
            thread.start()
        while server.call(lambda: trio.lowlevel.current_statistics().tasks_living) < 12:
            time.sleep(0.01)
    for thread in (*threads, failing):
        thread.join()
    assert sorted(type(each).__name__ for each in raised) == ["ExceptionGroup", "RuntimeError", "RuntimeError"]


# Wrong use


def test_before_and_after_the_block_there_is_no_server() -> None:
    server = BackgroundServer(Storing())
    used: list[Callable[[], object]] = [
        lambda: server.host,
        lambda: server.port,
        lambda: server.url,
        lambda: server.servers,
        lambda: server.call(int),
        lambda: server.call_async(trio.sleep, 0),
        server.drain,
    ]
    for use in used:
        with pytest.raises(RuntimeError, match=r"write `with BackgroundServer\(...\) as server:`"):
            use()
    with server:
        pass
    for use in used:
        with pytest.raises(RuntimeError, match="the block was left, and its server has ended"):
            use()


def test_a_lifespan_that_is_entered_cannot_use_the_server_yet() -> None:
    app = Storing()
    raised: list[str] = []

    @app.lifespan
    async def use(running: Running) -> AsyncIterator[None]:
        try:
            _ = server.servers
        except RuntimeError as exc:
            raised.append(str(exc))
        yield

    server = BackgroundServer(app)
    with server:
        send(server)
    assert raised == ["servers: the server has not started yet"]


def test_an_object_is_for_one_block() -> None:
    with BackgroundServer(Storing()) as server:
        with pytest.raises(RuntimeError, match="for one block"), server:
            pass
        send(server)
    with pytest.raises(RuntimeError, match="for one block"):
        execute(server)
    with pytest.raises(RuntimeError, match="for one block"):
        execute_in_asyncio(server)


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(ValueError, match="drain_timeout must not be negative"):
        BackgroundServer(Storing(), drain_timeout=-1)


def test_calls_that_would_block_for_ever_are_refused() -> None:
    app = Storing()

    async def inside() -> int:
        with pytest.raises(RuntimeError, match="in the server's own await the function"):
            server.call_async(trio.sleep, 0)
        assert server.call(threading.get_ident) == threading.get_ident()
        return await trio.to_thread.run_sync(server.call, int, "7")

    with BackgroundServer(app) as server:
        assert server.call_async(inside) == 7


async def test_another_trio_program() -> None:
    app = Storing()
    async with BackgroundServer(app) as server:
        with pytest.raises(RuntimeError, match=r"to_thread\.run_sync"):
            server.call(int)
        with pytest.raises(RuntimeError, match=r"to_thread\.run_sync"):
            server.call_async(trio.sleep, 0)
        assert await trio.to_thread.run_sync(server.call, int, "7") == 7
        await trio.to_thread.run_sync(send, server)
    assert app.stored == [MESSAGE]


async def test_a_trio_task_that_is_cancelled_while_it_enters_or_leaves() -> None:
    app = Storing()

    @app.lifespan
    async def slow(running: Running) -> AsyncIterator[None]:
        await trio.sleep(running.app.state.delay)
        yield

    app.state.delay = 100
    with trio.move_on_after(0.2) as entering:
        async with BackgroundServer(app):
            pytest.fail("the block was executed")
    assert entering.cancelled_caught
    app.state.delay = 0
    with trio.CancelScope() as leaving:
        async with BackgroundServer(app, drain_timeout=100) as server:
            with connected(server) as client:
                client.mail("alice@example.com")
                leaving.deadline = trio.current_time() + 0.2
                await server.__aexit__(None, None, None)
    assert leaving.cancelled_caught


# Interrupts


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], None]]:
    """Ctrl-C comes to the main thread in so many seconds."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")
    timers: list[threading.Timer] = []
    main = threading.main_thread().ident
    assert main is not None
    # A shell has programs that it runs in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def soon(seconds: float) -> None:
        timers.append(threading.Timer(seconds, signal.pthread_kill, [main, signal.SIGINT]))
        timers[-1].start()

    yield soon
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_while_the_block_is_entered(interrupt: Callable[[float], None]) -> None:
    app = Storing()

    @app.lifespan
    async def slow(running: Running) -> AsyncIterator[None]:
        await trio.sleep(100)
        yield

    interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        execute(BackgroundServer(app))


def test_an_interrupt_while_the_block_is_left(interrupt: Callable[[float], None]) -> None:
    before = time.monotonic()
    server = BackgroundServer(Storing(), drain_timeout=100)
    server.__enter__()
    with connected(server) as client:
        client.mail("alice@example.com")
        interrupt(0.3)
        with pytest.raises(KeyboardInterrupt):
            server.__exit__(None, None, None)
    assert time.monotonic() - before < 20


def test_a_second_interrupt_does_not_wait(interrupt: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = ServingThread.cancel

    def cancel_and_interrupt(thread: ServingThread) -> None:
        cancel(thread)
        interrupt(0.3)  # two that came before Python looks would be one

    monkeypatch.setattr(ServingThread, "cancel", cancel_and_interrupt)
    released = threading.Event()
    others = server_threads()
    server = BackgroundServer(Storing())
    server.__enter__()
    blocking = threading.Thread(target=lambda: server.call(released.wait))
    blocking.start()
    interrupt(0.3)
    with pytest.raises(KeyboardInterrupt):
        server.__exit__(None, None, None)
    assert not released.is_set()
    released.set()
    blocking.join()
    for thread in server_threads() - others:
        thread.join()


@pytest.mark.parametrize("started", [True, False])
def test_an_interrupt_while_the_thread_is_started(*, started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    start, run = threading.Thread.start, trio.run

    def start_and_fail(thread: threading.Thread) -> None:
        if started:
            start(thread)
        raise KeyboardInterrupt

    def run_late(*args: Any) -> None:
        time.sleep(0.2)
        run(*args)

    monkeypatch.setattr(threading.Thread, "start", start_and_fail)
    monkeypatch.setattr(trio, "run", run_late)
    monkeypatch.setattr("trio_smtp.background.thread._START_LIMIT", 0.1)
    with pytest.raises(KeyboardInterrupt):
        execute(BackgroundServer(Storing()))


# Forks


def in_a_child(function: Callable[[], object]) -> int:
    """Run a function in a forked process; the exit code, 99 for an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: a fork beside threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        function()
    except BaseException:  # noqa: BLE001 - pytest must not go on in the child
        os._exit(99)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_reaches_the_port_and_nothing_else() -> None:
    app = Storing()

    def use() -> None:
        send(server)
        for method in (lambda: server.call(int), server.drain, lambda: server.servers):
            with pytest.raises(RuntimeError, match="this one was forked from"):
                method()
        server.__exit__(None, None, None)
        asyncio.run(server.__aexit__(None, None, None))
        asyncio.run(server.__aexit__(None, GeneratorExit(), None))

    with BackgroundServer(app) as server:
        assert in_a_child(use) == 0
        send(server)
    assert app.stored == [MESSAGE] * 2


def test_another_process_is_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with BackgroundServer(Storing()) as server:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            with pytest.raises(RuntimeError, match="call: the server is in the process that this one was forked from"):
                server.call(int)
            server.__exit__(None, None, None)
            asyncio.run(server.__aexit__(None, None, None))
            asyncio.run(server.__aexit__(None, GeneratorExit(), None))
        send(server)
