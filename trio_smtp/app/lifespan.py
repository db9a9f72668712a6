"""Lifespans: what an App needs as long as it is served, and who has entered it.

All lifespans of an App are entered and left together, in one task: that is a *hold*, and an App has one at a time. A
``serve_*`` call takes one for itself, `serve` and a worker for their servers, `App.running` for every server. From the
outside to the inside a hold consists of

* a task that keeps the nursery for background tasks open, so that the nursery's cancellation reaches no lifespan;
* a scope that a crash of a background task cancels while lifespans are being entered. Later the crash cancels a scope
  around the servers alone: a cancellation from the outside would reach the tasks that lifespans have started;
* for each lifespan a scope that is opened before it is entered, and becomes a shield with a deadline when serving has
  ended. One that was opened around the leaving alone would be closed in the wrong order with the nurseries that
  lifespans have opened; and these are cancelled with their tasks when a cancellation comes from the outside;
* inside the lifespans the servers.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any

import trio

from trio_smtp.net.nurseries import open_bare_nursery

from .base import BaseApp
from .running import Running, Server

__all__ = ["Lifespan", "Lifespans"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: An async generator function with one ``yield``, or a function that returns an async context manager.
Lifespan = Callable[[Running], AsyncIterator[None] | AbstractAsyncContextManager[object]]

#: Seconds that a server gets beyond its drain_timeout: its last clients are told 421 when that is over.
_DRAIN_MARGIN = 2.0
_NOTHING = nullcontext()
_WANTED = "write `async def lifespan(running)` with one `yield`, or return an async context manager"
_USE_RUNNING = (
    "serve several listeners by `serve(app, [config, ...])`, or begin the calls inside `async with app.running():`"
)


class Lifespans:
    """The lifespans of an App, and who has entered them.

    Args:
        app: The App.
    """

    def __init__(self, app: BaseApp) -> None:
        self._app = app
        self._functions: list[Callable[[Running], Any]] = []
        self._hold: _Hold | None = None
        # Two threads may run event loops with one App.
        self._lock = threading.Lock()
        # Servers that have served inside a `running()` that was left.
        self._ended: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, function: Callable[..., Any]) -> None:
        """Register a function; see `App.lifespan`."""
        _check(function)
        self._functions.append(function)

    @property
    def _idle(self) -> bool:
        return not self._functions and self._hold is None

    # Who holds them

    def around(self, server: Server) -> AbstractAsyncContextManager[object]:
        """What a ``serve_*`` call is to be done in: enters the lifespans, unless a hold that admits the server has.

        Raises:
            RuntimeError: The server has served inside `running`, which was left; at entry: another call holds them.
        """
        if self._ended and server in self._ended:
            raise RuntimeError("the server has served inside `app.running()`, which was left: make a new SMTPServer")
        return _NOTHING if self._idle else self._around(server)

    @asynccontextmanager
    async def _around(self, server: Server) -> AsyncIterator[None]:
        hold, found = self._take([server], expected=())
        if found:
            with hold.admitted(server):
                yield
        else:
            async with self._entered(hold, server.config.lifespan_timeout):
                yield

    @asynccontextmanager
    async def around_all(self, servers: Iterable[Server]) -> AsyncIterator[None]:
        """Enter the lifespans for several servers; each may then begin one ``serve_*`` call. Nothing inside `running`.

        Raises:
            RuntimeError: At entry: another call holds them.
        """
        if self._idle:
            yield
            return
        servers = list(servers)
        hold, found = self._take(servers, expected=servers)
        if found:
            hold.check()  # inside `running` each server is admitted when it begins
            yield
        else:
            async with self._entered(hold, max(server.config.lifespan_timeout for server in servers)):
                yield

    @asynccontextmanager
    async def running(self, timeout: float) -> AsyncIterator[Running]:
        """See `App.running`."""
        hold, found = self._take([], expected=None)
        if found:
            raise RuntimeError("app.running(): the lifespans of this App are entered already")
        try:
            async with self._entered(hold, timeout) as running:
                yield running
        finally:
            self._ended.update(hold.calls)

    def _take(self, servers: Iterable[Server], expected: Iterable[Server] | None) -> tuple[_Hold, bool]:
        """The hold there is and True, or a new one and False."""
        with self._lock:
            if self._hold is not None:
                self._hold.check_loop()
                return self._hold, True
            self._hold = _Hold(servers, expected)
            return self._hold, False

    # The hold

    @asynccontextmanager
    async def _entered(self, hold: _Hold, timeout: float) -> AsyncIterator[Running]:
        cause: BaseException | None = None
        leaving: list[trio.CancelScope] = []
        try:
            async with open_bare_nursery() as own, _keeping_tasks(own) as background:
                running = Running(self._app, background.nursery, hold.calls)
                with background.interruptible() as entering:
                    async with AsyncExitStack() as stack:
                        try:
                            for function in self._functions:
                                leaving.append(stack.enter_context(trio.CancelScope()))
                                await stack.enter_async_context(_manager(function, running))
                            with background.interruptible():
                                yield running
                                await hold.drain()
                        except BaseException as exc:
                            cause = exc
                        with trio.CancelScope(shield=True):  # a lifespan's nursery around this may be cancelled
                            await hold.end()
                            await background.end()
                        _shield(leaving, timeout)
                        cause = background.cause(cause)
                        _raise_again(cause, swallowed=True)
                late = any(scope.cancelled_caught for scope in leaving)
                if late:
                    logger.error("the lifespans were not left within %g s", timeout)
                _raise_again(cause, swallowed=late or entering.cancelled_caught)
        finally:
            self._hold = None


class _Hold:
    """Who may serve while the lifespans are entered.

    Args:
        servers: Those that count as serving from the beginning to the end.
        expected: Those that may begin one call each; None: every server.

    Attributes:
        calls: How many calls of each server are under way.
    """

    def __init__(self, servers: Iterable[Server], expected: Iterable[Server] | None) -> None:
        self.calls: dict[Server, int] = dict.fromkeys(servers, 1)
        self._expected = None if expected is None else set(expected)
        self._token = trio.lowlevel.current_trio_token()
        # Of the calls that were admitted.
        self._scopes: set[trio.CancelScope] = set()
        self._leaving = False
        self._over = trio.Event()

    def check_loop(self) -> None:
        """Raises RuntimeError in another event loop than the hold's."""
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("another event loop serves this App: `app.running()` and its lifespans are for one loop")

    def check(self) -> None:
        """Raises RuntimeError unless every server may begin."""
        if self._leaving:
            raise RuntimeError("`app.running()` is being left: begin no calls after its end")
        if self._expected is not None:
            raise RuntimeError(f"another call serves this App, which has lifespans: {_USE_RUNNING}")

    @contextmanager
    def admitted(self, server: Server) -> Iterator[None]:
        """Let a call of the server begin; it is under way as long as the block.

        Raises:
            RuntimeError: The server may not begin.
        """
        if self._expected is not None and server in self._expected:
            self._expected.remove(server)
        else:
            self.check()
        with trio.CancelScope() as scope:
            self.calls[server] = self.calls.get(server, 0) + 1
            self._scopes.add(scope)
            try:
                yield
            finally:
                self.calls[server] -= 1
                self._scopes.remove(scope)
                if not self._scopes:
                    self._over.set()
                    self._over = trio.Event()

    async def drain(self) -> None:
        """Drain the servers whose calls are still under way, and give them their time."""
        self._leaving = True
        if self._scopes:
            servers = [server for server, calls in self.calls.items() if calls]
            for server in servers:
                server.drain()
            with trio.move_on_after(max(server.config.drain_timeout for server in servers) + _DRAIN_MARGIN):
                await self._over.wait()

    async def end(self) -> None:
        """Cancel the calls that are still under way, and wait for their end."""
        self._leaving = True
        for scope in self._scopes:
            scope.cancel()
        if self._scopes:
            await self._over.wait()


class _Background:
    """The nursery for background tasks, which a task of its own keeps open.

    Attributes:
        nursery: Where they run.
        opened: The nursery is there.
    """

    nursery: trio.Nursery

    def __init__(self) -> None:
        # Cancelled when a task crashes.
        self._innermost: trio.CancelScope | None = None
        self.opened = trio.Event()
        self._closed = trio.Event()
        self._ending = False
        self._crash: BaseException | None = None

    async def keep_open(self) -> None:
        """Keep the nursery open until `end`; what is raised in it is kept, or logged."""
        try:
            # What cancels the task that serves must not end these tasks before the last connection has ended.
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as self.nursery:
                    self.opened.set()
                    await trio.sleep_forever()
        except BaseException as exc:
            if self._ending:
                logger.error("a background task failed while it was ended", exc_info=exc)
            else:
                self._crash = _only(exc)
                logger.error("a background task crashed: the servers end", exc_info=self._crash)
                assert self._innermost is not None
                self._innermost.cancel()
        finally:
            self._closed.set()

    @contextmanager
    def interruptible(self) -> Iterator[trio.CancelScope]:
        """When a task crashes the block is cancelled; of blocks in each other the innermost."""
        outer = self._innermost
        with trio.CancelScope() as scope:
            self._innermost = scope
            if self._crash is not None:
                scope.cancel()
            try:
                yield scope
            finally:
                self._innermost = outer

    async def end(self) -> None:
        """Cancel the tasks, and wait until they have ended."""
        # A task that has crashed may wait for others, which do something under a shield.
        self._ending = not self.nursery.cancel_scope.cancel_called
        self.nursery.cancel_scope.cancel()
        await self._closed.wait()

    def cause(self, raised: BaseException | None) -> BaseException | None:
        """What serving ends with: what was raised, or the crash in the place of the cancellation that came of it."""
        if self._crash is None:
            return raised
        rest = None if raised is None else _without_cancellation(raised)
        return self._crash if rest is None else BaseExceptionGroup("serving failed", [self._crash, rest])


@asynccontextmanager
async def _keeping_tasks(own: trio.Nursery) -> AsyncIterator[_Background]:
    background = _Background()
    own.start_soon(background.keep_open)
    # Not `own.start`: cancelled, it would wait for the task to end by itself.
    with trio.CancelScope(shield=True):
        await background.opened.wait()
    try:
        yield background
    finally:
        background.nursery.cancel_scope.cancel()  # it has ended but after a KeyboardInterrupt, which comes anywhere


def _raise_again(cause: BaseException | None, *, swallowed: bool) -> None:
    """Raise what serving ended with, in the lifespans, and after them where it did not come through."""
    # Behind the shields a lifespan's nursery takes a cancellation from the outside for one of its own.
    if cause is not None and (swallowed or _without_cancellation(cause) is None):
        raise cause


def _shield(scopes: Iterable[trio.CancelScope], seconds: float) -> None:
    """From now on what is in the scopes is cancelled when so many seconds are over, and by nothing else."""
    deadline = trio.current_time() + seconds
    for scope in scopes:
        scope.shield, scope.deadline = True, deadline


def _only(exc: BaseException) -> BaseException:
    """The exception, out of groups that hold nothing else."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def _without_cancellation(exc: BaseException) -> BaseException | None:
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1]
    return None if isinstance(exc, trio.Cancelled) else exc


def _check(function: Any) -> None:
    """Raises TypeError for what is no lifespan; the text says what to write."""
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise TypeError(f"lifespan: {name} is not a function; {_WANTED}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"lifespan: {name} is not an async generator function; {_WANTED}")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise TypeError(f"lifespan: {name} must take one argument, the Running; {_WANTED}") from None


def _manager(function: Callable[[Running], Any], running: Running) -> AbstractAsyncContextManager[object]:
    """Call a lifespan's function; what it returns as an async context manager."""
    found = function(running)
    if inspect.isasyncgen(found):
        return asynccontextmanager(lambda: found)()
    if isinstance(found, AbstractAsyncContextManager):
        return found
    raise TypeError(f"lifespan: {getattr(function, '__qualname__', function)} returned {found!r}; {_WANTED}")
