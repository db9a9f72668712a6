"""One worker: a process that serves listening sockets until its supervisor, or a SIGTERM, has it drain."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from .server import SMTPServer, close_listeners
from .serving import serve_listening, take_sockets

__all__ = ["DRAIN", "RELOAD", "STOP", "Reload", "work"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: Awaited with each server of a worker when certificates and the like are to be loaded anew.
Reload = Callable[[SMTPServer], Awaitable[object]]

#: The orders of a supervisor, an octet each.
DRAIN, STOP, RELOAD = b"d", b"s", b"r"


async def work(
    served: Sequence[tuple[SMTPServer, Sequence[socket.socket]]],
    orders: socket.socket,
    reload: Reload | None = None,
    reload_first: bool = False,
) -> None:
    """Serve until an order of the supervisor, or a SIGTERM to this process, ends it.

    Args:
        served: The servers and their listening sockets, which are closed at the end.
        orders: The worker's end of the supervisor's socket pair; closed at the end. When the supervisor's end is
            closed, the worker drains.
        reload: See `serve_workers`.
        reload_first: Reload before serving: the supervisor was told to reload before this worker began.
    """
    worker = _Worker([server for server, _ in served], reload)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.obey_signals)
        nursery.start_soon(worker.obey_supervisor, orders, nursery)
        if reload_first:
            with worker.first_load:
                await worker.load_anew()
        await worker.serve(served)
        nursery.cancel_scope.cancel()


class _Worker:
    """What is done to the servers of a worker when an order or a signal comes."""

    def __init__(self, servers: Sequence[SMTPServer], reload: Reload | None) -> None:
        self._servers = servers
        self._reload = reload
        # One reload after the other: a slow one must not end with older certificates than a quick one after it.
        self._reloading = trio.Lock()
        #: Around the reload before serving; a drain does not wait for it.
        self.first_load = trio.CancelScope()
        # Around serving, as long as lifespans are being entered: a drain does not wait for that either.
        self._starting: trio.CancelScope | None = None

    async def serve(self, served: Sequence[tuple[SMTPServer, Sequence[socket.socket]]]) -> None:
        """Serve to the end; see `work`."""
        listening = [(server, take_sockets(server, sockets)) for server, sockets in served]
        try:
            with trio.CancelScope() as self._starting:
                await serve_listening(listening, self._started)
        finally:
            for server, listeners in listening:
                await close_listeners(server, listeners)

    def _started(self) -> None:
        self._starting = None

    def drain(self) -> None:
        """Drain all servers."""
        self.first_load.cancel()
        if self._starting is not None:
            self._starting.cancel()
        for server in self._servers:
            server.drain()

    async def load_anew(self) -> None:
        """Reload for each server; a failure is logged and ends nothing."""
        if self._reload is None:
            return
        async with self._reloading:
            for server in self._servers:
                try:
                    await self._reload(server)
                except Exception:
                    logger.exception("reload failed")

    async def obey_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Drain at each SIGTERM; runs until it is cancelled."""
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self.drain()

    async def obey_supervisor(self, orders: socket.socket, nursery: trio.Nursery) -> None:
        """Do what the supervisor orders until its end of the socket pair is closed, and then drain.

        Args:
            orders: Closed at the end.
            nursery: Runs the reloads; cancelled by STOP.
        """
        async with trio.SocketStream(trio.socket.from_stdlib_socket(orders)) as stream:
            async for chunk in stream:
                if STOP in chunk:
                    nursery.cancel_scope.cancel()
                if DRAIN in chunk:
                    self.drain()
                if RELOAD in chunk:
                    nursery.start_soon(self.load_anew)
        logger.warning("the supervisor is gone: draining")
        self.drain()
