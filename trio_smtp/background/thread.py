"""The thread that runs Trio and serves.

The thread tells its beginning and its end by two futures of `concurrent.futures`: a synchronous program waits for their
results, and an event loop is called back. Every exception ends in `ServingThread.failure`, so `threading.excepthook`
never sees one. The thread is a daemon: a program that never leaves its block can end all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import trio

from trio_smtp import App, Config, SMTPServer, serve

__all__ = ["Configs", "ServingThread"]

#: What `trio_smtp.serve` takes as a list.
Configs = Sequence[Config | tuple[App, Config]]

#: Seconds to wait for a thread of which an interrupt hides whether it was started.
_START_LIMIT = 5.0
#: Seconds for the end of servers that have no connection, but may be refusing one.
_NO_CONNECTION_LIMIT = 0.05


class _Started:
    """The ``task_status`` that `serve` calls: a nursery for it would put errors at the start into a group.

    Args:
        call: Called with the servers.
    """

    def __init__(self, call: Callable[[list[SMTPServer]], object]) -> None:
        self._call = call

    def started(self, value: list[SMTPServer] | None = None) -> None:
        """All servers accept connections."""
        assert value is not None
        self._call(value)


class ServingThread:
    """Serves in a thread until it is told to end, or drained.

    Args:
        app: The handlers.
        configs: Where to listen.
        prepare: Called in the thread, inside the event loop, before anything is opened.

    Attributes:
        ready: The servers, when all accept connections. The exception that `serve` raised before, or a RuntimeError
            when the thread was told to end before.
        over: Done as the thread's last act.
        failure: What `serve` has raised.
        first_name: Where the first listener is: host and port, or the path of a Unix socket; None before.
    """

    def __init__(self, app: App, configs: Configs, prepare: Callable[[], object]) -> None:
        self._app = app
        self._configs = configs
        self._prepare = prepare
        self.ready: Future[list[SMTPServer]] = Future()
        self.over: Future[None] = Future()
        self.failure: BaseException | None = None
        self.first_name: tuple[Any, ...] | str | None = None
        self._thread = threading.Thread(target=self._run, name="trio_smtp BackgroundServer", daemon=True)
        # Guards the two attributes below: who cancels may be quicker than the thread.
        self._lock = threading.Lock()
        self._cancelled = False
        self._running: tuple[trio.lowlevel.TrioToken, trio.CancelScope] | None = None
        self._servers: list[SMTPServer] = []
        # A running future cannot be cancelled: the cancellation of one who waits stays with that one.
        self.ready.set_running_or_notify_cancel()
        self.over.set_running_or_notify_cancel()

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """The event loop's; only when `ready` has servers."""
        return self._loop[0]

    @property
    def _loop(self) -> tuple[trio.lowlevel.TrioToken, trio.CancelScope]:
        assert self._running is not None
        return self._running

    # In the caller's thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def cancel(self) -> None:
        """End serving at once."""
        with self._lock:
            self._cancelled = True
            running = self._running
        if running is not None:
            token, scope = running
            self._soon(token, scope.cancel)

    def drain(self) -> None:
        """Drain all servers."""
        self._soon(self.token, self._drain)

    def leave(self, limit: float) -> None:
        """End serving: at once where no connection is open, in so many seconds at most where one is."""

        def leave() -> None:
            open_now = any(server.sessions for server in self._servers)
            if not limit and open_now:
                scope.cancel()  # a drain would wait for clients to close
                return
            self._drain()
            scope.deadline = trio.current_time() + (limit or _NO_CONNECTION_LIMIT)

        token, scope = self._loop
        self._soon(token, leave)

    def _drain(self) -> None:
        for server in self._servers:
            server.drain()

    def join(self) -> None:
        """Wait for the thread's end.

        Raises:
            KeyboardInterrupt: It came meanwhile: serving was ended at once, and so has the thread. A second one is
                raised without waiting further.
        """
        try:
            self._wait()
        except KeyboardInterrupt:
            self.cancel()
            self._wait()
            raise

    def _wait(self) -> None:
        # Where an interrupt hit `start`, `over` tells more than the Thread object knows.
        with suppress(TimeoutError):
            self.over.result(None if self._thread.ident is not None else _START_LIMIT)
        if self._thread.ident is not None:
            self._thread.join()

    @staticmethod
    def _soon(token: trio.lowlevel.TrioToken, function: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(function)

    # In the thread

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:  # noqa: BLE001 - the caller's thread raises it
            self.failure = exc
        finally:
            if not self.ready.done():
                self.ready.set_exception(self.failure or RuntimeError("the server was ended before it had started"))
            self.over.set_result(None)

    async def _serve(self) -> None:
        try:
            with trio.CancelScope() as scope:
                with self._lock:
                    self._running = trio.lowlevel.current_trio_token(), scope
                    if self._cancelled:
                        scope.cancel()
                self._prepare()
                await serve(self._app, self._configs, task_status=_Started(self._note_started))
        except BaseException as exc:
            # `trio.run` raises it too, but calls from other threads fail before that.
            self.failure = exc
            raise

    def _note_started(self, servers: list[SMTPServer]) -> None:
        self._servers = servers
        for listener in servers[0].listeners[:1]:
            assert isinstance(listener, trio.SocketListener)
            self.first_name = listener.socket.getsockname()
        self.ready.set_result(servers)
