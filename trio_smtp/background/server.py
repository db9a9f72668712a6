"""BackgroundServer: serves as long as a block of another program is executed."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeVar, TypeVarTuple

import trio

from trio_smtp import App, Config, SMTPServer

from .asyncio_call import EnteredLoop, entered_loop
from .thread import Configs, ServingThread
from .waiting import trio_token_here, wait, wait_to_the_end

__all__ = ["BackgroundServer"]

logger: logging.Logger = logging.getLogger("trio_smtp")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class BackgroundServer:
    """Serves an App in a thread of its own, while a ``with`` or ``async with`` block is executed.

    The block begins when all listeners accept connections and the App's lifespans are entered, and ends when the thread
    has ended. An object is for one block. Any thread may use it inside the block.

    ``async with`` works in asyncio and in another Trio program, and does not block their event loop. Signals are left
    alone: Ctrl-C comes to the main thread, leaves its block, and ends the server so.

    Args:
        app: The handlers. They run in the server's thread, unless they were made by `asyncio_handler`.
        config: Where to listen, and limits. None: a free port of 127.0.0.1. A list: several listeners; a pair
            ``(App, Config)`` in it is another App's.
        drain_timeout: Seconds that transactions under way get when the block is left; `Config.drain_timeout` ends them
            earlier. An idle client hears 421, and has a second to close. 0: connections are ended at once, as they
            always are when an exception leaves the block; lifespans see a cancellation then. Where no connection is
            open they do not.

    Raises:
        ValueError: `drain_timeout` is negative.

    Error handling: what `trio_smtp.serve` raises at the start is raised as it is when the block is entered. A crash
    later is raised when the block is left; meanwhile it is the cause of what `call` and `call_async` raise. When the
    block itself has raised an `Exception`, the crash has that one as ``__context__``, unless it came of the crash.
    Other exceptions of the block pass, and the crash is logged.

    Cancellation: a task that is cancelled, or a KeyboardInterrupt, while the block is entered or left ends serving at
    once; the exception goes on when the thread has ended. A second KeyboardInterrupt does not wait for the thread.

    Resource handling: the thread is a daemon, so a program ends that never leaves its block; lifespans are not left
    then. In a process that was forked inside the block there is no server: `host`, `port` and `url` lead to that of
    the parent, methods raise RuntimeError, and leaving the block does nothing. As long as such a process lives, the
    system takes connections to the port, which nobody serves once the parent has left its block.

    Example:
        >>> with BackgroundServer(app, Config(port=0)) as server:
        ...     with smtplib.SMTP(server.host, server.port) as client:
        ...         client.sendmail("a@example.com", ["b@example.com"], message)
    """

    def __init__(self, app: App, config: Config | Configs | None = None, *, drain_timeout: float = 0) -> None:
        if drain_timeout < 0:
            raise ValueError(f"drain_timeout must not be negative, not {drain_timeout}")
        if config is None:
            config = Config(port=0)
        self._drain_timeout = drain_timeout
        self._thread = ServingThread(app, [config] if isinstance(config, Config) else config, self._prepare)
        self._process = 0
        # None unless asyncio has entered the block.
        self._asyncio: EnteredLoop | None = None
        self._state: Literal["new", "entered", "left"] = "new"

    # The block

    def __enter__(self) -> Self:
        self._enter()
        try:
            self._thread.start()
            self._thread.ready.exception()
        except BaseException:
            self._end_now()
            raise
        if (failure := self._thread.ready.exception()) is not None:
            self._thread.join()
            self._fail(failure)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave(exc):
            if self._asyncio is not None and self._asyncio.runs_here():
                self._asyncio.abandon()  # a `with` inside the loop, which it blocks
            try:
                self._thread.join()
            finally:
                self._state = "left"
            self._raise_crash(exc)

    async def __aenter__(self) -> Self:
        entered = EnteredLoop() if trio_token_here() is None else None
        self._enter()
        self._asyncio = entered
        try:
            self._thread.start()
            await wait(self._thread.ready)
        except GeneratorExit:  # the event loop has thrown the task away: nothing can be awaited
            self._end_now()
            raise
        except BaseException:
            self._thread.cancel()
            await self._join()
            raise
        if (failure := self._thread.ready.exception()) is not None:
            await self._join()
            self._fail(failure)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, GeneratorExit):  # the event loop has thrown the task away: nothing can be awaited
            if self._process == os.getpid():
                self._end_now()
                self._raise_crash(exc)
        elif self._leave(exc):
            await self._join()
            self._raise_crash(exc)

    def _enter(self) -> None:
        if self._state != "new":
            raise RuntimeError("a BackgroundServer is for one block: make another one")
        self._state = "entered"
        self._process = os.getpid()

    def _leave(self, exc: BaseException | None) -> bool:
        """Tell the thread to end; False where there is none."""
        if self._process != os.getpid():
            return False
        if exc is None:
            self._thread.leave(self._drain_timeout)
        else:
            self._thread.cancel()
        return True

    def _prepare(self) -> None:
        """Tell handlers in which asyncio loop they run."""
        if self._asyncio is not None:
            entered_loop.set(self._asyncio)

    def _end_now(self) -> None:
        """End the thread and wait for it, where nothing can be awaited."""
        if self._asyncio is not None:
            self._asyncio.abandon()
        self._thread.cancel()
        try:
            self._thread.join()
        finally:
            self._state = "left"

    async def _join(self) -> None:
        try:
            await wait_to_the_end(self._thread.over, self._thread.cancel)
        finally:
            self._thread.join()  # `over` is its last act
            self._state = "left"

    def _fail(self, failure: BaseException) -> NoReturn:
        self._state = "left"
        try:
            raise failure
        finally:
            del failure  # its traceback has this frame

    def _raise_crash(self, exc: BaseException | None) -> None:
        crash = self._thread.failure
        if crash is None or _comes_of(exc, crash):
            return
        if exc is not None and not isinstance(exc, Exception):
            logger.error("the server has crashed", exc_info=crash)
            return
        self._fail(crash)

    # Inside the block

    @property
    def servers(self) -> tuple[SMTPServer, ...]:
        """The servers, one for each Config. They belong to the server's thread: use them in `call`.

        Raises:
            RuntimeError: The block is not being executed.
        """
        self._check("servers")
        return tuple(self._thread.ready.result())

    @property
    def host(self) -> str:
        """The address of the first listener; the loopback address where it listens on all interfaces.

        Raises:
            RuntimeError: The block is not being executed, or the first listener is a Unix socket.
        """
        return self._address("host")[0]

    @property
    def port(self) -> int:
        """The port of the first listener.

        Raises:
            RuntimeError: As with `host`.
        """
        return self._address("port")[1]

    @property
    def url(self) -> str:
        """The first listener as a URL: ``smtp``, ``smtps`` (TLS from the first octet) or ``lmtp``, host and port.

        Raises:
            RuntimeError: As with `host`.
        """
        host, port = self._address("url")
        config = self._thread.ready.result()[0].config
        scheme = ("lmtp" if config.lmtp else "smtp") + ("s" if config.implicit_tls else "")
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def _address(self, what: str) -> tuple[str, int]:
        self._check(what, forked=True)
        name = self._thread.first_name
        if not isinstance(name, tuple):
            raise RuntimeError(f"{what}: the first listener is no TCP port but {name!r}")
        host, port = name[:2]
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - shown, not listened on

    def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function in the server's thread, between two steps of its tasks, and wait for what it returns.

        Inside the server's thread, in a handler, the function is called at once.

        Args:
            function: Must not block: nothing is served meanwhile.
            args: Its arguments.

        Returns:
            What the function returns. What it raises is raised here.

        Raises:
            RuntimeError: The block is not being executed, the servers have ended, or have crashed (the crash is its
                ``__cause__``), this is a process that was forked inside the block, or a task of another Trio program
                (use ``await trio.to_thread.run_sync(server.call, function)``).
        """
        self._check("call")
        if (here := trio_token_here()) is not None:
            if here is self._thread.token:
                return function(*args)
            raise RuntimeError("call blocks: in a Trio program use await trio.to_thread.run_sync(server.call, ...)")
        return self._ask(partial(trio.from_thread.run_sync, function, *args, trio_token=self._thread.token))

    def call_async(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run an async function in the server's event loop, and wait for what it returns.

        Args:
            function: For Trio. It is cancelled when the block is left.
            args: Its arguments.

        Returns:
            What the function returns. What it raises is raised here.

        Raises:
            RuntimeError: As with `call`; the servers have ended meanwhile; or this is a task of a Trio program. In the
                server's own thread await the function. In asyncio use ``await asyncio.to_thread(server.call_async,
                function)``, which does not block the event loop.
        """
        self._check("call_async")
        if (here := trio_token_here()) is not None:
            if here is self._thread.token:
                raise RuntimeError("call_async is for other threads: in the server's own await the function")
            raise RuntimeError(
                "call_async blocks: in a Trio program use await trio.to_thread.run_sync(server.call_async, ...)"
            )
        if self._asyncio is not None and self._asyncio.runs_here():
            raise RuntimeError("call_async blocks: in asyncio use await asyncio.to_thread(server.call_async, ...)")
        return self._ask(partial(trio.from_thread.run, function, *args, trio_token=self._thread.token))

    def drain(self) -> None:
        """Stop accepting, tell idle clients 421, let transactions in flight end within `Config.drain_timeout`.

        Any thread may call it, handlers as well, more than once. It returns at once; leaving the block waits.

        Raises:
            RuntimeError: The block is not being executed, or this is a process that was forked inside it.
        """
        self._check("drain")
        self._thread.drain()

    def _check(self, what: str, *, forked: bool = False) -> None:
        """Raises RuntimeError unless the block is being executed, in this process or (`forked`) its parent."""
        if self._state == "new":
            raise RuntimeError(f"{what}: write `with BackgroundServer(...) as server:`, and use it inside the block")
        if not self._thread.ready.done():
            raise RuntimeError(f"{what}: the server has not started yet")
        if self._state == "left":
            raise RuntimeError(f"{what}: the block was left, and its server has ended")
        if not forked and self._process != os.getpid():
            raise RuntimeError(f"{what}: the server is in the process that this one was forked from")

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (trio.RunFinishedError, trio.Cancelled):
            pass  # the server has ended, before the call or under it
        except BaseExceptionGroup as exc:
            if (rest := exc.split((trio.RunFinishedError, trio.Cancelled))[1]) is not None:
                raise rest from None
        # The crash itself is still being raised in the other thread, and may be in further ones.
        crash = self._thread.failure
        raise RuntimeError("the server has ended" if crash is None else "the server has crashed") from crash


def _comes_of(exc: BaseException | None, crash: BaseException) -> bool:
    """Whether an exception is the crash, or was raised because of it."""
    seen = set()
    while exc is not None and id(exc) not in seen:
        if exc is crash:
            return True
        seen.add(id(exc))
        exc = exc.__cause__ or exc.__context__
    return False
