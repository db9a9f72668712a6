"""Several processes on one port: `serve_workers`, and the supervisor behind it.

Python runs in one core; a server that needs more of them needs processes. The supervisor opens the listening sockets
and forks the workers; each runs an event loop of its own. A supervisor that has no event loop and no threads can fork
whenever a worker has to be replaced, and an App, a Config and an SSLContext reach a worker as they are. It waits for
signals alone, and tells each worker what to do on a socket pair. Its end there is the workers' end too: when the
supervisor is gone, however it went, they drain. Workers are not told by signals, because terminals and service
managers send theirs to all processes of a group, and a worker could not tell the second from a copy of the first.

Where the system spreads connections over sockets that share a port (SO_REUSEPORT on Linux), each worker has a socket
of its own; elsewhere, and for Unix sockets, all accept from one. The supervisor keeps them open as well: a connection
that waits to be accepted when a worker dies is served by the next one.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import NoReturn

import attrs
import trio

from trio_smtp.app.application import App
from trio_smtp.app.config import Config
from trio_smtp.protocol.values import ShowsFields

from .processes import System
from .server import SMTPServer
from .shared_sockets import Listening, listen

__all__ = ["Reload", "Supervisor", "serve_workers", "work"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: Awaited with each server of a worker when it is to load certificates and the like anew.
Reload = Callable[[SMTPServer], Awaitable[object]]

_DRAIN, _STOP, _RELOAD = b"d", b"s", b"r"
#: Seconds until a worker that died is replaced: doubled each time, begun anew when it had lived the longest of them.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0
#: Seconds that workers get beyond their drain_timeout: last words and on_close handlers have limits of their own.
_MARGIN = 40.0


# The supervisor


@attrs.define(eq=False, repr=False)
class _Place(ShowsFields):
    """Where a worker stands, or is to stand."""

    number: int
    pid: int | None = None
    #: The supervisor's end; closed, the worker drains.
    orders: socket.socket | None = None
    began: float = 0.0
    #: When the next one starts, and how long it waited.
    due: float = 0.0
    delay: float = 0.0


class Supervisor:
    """Keeps workers running until signals end them.

    Args:
        listening: What they serve. Closed at the end.
        workers: How many.
        started: Called once, before the first of them starts.
        draining: Called when the first signal asks for the end.
        reload: See `serve_workers`.
        system: What to ask; None: the real one.
    """

    def __init__(
        self,
        listening: Sequence[Listening],
        workers: int,
        *,
        started: Callable[[], object] | None = None,
        draining: Callable[[], object] | None = None,
        reload: Reload | None = None,
        system: System | None = None,
    ) -> None:
        self._listening = listening
        self._started = started or _nothing
        self._draining = draining or _nothing
        self._reload = reload
        self._reloaded = False
        self._system = system or System(hangups=reload is not None)
        self._places = [_Place(number) for number in range(workers)]
        self._patience = max(each.server.config.drain_timeout for each in listening) + _MARGIN
        #: When what is left is killed; None: the end was not asked for.
        self._deadline: float | None = None
        self._ends = 0
        self._status = 0

    def run(self) -> int:
        """Run; returns the exit code (see `serve_workers`)."""
        try:
            with self._system:
                self._started()
                while self._deadline is None or any(place.pid is not None for place in self._places):
                    self._start_workers()
                    self._obey(self._system.wait(self._idle_seconds()))
                    self._bury()
                    self._enforce_the_end()
        finally:
            for place in self._places:
                if place.orders is not None:
                    place.orders.close()
            for each in self._listening:
                each.close()
        return self._status

    def _idle_seconds(self) -> float | None:
        """How long nothing but a signal can change anything; None: for ever."""
        if self._deadline is not None:
            moments = [self._deadline]
        else:
            moments = [place.due for place in self._places if place.pid is None]
        until = min(moments, default=math.inf)
        return None if until == math.inf else max(0.0, until - self._system.now())

    def _obey(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                continue  # it woke us
            if number not in (signal.SIGTERM, signal.SIGINT):
                self._reloaded = True
                self._order(_RELOAD)
                continue
            self._ends += 1
            if self._ends == 1:
                self._draining()
                for each in self._listening:
                    each.close()
                self._order(_DRAIN)
                self._deadline = self._system.now() + self._patience
            else:
                self._status = 128 + number
                self._order(_STOP)
                self._deadline = self._system.now() + (_MARGIN if self._ends == 2 else 0)

    def _order(self, order: bytes) -> None:
        for place in self._places:
            if place.orders is not None:
                with suppress(OSError):  # it just died, or reads no more: the deadline is for that
                    place.orders.send(order)

    def _enforce_the_end(self) -> None:
        if self._deadline is None or self._system.now() < self._deadline:
            return
        self._deadline = math.inf
        for place in self._places:
            if place.pid is not None:
                logger.error("worker %d does not end: killing process %d", place.number, place.pid)
                self._system.kill(place.pid)

    def _bury(self) -> None:
        """See which workers died."""
        for place in self._places:
            code = None if place.pid is None else self._system.ended(place.pid)
            if code is None:
                continue
            assert place.orders is not None
            place.orders.close()
            how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
            died = f"worker {place.number}, process {place.pid}, {how}"
            place.pid = place.orders = None
            if self._deadline is None:
                self._postpone(place, died)
            elif code != 0:
                logger.error("%s", died)
                self._status = self._status or 1

    def _postpone(self, place: _Place, why: str) -> None:
        now = self._system.now()
        lived = now - place.began
        place.delay = _FIRST_DELAY if lived >= _LONGEST_DELAY else min(_LONGEST_DELAY, place.delay * 2 or _FIRST_DELAY)
        place.due = now + place.delay
        logger.error("%s; the next one starts in %g s", why, place.delay)

    # Starting

    def _start_workers(self) -> None:
        now = self._system.now()
        if self._deadline is None:
            for place in self._places:
                if place.pid is None and place.due <= now:
                    self._start(place)

    def _start(self, place: _Place) -> None:
        place.began = self._system.now()
        try:
            ours, theirs = socket.socketpair()
            try:
                _flush()
                pid = self._system.fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
        except OSError as error:
            self._postpone(place, f"worker {place.number} cannot be started: {error.strerror}")
            return
        ours.setblocking(False)  # a worker that hangs must not hang the supervisor
        place.pid, place.orders = pid, ours
        if pid == 0:
            self._be_worker(place, theirs)
        theirs.close()
        logger.info("worker %d is process %d", place.number, pid)

    def _be_worker(self, place: _Place, orders: socket.socket) -> NoReturn:
        code = 1
        try:
            for other in self._places:
                if other.orders is not None:
                    other.orders.close()
            own = {sock for each in self._listening for sock in each.sockets[place.number]}
            for each in self._listening:
                for sock in {sock for sockets in each.sockets for sock in sockets} - own:
                    sock.close()
            served = [(each.server, each.sockets[place.number]) for each in self._listening]
            trio.run(work, served, orders, self._reload, self._reloaded)
            code = 0
        except BaseException:
            logger.exception("worker %d failed", place.number)
        finally:
            _flush()
            self._system.exit(code)


def _nothing() -> None:
    pass


def _flush() -> None:
    """What was written is written once: a child has a copy of the buffers."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it, it is closed, there is none
            stream.flush()


# A worker


async def work(
    served: Sequence[tuple[SMTPServer, Sequence[socket.socket]]],
    orders: socket.socket,
    reload: Reload | None = None,
    reload_first: bool = False,
) -> None:
    """Serve until the supervisor, or a SIGTERM of this process's own, has it drained.

    Args:
        served: The servers and their listening sockets, which are closed at the end.
        orders: What the supervisor says; closed at the end. When the other end is closed, this one drains.
        reload: See `serve_workers`.
        reload_first: The supervisor was told to reload before this worker was.
    """
    servers = [server for server, _ in served]
    loading = trio.Lock()
    first_load = trio.CancelScope()

    def drain() -> None:
        first_load.cancel()
        for server in servers:
            server.drain()

    async def load_anew() -> None:
        if reload is not None:
            async with loading:
                for server in servers:
                    try:
                        await reload(server)
                    except Exception:
                        logger.exception("reload failed")

    async def obey_signals(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                drain()

    async def obey_supervisor() -> None:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(orders)) as stream:
            async for chunk in stream:
                if _STOP in chunk:
                    nursery.cancel_scope.cancel()
                if _DRAIN in chunk:
                    drain()
                if _RELOAD in chunk:
                    nursery.start_soon(load_anew)
        logger.warning("the supervisor is gone: draining")
        drain()

    async with trio.open_nursery() as nursery:
        await nursery.start(obey_signals)
        nursery.start_soon(obey_supervisor)
        if reload_first:
            with first_load:
                await load_anew()
        async with trio.open_nursery() as serving:
            for server, sockets in served:
                listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
                await serving.start(server.serve_listeners, listeners)
        nursery.cancel_scope.cancel()


# The library's


def _inside_a_run() -> bool:
    # trio.lowlevel.in_trio_run is younger than the oldest trio that will do.
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def serve_workers(
    app: App,
    config: Config | Sequence[Config] | None = None,
    *,
    workers: int,
    sockets: Sequence[socket.socket] | None = None,
    started: Callable[[list[socket.socket]], object] | None = None,
    reload: Reload | None = None,
) -> int:
    """Serve in several processes that share the listeners, until signals end them.

    It stands in place of ``trio.run(serve, app, config)``, and is a plain function: processes are forked, which is
    safe only as long as there is no event loop and no other thread in this one. What the program made before the call
    is in every worker, a copy each: `SMTPServer.stats`, `App.state`, and all limits of the Config on connections are
    a worker's own.

    SIGTERM and SIGINT have every worker drain; a second one stops them at once, a third one kills them. What has not
    ended 40 seconds after its `drain_timeout` is killed. A worker that ends by itself is replaced, after a tenth
    of a second at first and ten seconds at most when it happens again and again. When this process dies, the workers
    drain. SIGTERM to a worker has it drain, and then replaced.

    Args:
        app: The handlers.
        config: Where to listen, and limits; several for several listeners. None: a `Config` with its defaults.
        workers: How many processes serve.
        sockets: Listening sockets in place of what the Config names, such as those of a service manager; closed at the
            end.
        started: Called once with the listening sockets, one for each address, before the first worker starts.
        reload: An async function that is awaited in each worker with each of its servers on SIGHUP, for
            `SMTPServer.reload_tls` and the like; also as a worker starts in the place of another, after a SIGHUP.
            None: SIGHUP is not touched.

    Returns:
        An exit code: 0 after a drain, 1 when a worker did not end well then, 128 and a signal's number when that
        stopped them.

    Raises:
        OSError: An address cannot be had.
        RuntimeError: Called where no process may be forked: inside a running event loop, from a thread that is not the
            main one, or on a system without ``os.fork``.
        ValueError: `workers` is no positive number, or `sockets` stand beside more than one Config.
    """
    _check_that_it_can_fork()
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers!r}")
    configs = [config] if config is None or isinstance(config, Config) else list(config)
    if not configs or (sockets is not None and len(configs) != 1):
        raise ValueError(f"{len(configs)} Configs: there must be one at least, and one alone where sockets are given")
    servers = [SMTPServer(app, each) for each in configs]
    listening = _listen(servers, workers) if sockets is None else [Listening(servers[0], [sockets] * workers)]
    opened = [sock for each in listening for sock in each.sockets[0]]
    return Supervisor(listening, workers, started=started and (lambda: started(opened)), reload=reload).run()


def _check_that_it_can_fork() -> None:
    if not hasattr(os, "fork"):
        raise RuntimeError("serve_workers needs os.fork, which this system does not have")
    if _inside_a_run():
        raise RuntimeError("serve_workers runs event loops of its own: call it in place of trio.run, not inside it")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve_workers must be called from the main thread: signals come there")


def _listen(servers: Sequence[SMTPServer], workers: int) -> list[Listening]:
    """Open what all of them need, or nothing."""
    listening: list[Listening] = []
    try:
        for server in servers:
            listening.append(listen(server, workers))  # noqa: PERF401 - those opened so far are closed
    except BaseException:
        for each in listening:
            each.close()
        raise
    return listening
